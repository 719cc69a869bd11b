//! What a dictionary may be called.

use super::artifact::is_shipped;
use crate::error::{Error, ErrorKind, Result};

/// Characters of a dictionary's name, at most.
const LONGEST: usize = 120;

/// Checks a name that becomes a file name and a part of column names: lower-case letters, digits, `_` and `also`,
/// beginning with a letter.
///
/// # Errors
/// [`ErrorKind::Query`] with a name that would do.
pub fn check_name(what: &str, name: &str, longest: usize, also: Option<char>) -> Result<()> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || also == Some(c);
    if name.chars().all(allowed) && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.len() <= longest {
        return Ok(());
    }
    let mut proposal: String = name.to_lowercase().chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    if !proposal.starts_with(|c: char| c.is_ascii_lowercase()) {
        proposal.insert_str(0, "c_");
    }
    proposal.truncate(longest);
    let marks = also.map_or_else(|| "_".to_owned(), |also| format!("_ and {also}"));
    let message = format!(
        "'{}' cannot be the name of a {what}: use lower-case letters, digits, {marks}, beginning with a letter, at \
         most {longest} characters; for example '{proposal}'",
        name.escape_debug()
    );
    Err(Error::new(ErrorKind::Query, message))
}

/// Checks the name of a dictionary.
///
/// # Errors
/// As [`check_name`].
pub fn check_dictionary_name(name: &str) -> Result<()> {
    check_name("dictionary", name, LONGEST, Some('-'))
}

/// Checks the name of a dictionary that is to be made, which no database has already.
///
/// # Errors
/// As [`check_name`]; [`ErrorKind::Exists`] for the name of one that is built in.
pub(super) fn check_new(name: &str) -> Result<()> {
    check_dictionary_name(name)?;
    match is_shipped(name) {
        true => {
            let message = format!("dictionary '{name}' is built in; give the new one another name (--name)");
            Err(Error::new(ErrorKind::Exists, message))
        }
        false => Ok(()),
    }
}

/// A name that [`check_new`] lets through, as near to `wish` as may be.
pub(super) fn nearest(wish: &str) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-';
    let mut name: String = wish.to_lowercase().chars().map(|c| if allowed(c) { c } else { '-' }).collect();
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        name.insert_str(0, "sae-");
    }
    // The end tells more: layer, level and width.
    if name.len() > LONGEST {
        name.replace_range(..name.len() - (LONGEST - "sae-".len()), "sae-");
    }
    if is_shipped(&name) {
        name.push_str("-own");
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_cannot_be_are_refused_and_wishes_are_met() {
        for wrong in ["", ".", "../x", "a/b", "qwen2.5-l4", "a\nb", "Ab", "1a", "ä", &"a".repeat(300)] {
            let error = check_new(wrong).unwrap_err();
            assert!(error.kind() == ErrorKind::Query && error.message().contains("for example '"), "{error}");
            assert!(!error.message().contains('\n'), "{error}");
            check_new(&nearest(wrong)).unwrap();
        }
        assert_eq!(check_new("minilm-l4-span-2048").unwrap_err().kind(), ErrorKind::Exists);
        assert_eq!(nearest("Qwen2.5-0.5B-l4-token-16"), "qwen2-5-0-5b-l4-token-16");
        assert_eq!(nearest("minilm-l4-token-4096"), "minilm-l4-token-4096-own");
        assert!(nearest(&format!("{}-l4-token-16", "x".repeat(300))).ends_with("xxx-l4-token-16"));
    }
}
