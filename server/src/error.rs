//! What went wrong, side by side for each door: exit code of the program, HTTP status, SQLSTATE, and the way out.

use std::fmt;

use datafusion::error::DataFusionError;
use saequel_engine::{EncoderError, Error, ErrorKind};

/// Everything was done.
pub const EXIT_OK: u8 = 0;
/// Our mistake.
pub const EXIT_INTERNAL: u8 = 1;
/// The command line or the statement is wrong.
pub const EXIT_USAGE: u8 = 2;
/// The data, a stored file or a weight file is bad.
pub const EXIT_DATA: u8 = 3;
/// Something named does not exist.
pub const EXIT_NOT_FOUND: u8 = 4;
/// Not allowed.
pub const EXIT_DENIED: u8 = 5;
/// Disk, network or memory.
pub const EXIT_RESOURCES: u8 = 6;
/// Stopped by the user (128 + SIGINT).
pub const EXIT_CANCELLED: u8 = 130;

/// The paragraph of `--help` about exit codes.
pub const EXIT_CODES_HELP: &str = "\
Exit codes:
  0    done
  1    internal error: please report it
  2    the command line or the SQL statement is wrong, or a name is taken
  3    bad data: a broken line, a missing column, a damaged file
  4    something named does not exist (database, corpus, feature, file)
  5    not allowed (read-only, outside the allowed folders)
  6    disk, network or memory: try again, free space, or raise --memory
  130  stopped with Ctrl-C";

/// How an [`ErrorKind`] shows at each door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wire {
    /// Name in JSON, e.g. `not_found`.
    pub name: &'static str,
    /// Exit code of the program.
    pub exit: u8,
    /// HTTP status.
    pub http: u16,
    /// SQLSTATE, five characters.
    pub sqlstate: &'static str,
    /// Status of gRPC.
    pub grpc: tonic::Code,
}

/// Nobody said who asks, or with a token that is unknown, revoked or expired.
pub const UNAUTHENTICATED: Wire = Wire {
    name: "unauthenticated",
    exit: EXIT_DENIED,
    http: 401,
    sqlstate: "28P01",
    grpc: tonic::Code::Unauthenticated,
};
/// Too much at once: try again later.
pub const TOO_MANY: Wire =
    Wire { name: "too_many", exit: EXIT_RESOURCES, http: 429, sqlstate: "53300", grpc: tonic::Code::ResourceExhausted };
/// The request, or a value in it, is larger than is taken.
pub const TOO_LARGE: Wire =
    Wire { name: "too_large", exit: EXIT_USAGE, http: 413, sqlstate: "54000", grpc: tonic::Code::OutOfRange };
/// The server is stopping.
pub const STOPPING: Wire =
    Wire { name: "stopping", exit: EXIT_RESOURCES, http: 503, sqlstate: "57P01", grpc: tonic::Code::Unavailable };
/// The query whose results are asked for has not ended: ask again later.
pub const NOT_ENDED: Wire =
    Wire { name: "not_ended", exit: EXIT_RESOURCES, http: 425, sqlstate: "55000", grpc: tonic::Code::Unavailable };
/// Understood, and not to be had here.
pub const UNSUPPORTED: Wire =
    Wire { name: "unsupported", exit: EXIT_USAGE, http: 501, sqlstate: "0A000", grpc: tonic::Code::Unimplemented };

/// Why a GET may not do what changes the database.
pub const A_GET: &str = "a GET never writes";
/// Why nobody may, of a server without `--write`.
pub const A_READER: &str = "this server only reads";

