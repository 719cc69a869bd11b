//! The engine's error: what kind it is, what it says, and what caused it.

use std::fmt;

pub use saequel_encoder::ErrorKind;

/// Result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with its kind. The message names the thing, what was expected, what came, and the way out.
///
/// The encoder's error with conversions from and to those of queries.
pub struct Error(saequel_encoder::Error);

/// Bytes of a message beyond which it is cut: some repeat what was written, which may have no end.
const LONGEST: usize = 8_000;
/// Characters of both ends that are kept then.
const KEPT: (usize, usize) = (2_000, 1_000);

fn shortened(message: String) -> String {
    if message.len() <= LONGEST {
        return message;
    }
    let start: String = message.chars().take(KEPT.0).collect();
    let end = message.char_indices().rev().nth(KEPT.1 - 1).map_or(0, |(at, _)| at);
    format!("{start} ... {}", &message[end.max(start.len())..])
}

impl Error {
    /// An error of `kind` that says `message`: lowercase, no full stop. A very long one is cut in its middle.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(saequel_encoder::Error::new(kind, shortened(message.into())))
    }

    /// The same with the error that caused it.
    #[must_use]
    pub fn with_source(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self(self.0.with_source(source))
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind()
    }

    /// What happened, without the cause.
    pub fn message(&self) -> &str {
        self.0.message()
    }

    /// The same error with `context: ` before its message.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self(self.0.context(context))
    }
}

impl From<saequel_encoder::Error> for Error {
    fn from(error: saequel_encoder::Error) -> Self {
        Self(error)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// An I/O error on `path`; a full disk is said so, with the way out.
pub(crate) fn io_error(what: &str, path: &std::path::Path, error: std::io::Error) -> Error {
    let kind = match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        _ => ErrorKind::Io,
    };
    if is_full_disk(&error) {
        return disk_full(&path.display().to_string());
    }
    Error::new(kind, format!("{what}: {}", path.display())).with_source(error)
}

/// Whether an error, or what caused it, is a full disk or an exhausted quota.
pub(crate) fn is_full_disk(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            use std::io::ErrorKind::{QuotaExceeded, StorageFull};
            if matches!(io.kind(), StorageFull | QuotaExceeded) {
                return true;
            }
            // An error that wraps another answers `source()` with the source of the inner one: look at the inner one.
            if io.get_ref().is_some_and(|inner| is_full_disk(inner)) {
                return true;
            }
        }
        next = error.source();
    }
    // Some libraries keep only the text of the cause.
    let text = error.to_string();
    text.contains("No space left on device") || text.contains("os error 28") || text.contains("Disk quota exceeded")
}

/// The message for a full disk.
pub(crate) fn disk_full(place: &str) -> Error {
    Error::new(
        ErrorKind::Io,
        format!(
            "no space left on the disk while writing {place}; everything up to the last commit is intact: free some \
             space and run the same command again, it continues where it stopped"
        ),
    )
}

/// The name in `names` that is spelt most like `wanted`, if one is near enough to be meant.
pub(crate) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    use datafusion::common::utils::datafusion_strsim::levenshtein;
    let lower = wanted.to_lowercase();
    let (distance, name) = names.into_iter().map(|name| (levenshtein(&lower, &name.to_lowercase()), name)).min()?;
    (distance <= 1 + wanted.chars().count() / 3).then_some(name)
}

/// `; did you mean 'x'?` with the name nearest to `wanted`, or the names there are if none is near, or nothing.
pub(crate) fn did_you_mean<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.into_iter().collect();
    match nearest(wanted, names.iter().copied()) {
        Some(name) => format!("; did you mean '{name}'?"),
        None if names.is_empty() => String::new(),
        None if names.len() <= 20 => format!("; there are: {}", names.join(", ")),
        None => format!("; there are {} of them, among them: {}, ...", names.len(), names[..10].join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_has_an_end() {
        let error = Error::new(ErrorKind::Query, format!("column '{}' not found; see here", "ü".repeat(100_000)));
        let message = error.message();
        assert!(message.starts_with("column 'üü") && message.ends_with("ü' not found; see here"), "{}", &message[..50]);
        assert_eq!(message.chars().count(), 3_005);
    }

    #[test]
    fn full_disk_is_found_below_other_errors() {
        let deep =
            std::io::Error::other(Error::new(ErrorKind::Io, "x").with_source(std::io::Error::from_raw_os_error(28)));
        assert!(is_full_disk(&deep));
        assert!(!is_full_disk(&std::io::Error::from_raw_os_error(2)));
    }

    #[test]
    fn near_names_are_offered() {
        assert_eq!(did_you_mean("answer", ["answers", "news"]), "; did you mean 'answers'?");
        assert_eq!(did_you_mean("zzzzzz", ["answers", "news"]), "; there are: answers, news");
        assert_eq!(did_you_mean("x", []), "");
    }
}
