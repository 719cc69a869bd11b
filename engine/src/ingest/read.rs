//! What an import reads: the files of a source, opened one after the other, and the columns that the user means.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::{DataType, Field};

use super::columnar::Columnar;
use super::given::check_columns;
use super::matrix::{Matrix, MatrixRows};
use super::records::{Csv, Json, Records, TextFiles, files_below};
use super::source::{Format, Input, cannot_open};
use super::typed::{Inferred, RowSource, Wanted, Without};
use crate::catalog::CorpusInfo;
use crate::engine::{GivenMatrix, ImportOptions, ImportSource};
use crate::error::{Error, ErrorKind, Result, nearest};
use crate::reader::ChatColumns;
use crate::schema;

/// A file (or standard input, or a folder of texts) that is to be read.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) source: ImportSource,
    /// `None`: by its first bytes.
    format: Option<Format>,
}

/// The parts of a source: a folder whose files are all of one data format is read file by file, any other folder is a
/// folder of texts.
pub(super) fn parts(options: &ImportOptions) -> Result<Vec<Part>> {
    let asked = options.format.as_deref().map(Format::parse).transpose()?;
    let part = |source: ImportSource, format| Part { source, format };
    let ImportSource::Path(path) = &options.source else { return Ok(vec![part(ImportSource::Stdin, asked)]) };
    std::fs::metadata(path).map_err(|error| cannot_open(path, error))?;
    if !path.is_dir() {
        return Ok(vec![part(options.source.clone(), asked.or_else(|| Format::by_name(path)))]);
    }
    let files = files_below(path)?;
    if files.is_empty() {
        return Err(Error::new(ErrorKind::Data, format!("the folder {} has no files", path.display())));
    }
    let data = |file: &PathBuf| Format::by_name(file).filter(|format| *format != Format::Text);
    let formats: Vec<Option<Format>> = files.iter().map(data).collect();
    let one = asked.or(formats[0].filter(|first| formats.iter().all(|format| *format == Some(*first))));
    match one {
        Some(format) if format != Format::Text => {
            Ok(files.into_iter().map(|file| part(ImportSource::Path(file), Some(format))).collect())
        }
        _ if asked.is_none() && formats.iter().all(Option::is_some) => {
            let message = format!(
                "the folder {} has files of several formats; say which to read (--file-format), or import file by file",
                path.display()
            );
            Err(Error::new(ErrorKind::Query, message))
        }
        _ => Ok(vec![part(options.source.clone(), Some(Format::Text))]),
    }
}

/// An opened part.
pub(super) struct Opened {
    pub(super) name: String,
    /// Stands for the part in `doc_id`s.
    pub(super) hash: String,
    pub(super) is_text: bool,
    pub(super) rows: Box<dyn RowSource>,
    /// Rows of the part: exact or estimated; `None` if unknown.
    pub(super) total: Option<u64>,
    /// Columns that saequel once added to what it wrote, and makes anew.
    pub(super) left_out: Vec<String>,
}

/// Whether a source is a matrix, by the format that was asked for, else by its name.
pub(super) fn is_matrix(path: &Path, format: Option<&str>) -> bool {
    let format = format.map_or_else(|| Format::by_name(path), |asked| Format::parse(asked).ok());
    format == Some(Format::Matrix)
}

/// Opens a part and looks at its first rows.
pub(super) fn open(part: &Part, options: &ImportOptions) -> Result<Opened> {
    let Some(beside) = &options.matrix else { return open_documents(part, options) };
    let (path, embeds) = match beside {
        GivenMatrix::Features(path) => (path, false),
        GivenMatrix::Embeddings(path) => (path, true),
    };
    let matrix = Matrix::open(path)?;
    let documents = open_documents(part, options)?;
    let rows = MatrixRows::new(matrix, embeds, Some(documents.rows), &documents.name);
    let total = Some(rows.total());
    Ok(Opened { rows: Box::new(rows), total, ..documents })
}