/// The table of kinds.
pub fn wire(kind: ErrorKind) -> Wire {
    use tonic::Code;
    let (name, exit, http, sqlstate, grpc) = match kind {
        ErrorKind::Query => ("query", EXIT_USAGE, 400, "42601", Code::InvalidArgument),
        ErrorKind::NotFound => ("not_found", EXIT_NOT_FOUND, 404, "42P01", Code::NotFound),
        ErrorKind::Exists => ("exists", EXIT_USAGE, 409, "42P07", Code::AlreadyExists),
        ErrorKind::Data => ("data", EXIT_DATA, 422, "22000", Code::InvalidArgument),
        ErrorKind::Corrupt => ("corrupt", EXIT_DATA, 500, "XX001", Code::DataLoss),
        ErrorKind::Denied => ("denied", EXIT_DENIED, 403, "42501", Code::PermissionDenied),
        ErrorKind::Io => ("io", EXIT_RESOURCES, 503, "58030", Code::Unavailable),
        ErrorKind::Resources => ("resources", EXIT_RESOURCES, 503, "53200", Code::ResourceExhausted),
        ErrorKind::Cancelled => ("cancelled", EXIT_CANCELLED, 504, "57014", Code::Cancelled),
        _ => ("internal", EXIT_INTERNAL, 500, "XX000", Code::Internal),
    };
    Wire { name, exit, http, sqlstate, grpc }
}

/// An error on its way to a user: the engine's, with the way out where there is one that the message does not name.
#[derive(Debug)]
pub struct Failure {
    error: Error,
    hint: Option<String>,
    wire: Option<Wire>,
    reader_gone: bool,
}

/// Result of a command.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    /// An error of `kind` that says `message`: lowercase, no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error::new(kind, message).into()
    }

    /// A mistake in arguments.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Query, message)
    }

    /// The same with a way out.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same, shown at each door as `wire` rather than by its kind.
    #[must_use]
    pub fn shown_as(mut self, wire: Wire) -> Self {
        self.wire = Some(wire);
        self
    }

    /// The engine's error.
    pub fn error(&self) -> &Error {
        &self.error
    }

    /// Whether it is only that whoever read the output has gone (`| head`): nothing went wrong, and nobody is to be told.
    pub fn is_reader_gone(&self) -> bool {
        self.reader_gone
    }

    /// What the caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.error.kind()
    }

    /// How it shows at each door.
    pub fn wire(&self) -> Wire {
        self.wire.unwrap_or_else(|| wire(self.kind()))
    }

    /// SQLSTATE for drivers and BI tools: that of the kind, or a finer one where the message tells.
    pub fn sqlstate(&self) -> &'static str {
        if let Some(wire) = self.wire {
            return wire.sqlstate;
        }
        let message = self.error.message();
        refined(self.kind(), position(message).map_or(message, |(_, _, rest)| rest))
            .unwrap_or_else(|| wire(self.kind()).sqlstate)
    }

    /// Line and column of the statement that the message points at, counted from 1.
    pub fn position(&self) -> Option<(u64, u64)> {
        position(self.error.message()).map(|(line, column, _)| (line, column))
    }

    /// The way out, given or general.
    pub fn way_out(&self) -> Option<&str> {
        if let Some(hint) = &self.hint {
            return Some(hint);
        }
        match self.kind() {
            ErrorKind::Denied if self.error.message().ends_with(A_GET) => Some("send it with POST"),
            ErrorKind::Denied if self.error.message().ends_with(A_READER) => {
                Some("start it with `saequel serve --write`")
            }
            ErrorKind::Internal => Some("this is a mistake in saequel; please report it with the statement"),
            ErrorKind::Resources if self.error.message().ends_with("ask for less at once") => None,
            ErrorKind::Resources => Some("raise --memory, or ask for less with WHERE or LIMIT"),
            // A file that the message names need not be of a database.
            ErrorKind::Corrupt if self.error.message().ends_with("put it there again") => None,
            ErrorKind::Corrupt => Some("`saequel doctor` looks at every part of a database and says what can be done"),
            _ => None,
        }
    }

    /// The message on one line, with its causes.
    pub fn line(&self) -> String {
        one_line(&self.error.to_string())
    }
}

/// `line 1, column 8: column 'x' not found` as its place and the rest.
fn position(message: &str) -> Option<(u64, u64, &str)> {
    let (line, rest) = message.strip_prefix("line ")?.split_once(", column ")?;
    let (column, rest) = rest.split_once(": ")?;
    Some((line.parse().ok()?, column.parse().ok()?, rest))
}

