//! The words of a corpus: a tantivy index of its texts, ranked by BM25 (Robertson and Zaragoza 2009, k1 1.2, b 0.75).
//!
//! Text is split at what is neither a letter nor a digit, lower-cased, freed of accents and stemmed as English, which
//! leaves words of other languages nearly as they are. Characters of scripts that put no space between words (Chinese,
//! Japanese, Korean, Thai, ...) are words of their own, and so is each pair of neighbours.
//!
//! A commit's payload is the version of the dataset that it covers; what came later is caught up by the next writer.

mod folder;

use std::collections::{HashMap, HashSet};
use std::path::Path;

use saequel_udfs::WordHit;
use tantivy::collector::TopDocs;
use tantivy::columnar::StrColumn;
use tantivy::directory::MmapDirectory;
use tantivy::directory::error::OpenReadError;
use tantivy::query::{BooleanQuery, ConstScoreQuery, Occur, Query, TermQuery, TermSetQuery};
use tantivy::schema::{FAST, Field, IndexRecordOption, STRING, Schema, TextFieldIndexing, TextOptions};
use tantivy::tokenizer::{
    AsciiFoldingFilter, Language, LowerCaser, RemoveLongFilter, Stemmer, TextAnalyzer, Token, TokenStream, Tokenizer,
};
use tantivy::{Index, IndexReader, IndexWriter, ReloadPolicy, TantivyDocument, TantivyError, Term};

use crate::error::{Error, ErrorKind, Result, disk_full, io_error, is_full_disk};
use folder::Folder;

/// Name of the analyzer in the index's schema.
const ANALYZER: &str = "saequel_words";
/// Memory for documents that are not yet in a segment, bytes.
const WRITER_BYTES: usize = 64 << 20;
/// Words longer than this are no words (base64, hashes); bytes.
const LONGEST_WORD: usize = 80;

/// The word index of one corpus, or of any set of texts.
pub(crate) struct Words {
    index: Index,
    reader: IndexReader,
    doc_id: Field,
    text: Field,
    place: String,
}

/// A writer of [`Words`]. Nothing shows before [`Self::commit`].
pub(crate) struct WordsWriter {
    writer: IndexWriter,
    doc_id: Field,
    text: Field,
    place: String,
}

fn failed(place: &str, error: TantivyError) -> Error {
    if is_full_disk(&error) {
        return disk_full(&format!("({place})"));
    }
    if let TantivyError::OpenReadError(OpenReadError::IoError { io_error, filepath }) = &error
        && io_error.kind() == std::io::ErrorKind::PermissionDenied
    {
        return Error::new(ErrorKind::Denied, format!("{place}: {} may not be read", filepath.display()));
    }
    let kind = match error {
        TantivyError::DataCorruption(_) | TantivyError::OpenReadError(_) => ErrorKind::Corrupt,
        TantivyError::IoError(_) | TantivyError::LockFailure(..) => ErrorKind::Io,
        _ => ErrorKind::Internal,
    };
    Error::new(kind, place).with_source(error)
}

fn schema() -> (Schema, Field, Field) {
    let mut builder = Schema::builder();
    let doc_id = builder.add_text_field("doc_id", STRING | FAST);
    let indexing = TextFieldIndexing::default().set_tokenizer(ANALYZER).set_index_option(IndexRecordOption::WithFreqs);
    let text = builder.add_text_field("text", TextOptions::default().set_indexing_options(indexing));
    (builder.build(), doc_id, text)
}

fn analyzer() -> TextAnalyzer {
    TextAnalyzer::builder(WordSplitter::default())
        .filter(RemoveLongFilter::limit(LONGEST_WORD))
        .filter(LowerCaser)
        .filter(AsciiFoldingFilter)
        .filter(Stemmer::new(Language::English))
        .build()
}