/// Opens a part without what stands beside it, and without what saequel once added to it.
fn open_documents(part: &Part, options: &ImportOptions) -> Result<Opened> {
    let mut opened = open_alone(part, options)?;
    let named = |column: &String| {
        let chat = options.chat.iter().flat_map(|chat| &chat.columns).any(|(_, other)| other == column);
        chat || options.takes(column) || options.text_columns.contains(column) || options.key.as_ref() == Some(column)
    };
    let is_left_out = |(column, data_type): &(String, Option<DataType>)| match column.as_str() {
        schema::DOC_ID => options.key.as_deref().is_some_and(|key| key != schema::DOC_ID),
        _ => schema::is_exported(column, data_type.as_ref(), || opened.rows.first_value(column)),
    };
    let columns = opened.rows.columns().into_iter().filter(|column| !named(&column.0) && is_left_out(column));
    opened.left_out = columns.map(|(name, _)| name).collect();
    if !opened.left_out.is_empty() {
        opened.rows = Box::new(Without { rows: opened.rows, left_out: opened.left_out.clone() });
    }
    Ok(opened)
}

/// Opens a part as it is.
fn open_alone(part: &Part, options: &ImportOptions) -> Result<Opened> {
    if let (Some(Format::Text), ImportSource::Path(path)) = (part.format, &part.source) {
        return open_texts(part, path.display().to_string(), options);
    }
    let mut input = Input::open(&part.source)?;
    if let Some(shown) = &options.shown_as {
        input.name.clone_from(shown);
    }
    let (name, left_out) = (input.name.clone(), Vec::new());
    let format = match part.format {
        Some(format) => format,
        None => Format::by_content(input.first_bytes()?).ok_or_else(|| {
            let message = format!(
                "{name}: cannot tell what format it has; name it ({}): csv, tsv, json, jsonl, parquet, arrow or text",
                if options.shown_as.is_some() { "format" } else { "--file-format" }
            );
            Error::new(ErrorKind::Query, message)
        })?,
    };
    let (hash, taken, length) = (input.hash.clone(), input.taken.clone(), input.length);
    let records: Box<dyn Records> = match format {
        Format::Csv => Box::new(Csv::open(input, false)?),
        Format::Tsv => Box::new(Csv::open(input, true)?),
        Format::Json => Box::new(Json::open(input, true)?),
        Format::JsonLines => Box::new(Json::open(input, false)?),
        Format::Text => return open_texts(part, name, options),
        Format::Matrix => {
            let Some(path) = &input.plain_file else {
                let message =
                    format!("{name}: a matrix is read from a file that is not compressed; decompress it first");
                return Err(Error::new(ErrorKind::Query, message));
            };
            let rows = MatrixRows::new(Matrix::open(path)?, false, None, &name);
            return Ok(Opened {
                name,
                hash,
                is_text: false,
                total: Some(rows.total()),
                rows: Box::new(rows),
                left_out,
            });
        }
        Format::Parquet | Format::Arrow => {
            let rows = if format == Format::Parquet {
                Columnar::parquet(input, options)?
            } else {
                Columnar::arrow(input, options)?
            };
            return Ok(Opened { name, hash, is_text: false, total: rows.total, rows: Box::new(rows), left_out });
        }
    };
    let rows = Inferred::open(name.clone(), records, options.on_bad_row, options.rename.clone())?;
    let taken = taken.load(std::sync::atomic::Ordering::Relaxed);
    let total = rows.estimated_rows(taken, length);
    Ok(Opened { name, hash, is_text: false, rows: Box::new(rows), total, left_out })
}

fn open_texts(part: &Part, name: String, options: &ImportOptions) -> Result<Opened> {
    let records = Box::new(TextFiles::open(&part.source)?);
    let rows = Inferred::open(name.clone(), records, options.on_bad_row, options.rename.clone())?;
    let total = rows.estimated_rows(0, None);
    Ok(Opened { name, hash: String::new(), is_text: true, rows: Box::new(rows), total, left_out: Vec::new() })
}

/// Text columns and key of a corpus.
#[derive(Debug, Clone)]
pub(super) struct Roles {
    pub(super) text_columns: Vec<String>,
    pub(super) key: Option<String>,
    /// The conversation in which the text is read.
    pub(super) chat: Option<ChatColumns>,
}

impl Roles {
    /// Columns that hold text: what is read, and the rest of the conversation.
    fn texts(&self) -> Vec<String> {
        let others = self.chat.iter().flat_map(|chat| &chat.columns).map(|(_, column)| column);
        let others = others.filter(|column| !self.text_columns.contains(column));
        self.text_columns.iter().chain(others).cloned().collect()
    }
}

