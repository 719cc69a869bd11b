//! What a failed query means to its author: DataFusion's errors as the engine's.
//!
//! The engine's own errors travel inside DataFusion's (as `External`) and come out again as they went in; the rest is
//! sorted by what the caller can do. Everything here works on a borrowed error, because DataFusion shares errors between
//! the partitions of a plan.

use datafusion::arrow::error::ArrowError;
use datafusion::common::{Diagnostic, SchemaError};
use datafusion::error::DataFusionError;
use saequel_udfs::docs::{self, FunctionDoc, Kind};

use crate::error::{Error, ErrorKind, did_you_mean, disk_full, is_full_disk};

impl From<DataFusionError> for Error {
    fn from(error: DataFusionError) -> Self {
        translated(&error)
    }
}

/// An error of DataFusion's as the engine's.
pub(crate) fn translated(error: &DataFusionError) -> Error {
    let mut position = None;
    let (kind, message) = classify(error, &mut position);
    if matches!(kind, ErrorKind::Io | ErrorKind::Internal) && is_full_disk(error) {
        return disk_full("what the query keeps on disk");
    }
    if let Some(message) = wrong_pattern(&message) {
        return Error::new(ErrorKind::Query, message);
    }
    match position {
        Some((line, column)) => Error::new(kind, format!("line {line}, column {column}: {message}")),
        None => Error::new(kind, message),
    }
}

impl From<Error> for DataFusionError {
    fn from(error: Error) -> Self {
        DataFusionError::External(Box::new(error))
    }
}

/// Kind and message of `error`; sets `position` to the line and column that the innermost diagnostic points at.
fn classify(error: &DataFusionError, position: &mut Option<(u64, u64)>) -> (ErrorKind, String) {
    match error {
        DataFusionError::External(source) => external(source.as_ref(), position),
        DataFusionError::Shared(inner) => classify(inner, position),
        DataFusionError::Context(_, inner) => classify(inner, position),
        DataFusionError::Collection(errors) => match errors.first() {
            Some(first) => classify(first, position),
            None => (ErrorKind::Internal, "an empty list of errors".to_owned()),
        },
        DataFusionError::Diagnostic(diagnostic, inner) => {
            let found = classify(inner, position);
            *position = position.or_else(|| start_of(diagnostic));
            found
        }
        DataFusionError::ArrowError(source, _) => arrow(source, position),
        DataFusionError::ParquetError(source) => (ErrorKind::Data, format!("parquet: {source}")),
        DataFusionError::ObjectStore(source) => (ErrorKind::Io, format!("file: {source}")),
        DataFusionError::IoError(source) => (io_kind(source), source.to_string()),
        DataFusionError::SQL(source, _) => (ErrorKind::Query, parser_message(&source.to_string())),
        DataFusionError::Plan(message) | DataFusionError::Internal(message) if wrong_arguments(message).is_some() => {
            (ErrorKind::Query, wrong_arguments(message).unwrap_or_default())
        }
        DataFusionError::Plan(message) => plan(message),
        DataFusionError::SchemaError(source, _) => (ErrorKind::Query, schema_message(source)),
        DataFusionError::Configuration(message) => (ErrorKind::Query, lowered(message)),
        DataFusionError::NotImplemented(message) => {
            (ErrorKind::Query, format!("not supported: {}", without_tree(message)))
        }
        DataFusionError::Execution(message) => (ErrorKind::Data, lowered(message)),
        DataFusionError::ResourcesExhausted(message) => {
            (ErrorKind::Resources, format!("out of query memory or spill space: {}", lowered(message)))
        }
        DataFusionError::ExecutionJoin(join) if join.is_cancelled() => {
            (ErrorKind::Cancelled, "the query was cancelled".to_owned())
        }
        other => (ErrorKind::Internal, lowered(&other.strip_backtrace())),
    }
}

