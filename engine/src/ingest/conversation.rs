//! Documents that are read in the conversation in which they were said.

use arrow::array::{Array, AsArray, RecordBatch, StringArray};

use super::documents::texts;
use super::pipeline::Encode;
use crate::error::{Error, ErrorKind, Result};
use crate::reader::{ChatColumns, ChatTemplate, Passage};

/// What is read of a document, or why its conversation cannot be written.
pub(crate) type Read = std::result::Result<Passage<'static>, String>;

/// How the documents of a corpus are read in their conversations.
#[derive(Debug, Clone)]
pub(crate) struct Conversations {
    columns: ChatColumns,
    template: ChatTemplate,
}

impl Conversations {
    /// The conversations of `columns`, of which `text_columns` are the text, as the reader behind `encoder` reads them.
    ///
    /// # Errors
    /// [`ErrorKind::Query`] if it was made for no conversations, or not for such ones.
    pub(crate) fn new(columns: &ChatColumns, text_columns: &[String], encoder: &dyn Encode) -> Result<Self> {
        let (reader, template) = encoder.chat();
        let Some(template) = template else {
            let message = format!(
                "reader '{reader}' has no chat template, so it cannot read texts in their conversation ({columns}): name \
                 dictionaries of a reader that was made for conversations (--sae), or import into a corpus without --chat"
            );
            return Err(Error::new(ErrorKind::Query, message));
        };
        let conversations = Self { columns: columns.clone(), template: template.clone() };
        // What the template refuses of every row is said before the first.
        let said = |column: &str| Some(if text_columns.iter().any(|text| text == column) { "Yes." } else { "Why?" });
        conversations.columns.passage(template, text_columns, said).map_err(|error| {
            let message = format!(
                "reader '{reader}' cannot read conversations of {columns}: {}; name other roles or columns (--chat)",
                error.message()
            );
            Error::new(ErrorKind::Query, message)
        })?;
        Ok(conversations)
    }

    /// The columns that it needs.
    pub(crate) fn columns(&self) -> impl Iterator<Item = &String> {
        self.columns.columns.iter().map(|(_, column)| column)
    }
}

/// What is read of each row: its text, in its conversation if there is one.
pub(crate) fn readings(batch: &RecordBatch, text_columns: &[String], chat: Option<&Conversations>) -> Vec<Read> {
    let Some(Conversations { columns, template }) = chat else {
        let texts = texts(batch, text_columns).into_iter();
        return texts.map(|text| Ok(Passage::from(text.unwrap_or_default()))).collect();
    };
    let found: Vec<(&str, &StringArray)> = columns
        .columns
        .iter()
        .filter_map(|(_, name)| Some((name.as_str(), batch.column_by_name(name)?.as_string_opt::<i32>()?)))
        .collect();
    let read = |row: usize| {
        let value = |name: &str| {
            let (_, column) = found.iter().find(|(column, _)| *column == name)?;
            column.is_valid(row).then(|| column.value(row))
        };
        columns.passage(template, text_columns, value).map_err(|error| error.message().to_owned())
    };
    (0..batch.num_rows()).map(read).collect()
}