/// What the columns of a source are for, by what the user asked and what the corpus has already.
pub(super) fn roles(opened: &Opened, options: &ImportOptions, corpus: Option<&CorpusInfo>) -> Result<Roles> {
    let columns = opened.rows.columns();
    let named = |name: &str| columns.iter().any(|(column, _)| column == name);
    let name = &opened.name;
    if columns.is_empty() {
        return Err(Error::new(ErrorKind::Data, format!("{name}: there are no rows and no columns in it")));
    }
    check_columns(name, options, &columns, |column| hint(column, &columns))?;
    for (from, to) in &options.rename {
        if !named(to) {
            let message = format!("{name}: no column '{from}' to rename{}", hint(from, &columns));
            return Err(Error::new(ErrorKind::Query, message));
        }
    }
    if let Some(corpus) = corpus {
        for (what, asked, has) in [
            ("text columns", options.text_columns.join(", "), corpus.text_columns.join(", ")),
            ("key", options.key.clone().unwrap_or_default(), corpus.key.clone().unwrap_or_default()),
            ("conversation", written(options.chat.as_ref()), written(corpus.chat.as_ref())),
        ] {
            if !asked.is_empty() && asked != has {
                let has = if has.is_empty() { "none".to_owned() } else { format!("'{has}'") };
                let rename = if options.shown_as.is_some() { "" } else { "or use --rename, " };
                let message = format!(
                    "corpus '{}' has the {what} {has}, not '{asked}': leave that option away, {rename}or take another corpus",
                    corpus.name
                );
                return Err(Error::new(ErrorKind::Query, message));
            }
        }
    }
    let chat = match corpus {
        Some(corpus) => corpus.chat.clone(),
        None => options.chat.clone(),
    };
    let text_columns = match corpus {
        Some(corpus) => corpus.text_columns.clone(),
        // The last to speak is read in the light of what was said before.
        None if options.text_columns.is_empty() && chat.is_some() => {
            chat.iter().filter_map(|chat| chat.columns.last()).map(|(_, column)| column.clone()).collect()
        }
        // Nothing has to be read where features are given; a metadata column is not taken for a text.
        None if options.text_columns.is_empty() && options.reads_nothing() => {
            columns.iter().filter(|(column, _)| column == "text").map(|(column, _)| column.clone()).collect()
        }
        None if options.text_columns.is_empty() => vec![only_text(name, &columns, options)?],
        None => options.text_columns.clone(),
    };
    let key = match corpus {
        Some(corpus) => corpus.key.clone(),
        None => options.key.clone().or_else(|| {
            let given = if opened.is_text { "path" } else { schema::DOC_ID };
            named(given).then(|| given.to_owned())
        }),
    };
    for (what, option, column) in text_columns
        .iter()
        .map(|column| ("text column", "text", column))
        .chain(key.iter().map(|k| ("key", "key", k)))
        .chain(chat.iter().flat_map(|chat| &chat.columns).map(|(_, column)| ("conversation", "chat", column)))
    {
        if !named(column) {
            let mut columns = columns.clone();
            if option == "key" && opened.left_out.iter().any(|column| column == schema::DOC_ID) {
                columns.push((schema::DOC_ID.to_owned(), None)); // left out only because another key was asked for
            }
            let way_out = match corpus {
                None => format!("name one of them ({})", written_option(options, option)),
                Some(_) if options.shown_as.is_some() => "the corpus needs it: give one of them that name".to_owned(),
                Some(_) => format!("the corpus needs it: give one of them that name (--rename OLD={column})"),
            };
            let hint = hint(column, &columns);
            let message = format!("{name}: there is no column '{column}' for the {what}{hint}; {way_out}");
            return Err(Error::new(ErrorKind::Data, message));
        }
    }
    if let Some(twice) = text_columns.iter().enumerate().find(|(at, c)| text_columns[..*at].contains(c)) {
        return Err(Error::new(ErrorKind::Query, format!("the text column '{}' is named twice", twice.1)));
    }
    if let Some(chat) = &chat {
        check_conversation(chat, &text_columns, options)?;
    }
    for (column, _) in columns.iter().filter(|(column, _)| !options.takes(column)) {
        check_column(name, column, key.as_deref())?;
    }
    Ok(Roles { text_columns, key, chat })
}

/// A conversation as it is written; nothing without one.
fn written(chat: Option<&ChatColumns>) -> String {
    chat.map(ToString::to_string).unwrap_or_default()
}