fn external(
    source: &(dyn std::error::Error + Send + Sync + 'static),
    position: &mut Option<(u64, u64)>,
) -> (ErrorKind, String) {
    if let Some(own) = source.downcast_ref::<Error>() {
        return (own.kind(), own.to_string());
    }
    if let Some(inner) = source.downcast_ref::<DataFusionError>() {
        return classify(inner, position);
    }
    if let Some(inner) = source.downcast_ref::<ArrowError>() {
        return arrow(inner, position);
    }
    if let Some(inner) = source.downcast_ref::<std::io::Error>() {
        return (io_kind(inner), inner.to_string());
    }
    // Another crate may have wrapped one of ours.
    let mut cause = source.source();
    while let Some(error) = cause {
        if let Some(own) = error.downcast_ref::<Error>() {
            return (own.kind(), own.to_string());
        }
        if let Some(inner) = error.downcast_ref::<DataFusionError>() {
            return classify(inner, position);
        }
        cause = error.source();
    }
    match crate::store::from_lance(source) {
        Some(stored) => (stored.kind(), stored.to_string()),
        None => (ErrorKind::Internal, source.to_string()),
    }
}

fn arrow(error: &ArrowError, position: &mut Option<(u64, u64)>) -> (ErrorKind, String) {
    match error {
        ArrowError::ExternalError(source) => external(source.as_ref(), position),
        ArrowError::IoError(message, source) => (io_kind(source), message.clone()),
        ArrowError::MemoryError(message) => (ErrorKind::Resources, message.clone()),
        ArrowError::CDataInterface(_) | ArrowError::DictionaryKeyOverflowError => {
            (ErrorKind::Internal, error.to_string())
        }
        ArrowError::CastError(message) if message.starts_with("Cannot cast string '") => {
            let hint = "; try_cast gives null for such text, and beside a column of text a number is written in quotes";
            (ErrorKind::Data, format!("{}{hint}", lowered(message)))
        }
        other => (ErrorKind::Data, lowered(&other.to_string())),
    }
}

/// The message without the parser's tree, of which the kind is told.
fn without_tree(message: &str) -> String {
    match message.split_once("nsupported ast node in sqltorel: ") {
        Some((_, tree)) => {
            let kind = tree.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
            format!("an expression of the kind {kind}")
        }
        None => lowered(message),
    }
}

/// What is wrong with a regular expression; its library draws it over several lines.
fn wrong_pattern(message: &str) -> Option<String> {
    let (_, drawn) = message.split_once("regex parse error:")?;
    let (pattern, what) = drawn.rsplit_once("error: ")?;
    let pattern = pattern.trim().lines().next()?.trim();
    Some(format!("regular expression '{pattern}': {}", what.trim()))
}

fn io_kind(error: &std::io::Error) -> ErrorKind {
    match error.kind() {
        std::io::ErrorKind::NotFound => ErrorKind::NotFound,
        std::io::ErrorKind::PermissionDenied => ErrorKind::Denied,
        std::io::ErrorKind::OutOfMemory => ErrorKind::Resources,
        _ => ErrorKind::Io,
    }
}

fn start_of(diagnostic: &Diagnostic) -> Option<(u64, u64)> {
    diagnostic.span.map(|span| (span.start.line, span.start.column))
}

/// A name that does not exist is the one plan error that is not a mistake in the statement's form.
fn plan(message: &str) -> (ErrorKind, String) {
    match missing_table(message) {
        Some(name) => (ErrorKind::NotFound, format!("table '{name}' not found")),
        None if is_missing_feature(message) => (ErrorKind::NotFound, lowered(message)),
        None => (ErrorKind::Query, unknown_function(message).unwrap_or_else(|| lowered(message))),
    }
}

/// What to say of a function that does not exist, or not where it was called; DataFusion offers the nearest of all that it
/// knows, however far that is.
fn unknown_function(message: &str) -> Option<String> {
    let (name, offered, in_from) = match message.strip_prefix("Invalid function '") {
        Some(rest) => {
            let (name, rest) = rest.split_once('\'')?;
            let offered = rest.split_once("Did you mean '").and_then(|(_, offered)| offered.split_once('\''));
            (name, offered.map(|(offered, _)| offered), false)
        }
        None => (message.strip_prefix("table function '")?.split_once("' not found")?.0, None, true),
    };
    let of_place = |doc: &&FunctionDoc| (doc.kind == Kind::Table) == in_from;
    if docs::all().any(|doc| doc.name == name && !of_place(&doc)) {
        return Some(match in_from {
            true => format!("function '{name}' gives no table: call it in SELECT or WHERE"),
            false => format!("function '{name}' gives a table: write SELECT * FROM {name}(...)"),
        });
    }
    let ours: Vec<&str> = docs::all().filter(of_place).map(|doc| doc.name).collect();
    let near = saequel_udfs::args::did_you_mean(name, ours.iter().copied().chain(offered));
    Some(match (in_from, near.is_empty()) {
        (true, true) => format!("table function '{name}' not found; there are: {}", ours.join(", ")),
        (true, false) => format!("table function '{name}' not found{near}"),
        (false, true) => format!("function '{name}' not found; SHOW FUNCTIONS lists those there are"),
        (false, false) => format!("function '{name}' not found{near} SHOW FUNCTIONS lists all"),
    })
}

/// `sum(Boolean)` and what `sum` does take, of a call with arguments that no function of the name takes; DataFusion gives
/// every attempt, as a mistake of its own.
fn wrong_arguments(message: &str) -> Option<String> {
    // A function that looks at its arguments itself says best what it takes.
    if let Some((_, said)) = message.split_once("user-defined coercion failed with: ")
        && let Some((said, _)) = said.split_once(" No function matches")
    {
        return Some(lowered(said));
    }
    let (_, rest) = message.split_once("No function matches the given name and argument types '")?;
    let (call, rest) = rest.split_once('\'')?;
    let candidates = rest.split_once("Candidate functions:").map_or("", |(_, candidates)| candidates);
    let candidates: Vec<&str> = candidates.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let name = call.split_once('(').map_or(call, |(name, _)| name);
    let takes = match candidates.as_slice() {
        [] => String::new(),
        known => format!("; there are {}", known.join(", ")),
    };
    let cast = if call == format!("{name}(Boolean)") { format!(": write {name}((...)::int)") } else { String::new() };
    Some(format!("no function {call}{takes}{cast}"))
}

/// `diff: feature 'apolgy' not found`, `diff: dictionary 'words' not found`: how functions say it.
fn is_missing_feature(message: &str) -> bool {
    let name = message.split_once(": ").map_or(message, |(_function, name)| name);
    (name.starts_with("feature ") || name.starts_with("dictionary ")) && name.contains(" not found")
}

/// Name of the table that a plan error says is missing, without the parts that every name has.
pub(crate) fn missing_table(message: &str) -> Option<&str> {
    let name = message.strip_prefix("table '")?.split_once("' not found")?.0;
    let name = name.strip_prefix("saequel.").unwrap_or(name);
    Some(name.strip_prefix("main.").unwrap_or(name))
}

fn schema_message(error: &SchemaError) -> String {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            // What begins with an underscore is stored beside the columns that a user knows.
            let shown = |name: &&str| !name.starts_with('_') || field.name.starts_with('_');
            let names = valid_fields.iter().map(|column| column.name.as_str()).filter(shown);
            format!("column '{}' not found{}", field.flat_name(), did_you_mean(&field.name, names))
        }
        SchemaError::AmbiguousReference { field } => {
            format!("column '{}' is in several tables: write table.{}", field.name, field.name)
        }
        other => lowered(&other.to_string()),
    }
}