/// The SQLSTATE of what a message says, if it is finer than that of the kind. A kind says what can be done, a class of
/// SQLSTATE what is wrong; the words are those of the engine and of DataFusion's planner.
fn refined(kind: ErrorKind, message: &str) -> Option<&'static str> {
    let lower = message.to_lowercase();
    let has = |needles: &[&str]| needles.iter().any(|needle| lower.contains(needle));
    let begins = |starts: &[&str]| starts.iter().any(|start| lower.starts_with(start));
    Some(match kind {
        ErrorKind::Query if begins(&["not supported: "]) => "0A000",
        ErrorKind::Query if begins(&["relation \""]) && has(&["does not exist"]) => "42P01",
        ErrorKind::Query if begins(&["type \"", "role \"", "unrecognized configuration parameter"]) => "42704",
        ErrorKind::Query if has(&["is not a variable which can be viewed"]) => "42704",
        ErrorKind::Query if begins(&["function '", "function \"", "table function '"]) => "42883",
        ErrorKind::Query if has(&["no function matches", "failed to coerce arguments"]) => "42883",
        ErrorKind::Query if begins(&["column '"]) && has(&["is in several tables"]) => "42702",
        ErrorKind::Query if begins(&["column '", "no field named"]) && has(&["not found", "no field"]) => "42703",
        ErrorKind::Query if has(&["must be in group by", "must appear in the group by"]) => "42803",
        ErrorKind::Query if begins(&["no value was given for parameter", "the statement has no parameter"]) => "42P02",
        ErrorKind::Query if has(&["cannot coerce", "cannot infer common", "cannot cast"]) => "42804",
        ErrorKind::NotFound if begins(&["file ", "file:", "no file ", "database "]) => "58P01",
        ErrorKind::NotFound
            if has(&["feature ", "dictionary ", "concept ", "no query with"]) && !begins(&["table '"]) =>
        {
            "42704"
        }
        ErrorKind::Exists if !begins(&["corpus ", "making corpus"]) => "42710",
        ErrorKind::Data if has(&["divide by zero", "division by zero"]) => "22012",
        ErrorKind::Data if has(&["overflow", "out of range", "can't cast value", "too large to store"]) => "22003",
        ErrorKind::Data if has(&["parsing timestamp", "parsing date", "invalid timestamp", "to date32"]) => "22007",
        ErrorKind::Data if has(&["cast error", "parser error", "cannot cast string"]) => "22P02",
        ErrorKind::Data if has(&["utf-8"]) => "22021",
        _ => return None,
    })
}

/// Joins the lines of a message, so that one error is one line.
fn one_line(message: &str) -> String {
    message.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" | ")
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error: {}", self.line())?;
        if let Some(hint) = self.way_out() {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, hint: None, wire: None, reader_gone: false }
    }
}

impl From<EncoderError> for Failure {
    fn from(error: EncoderError) -> Self {
        Error::from(error).into()
    }
}

impl From<DataFusionError> for Failure {
    fn from(error: DataFusionError) -> Self {
        Error::from(error).into()
    }
}

impl From<arrow::error::ArrowError> for Failure {
    fn from(error: arrow::error::ArrowError) -> Self {
        DataFusionError::ArrowError(Box::new(error), None).into()
    }
}