/// That what is read is a part of the conversation, in its order.
fn check_conversation(chat: &ChatColumns, text_columns: &[String], options: &ImportOptions) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorKind::Query, message));
    if options.chat.is_some() && options.reads_nothing() {
        return refuse("--chat is about how texts are read, but what these mean was computed elsewhere".to_owned());
    }
    let place = |text: &String| chat.columns.iter().position(|(_, column)| column == text);
    let places: Vec<Option<usize>> = text_columns.iter().map(place).collect();
    if let Some((text, _)) = text_columns.iter().zip(&places).find(|(_, place)| place.is_none()) {
        return refuse(format!(
            "the text column '{text}' is not in the conversation {chat}: say whose message it is, for example \
             {chat},assistant={text}"
        ));
    }
    if !places.is_sorted() {
        let texts = text_columns.join(", ");
        return refuse(format!("the text columns {texts} stand in another order than in the conversation {chat}"));
    }
    Ok(())
}

/// An option as whoever imports writes it: a parameter of a request, or an option of the command.
fn written_option(options: &ImportOptions, option: &str) -> String {
    if options.shown_as.is_some() { option.to_owned() } else { format!("--{option}") }
}

/// Columns that a message lists.
const LISTED: usize = 20;

/// The nearest name, and the columns there are.
fn hint(wanted: &str, columns: &[(String, Option<DataType>)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let near = nearest(wanted, names.iter().copied()).map(|name| format!("; did you mean '{name}'?"));
    let first = names[..names.len().min(LISTED)].join(", ");
    let there = match names.len() {
        n if n > LISTED => format!("there are {n}, the first {LISTED}: {first}"),
        _ => format!("there are: {first}"),
    };
    format!("{} {there}", near.as_deref().unwrap_or(";"))
}

/// Refuses names that saequel uses itself.
pub(super) fn check_column(source: &str, column: &str, key: Option<&str>) -> Result<()> {
    if column == schema::DOC_ID && key == Some(schema::DOC_ID) {
        return Ok(());
    }
    match schema::reserved(column) {
        None => Ok(()),
        Some(why) => {
            let message = format!(
                "{source}: a column cannot be called '{column}': {why}; rename it, for example to 'my_{column}'"
            );
            Err(Error::new(ErrorKind::Data, message))
        }
    }
}

fn only_text(name: &str, columns: &[(String, Option<DataType>)], options: &ImportOptions) -> Result<String> {
    let (key, option) = (options.key.as_deref(), written_option(options, "text"));
    if columns.iter().any(|(column, _)| column == "text") {
        return Ok("text".to_owned());
    }
    let text = |column: &&(String, Option<DataType>)| {
        column.1.as_ref().is_none_or(|data_type| *data_type == DataType::Utf8)
            && Some(column.0.as_str()) != key
            && column.0 != schema::DOC_ID
    };
    let texts: Vec<&str> = columns.iter().filter(text).map(|(column, _)| column.as_str()).collect();
    match texts.as_slice() {
        [only] => Ok((*only).to_owned()),
        [] => {
            let all: Vec<&str> = columns.iter().map(|(column, _)| column.as_str()).collect();
            let message =
                format!("{name}: no column holds text; name one to read ({option}), there are: {}", all.join(", "));
            Err(Error::new(ErrorKind::Query, message))
        }
        several => {
            let message =
                format!("{name}: several columns hold text; name those to read ({option}): {}", several.join(", "));
            Err(Error::new(ErrorKind::Query, message))
        }
    }
}

/// Columns of a new corpus, as far as the first look shows them; features and embeddings are stored otherwise.
pub(super) fn first_columns(opened: &Opened, roles: &Roles, options: &ImportOptions) -> Vec<Field> {
    let columns = opened.rows.columns().into_iter();
    let columns = columns.filter(|(name, _)| name != schema::DOC_ID && !options.takes(name));
    let texts = roles.texts();
    columns
        .filter_map(|(name, data_type)| {
            let data_type = if texts.contains(&name) { Some(DataType::Utf8) } else { data_type };
            Some(Field::new(name, data_type?, true))
        })
        .collect()
}

/// What a source has to know of the corpus.
pub(super) fn wanted(roles: &Roles, known: &HashMap<String, DataType>) -> Wanted {
    Wanted { text_columns: roles.texts(), key: roles.key.clone(), known: known.clone() }
}