impl Words {
    /// Opens the index in a folder; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) fn open(dir: &Path) -> Result<Option<Self>> {
        let place = format!("word index {}", dir.display());
        if !dir.join("meta.json").exists() {
            return Ok(None);
        }
        let folder = MmapDirectory::open(dir).map_err(|error| failed(&place, error.into()))?;
        let index = Index::open(Folder(folder)).map_err(|error| failed(&place, error))?;
        Self::new(index, place).map(Some)
    }

    /// Opens the index in a folder or makes it; one that cannot be opened or has other fields is made anew.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn open_or_create(dir: &Path) -> Result<Self> {
        match Self::open(dir) {
            Ok(Some(words)) if words.index.schema() == schema().0 => return Ok(words),
            Ok(None) => {}
            // All of it can be made again from the corpus.
            Ok(Some(_)) | Err(_) => {
                std::fs::remove_dir_all(dir).map_err(|error| io_error("cannot replace the word index", dir, error))?;
            }
        }
        std::fs::create_dir_all(dir).map_err(|error| io_error("cannot make the word index", dir, error))?;
        let place = format!("word index {}", dir.display());
        let index = Index::create_in_dir(dir, schema().0).map_err(|error| failed(&place, error))?;
        Self::new(index, place)
    }

    fn new(index: Index, place: String) -> Result<Self> {
        index.tokenizers().register(ANALYZER, analyzer());
        let field = |name: &str| index.schema().get_field(name).map_err(|error| failed(&place, error));
        let (doc_id, text) = (field("doc_id")?, field("text")?);
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into();
        let reader = reader.map_err(|error| failed(&place, error))?;
        Ok(Self { index, reader, doc_id, text, place })
    }

    /// Version of the dataset that the newest commit covers; 0 if it covers none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) fn covers(&self) -> Result<u64> {
        let metas = self.index.load_metas().map_err(|error| failed(&self.place, error))?;
        Ok(metas.payload.and_then(|payload| payload.parse().ok()).unwrap_or(0))
    }

    /// Documents in the newest commit.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) fn count(&self) -> Result<u64> {
        self.reader.reload().map_err(|error| failed(&self.place, error))?;
        Ok(self.reader.searcher().num_docs())
    }

    /// All `doc_id`s of the newest commit.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) fn doc_ids(&self) -> Result<Vec<String>> {
        self.reader.reload().map_err(|error| failed(&self.place, error))?;
        let mut ids = Vec::new();
        for segment in self.reader.searcher().segment_readers() {
            let column = id_column(segment).map_err(|error| failed(&self.place, error))?;
            for doc in segment.doc_ids_alive() {
                ids.push(id_of(&column, doc).map_err(|error| failed(&self.place, error))?);
            }
        }
        Ok(ids)
    }

    /// A writer; there may be one at a time.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn writer(&self) -> Result<WordsWriter> {
        let writer = self.index.writer_with_num_threads(1, WRITER_BYTES).map_err(|error| failed(&self.place, error))?;
        Ok(WordsWriter { writer, doc_id: self.doc_id, text: self.text, place: self.place.clone() })
    }

    /// Ranks documents that have a word of `query`, best first, equal scores by `doc_id`; at most `limit` (which of those
    /// that share the last score are left out is the index's choice), and only among `restrict` if given (scores then
    /// still use the frequencies of the whole index).
    ///
    /// Every text is a query: there is no syntax that could be wrong. No word gives no hit.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], [`ErrorKind::Io`].
    pub(crate) fn search(&self, query: &str, limit: usize, restrict: Option<&HashSet<String>>) -> Result<Vec<WordHit>> {
        let failed = |error| failed(&self.place, error);
        let mut terms: Vec<(String, f32)> = Vec::new();
        let mut positions: HashMap<String, usize> = HashMap::new();
        let mut analyzer = analyzer();
        analyzer.token_stream(query).process(&mut |token: &Token| {
            let at = *positions.entry(token.text.clone()).or_insert_with(|| {
                terms.push((token.text.clone(), 0.0));
                terms.len() - 1
            });
            terms[at].1 += 1.0;
        });
        if terms.is_empty() || limit == 0 || restrict.is_some_and(HashSet::is_empty) {
            return Ok(Vec::new());
        }
        let words = terms.into_iter().map(|(word, weight)| {
            let term = Term::from_field_text(self.text, &word);
            let query: Box<dyn Query> = Box::new(TermQuery::new(term, IndexRecordOption::WithFreqs));
            let query = if weight > 1.0 { Box::new(tantivy::query::BoostQuery::new(query, weight)) } else { query };
            (Occur::Should, query)
        });
        let mut query: Box<dyn Query> = Box::new(BooleanQuery::new(words.collect()));
        if let Some(ids) = restrict {
            let ids = TermSetQuery::new(ids.iter().map(|id| Term::from_field_text(self.doc_id, id)));
            let ids: Box<dyn Query> = Box::new(ConstScoreQuery::new(Box::new(ids), 0.0));
            query = Box::new(BooleanQuery::new(vec![(Occur::Must, query), (Occur::Must, ids)]));
        }
        self.reader.reload().map_err(failed)?;
        let searcher = self.reader.searcher();
        let found = searcher
            .search(&query, &TopDocs::with_limit(limit.min(searcher.num_docs() as usize).max(1)).order_by_score())
            .map_err(failed)?;
        let mut columns: HashMap<u32, StrColumn> = HashMap::new();
        let mut hits = Vec::with_capacity(found.len());
        for (score, address) in found {
            let column = match columns.entry(address.segment_ord) {
                std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
                std::collections::hash_map::Entry::Vacant(entry) => {
                    entry.insert(id_column(searcher.segment_reader(address.segment_ord)).map_err(failed)?)
                }
            };
            hits.push(WordHit { doc_id: id_of(column, address.doc_id).map_err(failed)?, score });
        }
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.doc_id.cmp(&b.doc_id)));
        Ok(hits)
    }
}