impl From<parquet::errors::ParquetError> for Failure {
    fn from(error: parquet::errors::ParquetError) -> Self {
        Self::new(ErrorKind::Internal, format!("parquet: {error}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        io_failure("input or output", &error)
    }
}

/// An I/O error of `what` as a failure of the right kind.
pub fn io_failure(what: impl fmt::Display, error: &std::io::Error) -> Failure {
    use std::io::ErrorKind as Io;
    let kind = match error.kind() {
        Io::NotFound => ErrorKind::NotFound,
        Io::PermissionDenied => ErrorKind::Denied,
        Io::AlreadyExists => ErrorKind::Exists,
        Io::InvalidData => ErrorKind::Data,
        _ => ErrorKind::Io,
    };
    let failure = Failure::new(kind, format!("{what}: {error}"));
    match error.kind() {
        Io::StorageFull => failure.hint("free some space on that disk and run the command again"),
        Io::BrokenPipe => Failure { reader_gone: true, ..failure },
        _ => failure,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_differ_at_every_door_that_a_script_reads() {
        assert_eq!(wire(ErrorKind::NotFound).exit, 4);
        assert_eq!(wire(ErrorKind::NotFound).http, 404);
        assert_eq!(wire(ErrorKind::Query).http, 400);
        assert_eq!(wire(ErrorKind::Denied).sqlstate, "42501");
        assert_eq!(wire(ErrorKind::Cancelled).sqlstate, "57014");
        assert_eq!(wire(ErrorKind::Internal), wire(ErrorKind::Internal));
        for kind in [ErrorKind::Query, ErrorKind::Data, ErrorKind::Io, ErrorKind::Internal, ErrorKind::Exists] {
            assert_eq!(wire(kind).sqlstate.len(), 5, "{kind:?}");
            assert_ne!(wire(kind).exit, EXIT_OK, "{kind:?}");
        }
    }

    #[test]
    fn sqlstates_follow_what_the_message_says() {
        use ErrorKind::{Data, Exists, NotFound, Query};
        for (kind, message, expected) in [
            (Query, "line 1, column 1: expected: an SQL statement, found: SELEC", "42601"),
            (Query, "line 2, column 8: column 'modle' not found; did you mean 'model'?", "42703"),
            (Query, "column 'id' is in several tables: write table.id", "42702"),
            (Query, "line 1, column 8: function 'activaton' not found; did you mean 'activation'?", "42883"),
            (Query, "table function 'nope' not found", "42883"),
            (Query, "relation \"nosuch\" does not exist", "42P01"),
            (Query, "unrecognized configuration parameter \"nosuch\"", "42704"),
            (Query, "not supported: unnest of a map", "0A000"),
            (Query, "no value was given for parameter $1", "42P02"),
            (Query, "line 1, column 8: column in SELECT must be in GROUP BY or an aggregate function", "42803"),
            (Query, "cannot coerce arithmetic expression Float32 + Utf8 to valid types", "42804"),
            (NotFound, "line 2, column 7: table 'anwsers' not found", "42P01"),
            (NotFound, "diff: feature 'apolgy' not found", "42704"),
            (NotFound, "file 'x.csv' not found", "58P01"),
            (Exists, "corpus 'a' exists already", "42P07"),
            (Exists, "there is a query with the id 'x' already", "42710"),
            (Data, "divide by zero error", "22012"),
            (Data, "cast error: Cannot cast string 'x' to value of Int64 type", "22P02"),
            (Data, "in 'x.csv': parser error: Error while parsing value 'b' as type 'Int64' for column 0", "22P02"),
            (Data, "arithmetic overflow: Overflow happened on: 1 + 2", "22003"),
            (Data, "a.csv, line 3: torn", "22000"),
        ] {
            assert_eq!(Failure::new(kind, message).sqlstate(), expected, "{message}");
        }
        let refused = Failure::new(ErrorKind::Denied, "line 1, column 2: x").shown_as(UNAUTHENTICATED);
        assert_eq!((refused.sqlstate(), refused.position()), ("28P01", Some((1, 2))));
    }

    #[test]
    fn one_line_and_a_hint() {
        let failure = Failure::new(ErrorKind::NotFound, "corpus 'a' not found\n  did you mean 'b'").hint("see \\dt");
        assert_eq!(failure.to_string(), "error: corpus 'a' not found | did you mean 'b'\nhint: see \\dt");
        assert_eq!(Failure::usage("x").to_string(), "error: x");
    }

    #[test]
    fn io_errors_keep_their_meaning() {
        let missing = io_failure("a.csv", &std::io::Error::from(std::io::ErrorKind::NotFound));
        assert_eq!(missing.kind(), ErrorKind::NotFound);
        let full = io_failure("out.csv", &std::io::Error::from(std::io::ErrorKind::StorageFull));
        assert_eq!((full.wire().exit, full.way_out().is_some()), (6, true));
        let gone = io_failure("standard output", &std::io::Error::from(std::io::ErrorKind::BrokenPipe));
        assert!(gone.is_reader_gone() && !full.is_reader_gone());
    }
}