/// `sql parser error: Expected: x, found: y at Line: 1, Column: 8` with the place first.
pub(crate) fn parser_message(message: &str) -> String {
    let message = message.strip_prefix("sql parser error: ").unwrap_or(message);
    if let Some((what, place)) = message.rsplit_once(" at Line: ")
        && let Some((line, column)) = place.split_once(", Column: ")
    {
        return format!("line {line}, column {}: {}", column.trim(), lowered(what));
    }
    lowered(message)
}

/// The message without DataFusion's prefix, its first letter small unless the word is all capitals, no full stop.
fn lowered(message: &str) -> String {
    let mut message = message.trim();
    for prefix in ["Error during planning: ", "Execution error: ", "Invalid argument error: ", "Optimizer rule "] {
        message = message.strip_prefix(prefix).unwrap_or(message);
    }
    let message = message.strip_suffix('.').unwrap_or(message);
    let mut letters = message.chars();
    match (letters.next(), letters.clone().next()) {
        (Some(first), Some(second)) if first.is_uppercase() && !second.is_uppercase() => {
            first.to_lowercase().chain(letters).collect()
        }
        _ => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::common::{Column, Location, Span};

    use super::*;

    #[test]
    fn own_errors_come_out_as_they_went_in() {
        let own = Error::new(ErrorKind::Denied, "no");
        let wrapped = DataFusionError::Shared(Arc::new(
            DataFusionError::from(ArrowError::ExternalError(Box::new(DataFusionError::from(own))))
                .context("while reading"),
        ));
        let back = Error::from(wrapped);
        assert_eq!((back.kind(), back.message()), (ErrorKind::Denied, "no"));
    }

    #[test]
    fn places_are_told() {
        let span = Span::new(Location { line: 2, column: 7 }, Location { line: 2, column: 9 });
        let error = DataFusionError::Plan("table 'saequel.main.anwsers' not found".into())
            .with_diagnostic(Diagnostic::new_error("no", Some(span)));
        let error = Error::from(error);
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.message(), "line 2, column 7: table 'anwsers' not found");
        assert_eq!(
            parser_message("sql parser error: Expected: an expression, found: FROM at Line: 1, Column: 8"),
            "line 1, column 8: expected: an expression, found: FROM"
        );
    }

    #[test]
    fn patterns_and_casts_are_the_authors_to_mend() {
        let drawn = "regex parse error:\n    \\mhere\n    ^^\nerror: unrecognized escape sequence";
        let error = Error::from(DataFusionError::External(drawn.into()));
        assert_eq!(error.kind(), ErrorKind::Query);
        assert_eq!(error.message(), "regular expression '\\mhere': unrecognized escape sequence");
        let cast = ArrowError::CastError("Cannot cast string 'a1' to value of Int64 type".to_owned());
        assert!(Error::from(DataFusionError::from(cast)).message().contains("a number is written in quotes"));
        let tree = "Unsupported ast node in sqltorel: Collate { expr: Identifier(Ident { value: \"a\" }) }";
        let error = Error::from(DataFusionError::NotImplemented(tree.to_owned()));
        assert_eq!(error.message(), "not supported: an expression of the kind Collate");
    }

    #[test]
    fn columns_of_nobody_are_not_offered() {
        let message = |wanted: &str| {
            let valid_fields = ["doc_id", "topic", "_embedding"].map(Column::new_unqualified).to_vec();
            let field = Box::new(Column::new_unqualified(wanted));
            schema_message(&SchemaError::FieldNotFound { field, valid_fields })
        };
        assert_eq!(message("heron"), "column 'heron' not found; there are: doc_id, topic");
        assert_eq!(message("embedding"), "column 'embedding' not found; there are: doc_id, topic");
        assert_eq!(message("_embeding"), "column '_embeding' not found; did you mean '_embedding'?");
    }

    #[test]
    fn kinds_follow_what_can_be_done() {
        let kind = |error| Error::from(error).kind();
        assert_eq!(kind(DataFusionError::Plan("x".into())), ErrorKind::Query);
        for missing in ["diff: dictionary 'words' not found", "activation: feature 44 not found; ids are below 5"] {
            assert_eq!(kind(DataFusionError::Plan(missing.into())), ErrorKind::NotFound);
        }
        assert_eq!(kind(DataFusionError::ResourcesExhausted("x".into())), ErrorKind::Resources);
        assert_eq!(kind(DataFusionError::Execution("x".into())), ErrorKind::Data);
        assert_eq!(kind(DataFusionError::Internal("x".into())), ErrorKind::Internal);
        let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(kind(DataFusionError::IoError(gone)), ErrorKind::NotFound);
        assert_eq!(kind(DataFusionError::from(ArrowError::DivideByZero)), ErrorKind::Data);
    }
}
