//! Lance's errors as ours: the kind that says what the caller can do, and no source-code places in the message.

use crate::error::{Error, ErrorKind, disk_full, is_full_disk};

/// What is said of a data file that is gone, with the way out: a new statement reads a newer version.
const MISSING_FILE: &str = "a file of the version that this statement reads is gone: COMPACT removed it, or the \
                            folder is damaged; run it again, and if it comes again, `saequel doctor`";

/// How Lance and what lies below it tell of a file that is cut off or holds something else, as if reading had failed.
const DAMAGED: [&str; 5] =
    ["file size is too small", "Invalid range", "agic number", "failed to decode Protobuf", "early eof"];

/// Turns a Lance error into ours; `what` says what was being done to what, e.g. `writing corpus 'answers'`.
pub(super) fn lance_error(what: &str, error: &lance::Error) -> Error {
    if is_full_disk(error) {
        return disk_full(&format!("({what})"));
    }
    let text = error.to_string();
    let kind = kind(error);
    if is_missing_file(error, kind, &text) {
        let message = format!("{what}: {MISSING_FILE}: {}", without_places(&text));
        return Error::new(ErrorKind::Io, message);
    }
    let kind = match kind {
        ErrorKind::Internal | ErrorKind::Io if text.contains("Not found: ") => ErrorKind::Corrupt,
        ErrorKind::Internal | ErrorKind::Io if DAMAGED.iter().any(|said| text.contains(said)) => {
            let said = without_places(text.strip_prefix("LanceError(IO): ").unwrap_or(&text));
            return Error::new(ErrorKind::Corrupt, format!("{what}: a file is damaged or cut off ({said})"));
        }
        kind => kind,
    };
    Error::new(kind, format!("{what}: {}", without_places(&text)))
}

/// Whether a data file is gone. It may come through two libraries that keep only its text.
fn is_missing_file(error: &lance::Error, kind: ErrorKind, text: &str) -> bool {
    let said = matches!(kind, ErrorKind::Internal | ErrorKind::Io) && text.contains("Not found: ");
    let is_file = text.contains(".lance") && text.contains("/data/");
    is_file && (said || error.is_not_found())
}

fn kind(error: &lance::Error) -> ErrorKind {
    use lance::Error as Lance;
    match error {
        Lance::InvalidInput { .. } | Lance::SchemaMismatch { .. } | Lance::FieldNotFound { .. } => ErrorKind::Query,
        Lance::DatasetNotFound { .. } | Lance::CorruptFile { .. } | Lance::NotFound { .. } => ErrorKind::Corrupt,
        Lance::VersionNotFound { .. } | Lance::RefNotFound { .. } => ErrorKind::NotFound,
        Lance::CommitConflict { .. }
        | Lance::RetryableCommitConflict { .. }
        | Lance::TooMuchWriteContention { .. }
        | Lance::Timeout { .. } => ErrorKind::Io,
        Lance::DiskCapExceeded { .. } => ErrorKind::Resources,
        // These may pass on another of Lance's, on its way through a library between.
        Lance::IO { source, .. } => first_of_lance(source.as_ref()).map_or(ErrorKind::Io, kind),
        Lance::External { source } | Lance::Wrapped { error: source, .. } => {
            first_of_lance(source.as_ref()).map_or(ErrorKind::Internal, kind)
        }
        _ => ErrorKind::Internal,
    }
}

/// The error itself or the first one below it that is Lance's.
fn first_of_lance<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a lance::Error> {
    let mut chain = std::iter::successors(Some(error), |error| error.source());
    chain.find_map(|error| error.downcast_ref())
}

/// The Lance error behind an error that a query ended with, as ours; `None` if it is none of Lance's.
pub(crate) fn from_lance(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let error = first_of_lance(error)?;
    let found = lance_error("reading the database", error);
    Some(match error {
        // A value that a filter's cast does not take.
        lance::Error::Arrow { .. } | lance::Error::Execution { .. } => Error::new(ErrorKind::Data, found.message()),
        lance::Error::Schema { .. } | lance::Error::Index { .. } => Error::new(ErrorKind::Corrupt, found.message()),
        _ => found,
    })
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
    fn a_data_file_that_is_gone_may_be_tried_again() {
        let gone = "Object at location /db/corpora/a.lance/data/01.lance not found";
        let error = lance_error("reading", &lance::Error::not_found(gone));
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.message().contains("run it again"), "{error}");
        let error = lance_error("reading", &lance::Error::not_found("/db/corpora/a.lance/_versions/1.manifest"));
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn places_in_foreign_source_are_cut() {
        assert_eq!(
            without_places("LanceError(IO): gone, /x/y/src/a.rs:12:34, more, src/b.rs:1:2"),
            "LanceError(IO): gone, more"
        );
        assert_eq!(without_places("plain"), "plain");
    }
}