fn id_column(segment: &tantivy::SegmentReader) -> tantivy::Result<StrColumn> {
    let column = segment.fast_fields().str("doc_id")?;
    column.ok_or_else(|| TantivyError::InternalError("the word index has no doc_id column".to_owned()))
}

fn id_of(column: &StrColumn, doc: u32) -> tantivy::Result<String> {
    let mut id = String::new();
    if let Some(ord) = column.term_ords(doc).next() {
        column.ord_to_str(ord, &mut id)?;
    }
    Ok(id)
}

impl WordsWriter {
    /// Adds a document; one that is there already must be deleted first.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn add(&self, doc_id: &str, text: &str) -> Result<()> {
        let mut document = TantivyDocument::default();
        document.add_text(self.doc_id, doc_id);
        document.add_text(self.text, text);
        self.writer.add_document(document).map(drop).map_err(|error| failed(&self.place, error))
    }

    /// Deletes a document, if it is there.
    pub(crate) fn delete(&self, doc_id: &str) {
        self.writer.delete_term(Term::from_field_text(self.doc_id, doc_id));
    }

    /// Makes all changes visible; they cover the dataset up to `version`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; the index is then as it was.
    pub(crate) fn commit(&mut self, version: u64) -> Result<()> {
        let mut commit = self.writer.prepare_commit().map_err(|error| failed(&self.place, error))?;
        commit.set_payload(&version.to_string());
        commit.commit().map(drop).map_err(|error| failed(&self.place, error))
    }

    /// Waits until segments that are being merged are merged.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub(crate) fn finish(self) -> Result<()> {
        self.writer.wait_merging_threads().map_err(|error| failed(&self.place, error))
    }
}

/// Splits text into words; see the module.
#[derive(Clone, Default)]
struct WordSplitter {
    token: Token,
}

struct WordStream<'a> {
    text: &'a str,
    /// Where the next word is looked for.
    at: usize,
    /// The unspaced character before `at`, if it was the last word: it forms a pair with the next one.
    previous: Option<(usize, char)>,
    /// A character that is to follow the pair that was just given.
    pending: Option<(usize, char)>,
    token: &'a mut Token,
}

/// Scripts without spaces between words, by their Unicode blocks.
fn unspaced(c: char) -> bool {
    matches!(u32::from(c),
        0x0e00..=0x0eff      // Thai, Lao
        | 0x1000..=0x109f    // Myanmar
        | 0x1780..=0x17ff    // Khmer
        | 0x3040..=0x30ff    // Hiragana, Katakana
        | 0x31f0..=0x31ff    // Katakana extensions
        | 0x3400..=0x4dbf    // Han extension A
        | 0x4e00..=0x9fff    // Han
        | 0xac00..=0xd7af    // Hangul: agglutinating, so parts of words must match
        | 0xf900..=0xfaff    // Han compatibility
        | 0x20000..=0x3ffff) // Han extensions
}

impl Tokenizer for WordSplitter {
    type TokenStream<'a> = WordStream<'a>;

    fn token_stream<'a>(&'a mut self, text: &'a str) -> WordStream<'a> {
        self.token.reset();
        WordStream { text, at: 0, previous: None, pending: None, token: &mut self.token }
    }
}

