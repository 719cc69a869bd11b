//! Lance's errors as ours: the kind that says what the caller can do, and no source-code places in the message.

use crate::error::{Error, ErrorKind, disk_full, is_full_disk};

/// Turns a Lance error into ours; `what` says what was being done to what, e.g. `writing corpus 'answers'`.
pub(super) fn lance_error(what: &str, error: lance::Error) -> Error {
    if is_full_disk(&error) {
        return disk_full(&format!("({what})"));
    }
    use lance::Error as Lance;
    let kind = match &error {
        Lance::InvalidInput { .. } | Lance::SchemaMismatch { .. } | Lance::FieldNotFound { .. } => ErrorKind::Query,
        Lance::DatasetNotFound { .. } | Lance::CorruptFile { .. } | Lance::NotFound { .. } => ErrorKind::Corrupt,
        Lance::VersionNotFound { .. } | Lance::RefNotFound { .. } => ErrorKind::NotFound,
        Lance::IO { .. }
        | Lance::CommitConflict { .. }
        | Lance::RetryableCommitConflict { .. }
        | Lance::TooMuchWriteContention { .. }
        | Lance::Timeout { .. } => ErrorKind::Io,
        Lance::DiskCapExceeded { .. } => ErrorKind::Resources,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, format!("{what}: {}", without_places(&error.to_string())))
}

/// Cuts `, .../file.rs:12:34` out of a message: the library adds them for its own developers.
fn without_places(message: &str) -> String {
    let mut text = message.to_owned();
    while let Some(end) = text.find(".rs:") {
        let start = text[..end].rfind(", ").or_else(|| text[..end].rfind(' ')).unwrap_or(0);
        let tail =
            text[end + 4..].find(|c: char| !c.is_ascii_digit() && c != ':').map_or(text.len(), |at| end + 4 + at);
        text.replace_range(start..tail, "");
    }
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_foreign_source_are_cut() {
        assert_eq!(
            without_places("LanceError(IO): gone, /x/y/src/a.rs:12:34, more, src/b.rs:1:2"),
            "LanceError(IO): gone, more"
        );
        assert_eq!(without_places("plain"), "plain");
    }
}
