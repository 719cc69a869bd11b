//! What goes wrong on a connection, and how a client is told: severity, SQLSTATE, message, hint, position.

use pgwire::messages::response::{ErrorResponse, NoticeResponse};
use saequel_engine::ErrorKind;

use crate::error::{Failure, UNAUTHENTICATED};

/// What is told to a client.
#[derive(Debug, Clone)]
pub(super) struct Report {
    severity: &'static str,
    /// Five characters.
    pub(super) sqlstate: &'static str,
    message: String,
    hint: Option<String>,
    /// Where in the text of the engine's statement, in lines and columns from 1.
    place: Option<(usize, usize)>,
    /// Where in the text that the client sent, in characters from 1.
    position: Option<usize>,
}

impl Report {
    /// An error that ends a statement.
    pub(super) fn error(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { severity: "ERROR", sqlstate, message: message.into(), hint: None, place: None, position: None }
    }

    /// An error that ends the connection.
    pub(super) fn fatal(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { severity: "FATAL", ..Self::error(sqlstate, message) }
    }

    /// Something to know that ends nothing.
    pub(super) fn warning(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self { severity: "WARNING", ..Self::error(sqlstate, message) }
    }

    /// The same, ending the connection.
    pub(super) fn into_fatal(self) -> Self {
        Self { severity: "FATAL", ..self }
    }

    /// The same with a way out.
    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Turns line and column of `planned`, what the engine was given, into a position in `sent`, which holds it from byte
    /// `offset` on. Where our rewriting changed what stands before the place, nothing is said rather than something wrong.
    pub(super) fn locate(&mut self, planned: &str, sent: &str, offset: usize) {
        let Some((line, column)) = self.place.take() else { return };
        let Some(original) = sent.get(offset..) else { return };
        let start = planned.split_inclusive('\n').take(line - 1).map(str::len).sum::<usize>();
        let Some(rest) = planned.get(start..) else { return };
        let at = start + rest.chars().take(column - 1).map(char::len_utf8).sum::<usize>();
        let same = planned.bytes().zip(original.bytes()).take_while(|(a, b)| a == b).count();
        if at <= same {
            self.position = sent.get(..offset + at).map(|before| before.chars().count() + 1);
        }
    }

    /// Counts the position from the beginning of `script`, of which the statement is what begins at byte `offset`.
    fn shift(&mut self, script: &str, offset: usize) {
        if let (Some(position), Some(before)) = (&mut self.position, script.get(..offset)) {
            *position += before.chars().count();
        }
    }

    fn fields(&self) -> Vec<(u8, String)> {
        // A zero byte would end the field.
        let clean = |text: &str| text.replace('\0', "\u{fffd}");
        let mut fields = vec![
            (b'S', self.severity.to_owned()),
            (b'V', self.severity.to_owned()),
            (b'C', self.sqlstate.to_owned()),
            (b'M', clean(&self.message)),
        ];
        fields.extend(self.hint.as_deref().map(|hint| (b'H', clean(hint))));
        fields.extend(self.position.map(|position| (b'P', position.to_string())));
        fields
    }

    /// As an error.
    pub(super) fn response(&self) -> ErrorResponse {
        ErrorResponse::new(self.fields())
    }

    /// As a notice.
    pub(super) fn notice(&self) -> NoticeResponse {
        NoticeResponse::new(self.fields())
    }
}

impl From<&Failure> for Report {
    fn from(failure: &Failure) -> Self {
        // A revoked or expired token ends the connection.
        let is_over = failure.wire() == UNAUTHENTICATED;
        Self {
            severity: if is_over { "FATAL" } else { "ERROR" },
            sqlstate: failure.sqlstate(),
            message: failure.line(),
            hint: failure.way_out().map(str::to_owned),
            place: place(failure.error().message()),
            position: None,
        }
    }
}

/// `line L, column C` in a message.
fn place(message: &str) -> Option<(usize, usize)> {
    let mut from = 0;
    while let Some(found) = message[from..].find("line ") {
        let rest = &message[from + found + 5..];
        from += found + 5;
        let Some((line, rest)) = rest.split_once(", column ") else { continue };
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        if let (Ok(line), Ok(column)) = (line.parse::<usize>(), rest[..digits].parse::<usize>())
            && line > 0
            && column > 0
        {
            return Some((line, column));
        }
    }
    None
}

/// Why something could not be done.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The statement failed; the connection goes on.
    Statement(Report),
    /// The connection ends after this was told.
    Fatal(Report),
    /// The client has gone.
    Gone,
}

/// Result of handling a message.
pub(super) type Result<T, E = Trouble> = std::result::Result<T, E>;

impl Trouble {
    /// The statement failed with `sqlstate`.
    pub(super) fn new(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Self::Statement(Report::error(sqlstate, message))
    }

    /// The client breaks the protocol.
    pub(super) fn protocol(message: impl Into<String>) -> Self {
        Self::Fatal(Report::fatal("08P01", message))
    }

    /// The same with a way out.
    #[must_use]
    pub(super) fn hint(self, hint: impl Into<String>) -> Self {
        match self {
            Self::Statement(report) => Self::Statement(report.hint(hint)),
            Self::Fatal(report) => Self::Fatal(report.hint(hint)),
            Self::Gone => Self::Gone,
        }
    }

    /// As [`Report::locate`].
    #[must_use]
    pub(super) fn located(mut self, planned: &str, sent: &str, offset: usize) -> Self {
        if let Self::Statement(report) = &mut self {
            report.locate(planned, sent, offset);
        }
        self
    }
}

impl Trouble {
    /// As of a statement that begins at byte `offset` of `script`.
    #[must_use]
    pub(super) fn shifted(mut self, script: &str, offset: usize) -> Self {
        if let Self::Statement(report) = &mut self {
            report.shift(script, offset);
        }
        self
    }
}

impl From<Report> for Trouble {
    fn from(report: Report) -> Self {
        if report.severity == "FATAL" { Self::Fatal(report) } else { Self::Statement(report) }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        if failure.is_reader_gone() { Self::Gone } else { Report::from(&failure).into() }
    }
}

impl From<std::io::Error> for Trouble {
    fn from(_: std::io::Error) -> Self {
        Self::Gone
    }
}

impl From<arrow::error::ArrowError> for Trouble {
    fn from(error: arrow::error::ArrowError) -> Self {
        Failure::from(error).into()
    }
}

/// The client cancelled.
pub(super) fn cancelled() -> Trouble {
    Failure::new(ErrorKind::Cancelled, "the query was cancelled").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_becomes_a_position_in_what_was_sent() {
        let sent = "SELECT 1;  SELECT ü,\n  nmae FROM a";
        let planned = "SELECT ü,\n  nmae FROM a";
        let failure = Failure::usage("line 2, column 3: column 'nmae' not found");
        let mut report = Report::from(&failure);
        report.locate(planned, sent, 11);
        assert_eq!(report.position, Some(24));
        assert!(report.fields().contains(&(b'P', "24".to_owned())));

        let mut rewritten = Report::from(&failure);
        rewritten.locate("SELECT u,\n  nmae FROM a", sent, 11);
        assert_eq!(rewritten.position, None, "what stands before was rewritten");
        assert_eq!(place("at line 3 of a file, at line 12, column 7: x"), Some((12, 7)));
        assert_eq!((place("line x, column 1"), place("line 0, column 1"), place("")), (None, None, None));
    }
}