impl WordStream<'_> {
    fn give(&mut self, from: usize, to: usize) -> bool {
        self.token.text.clear();
        self.token.text.push_str(&self.text[from..to]);
        self.token.position = self.token.position.wrapping_add(1);
        (self.token.offset_from, self.token.offset_to) = (from, to);
        true
    }
}

impl TokenStream for WordStream<'_> {
    fn advance(&mut self) -> bool {
        if let Some((from, c)) = self.pending.take() {
            self.previous = Some((from, c));
            return self.give(from, from + c.len_utf8());
        }
        loop {
            let Some(c) = self.text[self.at..].chars().next() else { return false };
            let from = self.at;
            self.at += c.len_utf8();
            if unspaced(c) && c.is_alphanumeric() {
                if let Some((before, _)) = self.previous {
                    self.pending = Some((from, c));
                    return self.give(before, self.at);
                }
                self.previous = Some((from, c));
                return self.give(from, self.at);
            }
            self.previous = None;
            if c.is_alphanumeric() {
                let rest = &self.text[self.at..];
                let end = rest.find(|c: char| !c.is_alphanumeric() || unspaced(c)).unwrap_or(rest.len());
                self.at += end;
                return self.give(from, self.at);
            }
        }
    }

    fn token(&self) -> &Token {
        self.token
    }

    fn token_mut(&mut self) -> &mut Token {
        self.token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        analyzer().token_stream(text).process(&mut |token: &Token| found.push(token.text.clone()));
        found
    }

    #[test]
    fn words_of_many_scripts() {
        assert_eq!(words("The Dogs' café, running!"), ["the", "dog", "cafe", "run"]);
        assert_eq!(words("我爱猫 ok"), ["我", "我爱", "爱", "爱猫", "猫", "ok"]);
        assert_eq!(words("GPT4模型x"), ["gpt4", "模", "模型", "型", "x"]);
        assert!(words(" \u{1f600} ... ").is_empty());
        assert!(words(&"x".repeat(500)).is_empty());
    }

    #[test]
    fn an_index_is_searched_changed_and_reopened() {
        let dir = tempfile::tempdir().unwrap();
        let words = Words::open_or_create(dir.path()).unwrap();
        assert_eq!((words.covers().unwrap(), words.count().unwrap()), (0, 0));
        let mut writer = words.writer().unwrap();
        writer.add("a", "Apologies: I am sorry, so sorry").unwrap();
        writer.add("b", "I am a sorry sight among many other words that dilute it").unwrap();
        writer.add("c", "猫が好きです").unwrap();
        writer.commit(3).unwrap();
        writer.add("d", "never committed, sorry").unwrap();
        drop(writer);
        let ids = |hits: Vec<WordHit>| hits.into_iter().map(|hit| hit.doc_id).collect::<Vec<_>>();
        let words = Words::open(dir.path()).unwrap().unwrap();
        assert_eq!((words.covers().unwrap(), words.count().unwrap()), (3, 3));
        assert_eq!(ids(words.search("sorry", 10, None).unwrap()), ["a", "b"]);
        assert_eq!(ids(words.search("sorry", 1, None).unwrap()), ["a"]);
        assert_eq!(ids(words.search("sorry", 10, Some(&HashSet::from(["b".to_owned()]))).unwrap()), ["b"]);
        assert_eq!(ids(words.search("猫", 10, None).unwrap()), ["c"]);
        assert!(words.search("\"AND ( :", 10, None).unwrap().is_empty());
        let mut writer = words.writer().unwrap();
        writer.delete("a");
        writer.delete("b");
        writer.add("b", "replaced").unwrap();
        writer.commit(4).unwrap();
        writer.finish().unwrap();
        assert!(words.search("sorry", 10, None).unwrap().is_empty());
        assert_eq!(ids(words.search("replacing", 10, None).unwrap()), ["b"]);
        let mut all = words.doc_ids().unwrap();
        all.sort();
        assert_eq!(all, ["b", "c"]);
    }

    #[test]
    fn a_damaged_index_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("meta.json"), "{").unwrap();
        assert!(Words::open(dir.path()).is_err());
        assert_eq!(Words::open_or_create(dir.path()).unwrap().count().unwrap(), 0);
    }
}
