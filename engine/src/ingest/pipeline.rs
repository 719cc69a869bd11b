//! Three stages that run at the same time: one thread reads and leaves out what is there already, one encodes, and the
//! caller's task writes. Between them are short queues, so that memory is bounded by a few chunks and one commit.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::{filter, filter_record_batch};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use saequel_encoder::Precision;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::conversation::{Conversations, Read, readings};
use super::documents::Encoded;
use super::given::{Given, hash_lists};
use super::read::{Opened, Part, Roles, check_column, open, roles, wanted};
use super::typed::Rows;
use crate::catalog::CorpusInfo;
use crate::encoder::{EncodedDocument, Encoder};
use crate::engine::{ImportOptions, OnBadRow, OnConflict};
use crate::error::{Error, ErrorKind, Result};
use crate::reader::{ChatTemplate, Passage};
use crate::store::hex;

/// Longest `doc_id`, bytes.
const LONGEST_ID: usize = 1024;
/// Chunks that wait between two stages.
const QUEUE: usize = 2;

/// What turns texts into embeddings and features: the encoder, or a stand-in in tests of the rest.
pub(crate) trait Encode: Send + Sync + 'static {
    /// See [`Encoder::encode`].
    fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>>;

    /// See [`Encoder::encode_passages`]; a stand-in reads the texts alone.
    fn encode_passages(&self, passages: &[Passage<'_>]) -> Result<Vec<EncodedDocument>> {
        self.encode(&passages.iter().map(Passage::text).collect::<Vec<_>>())
    }

    /// Name of the reader, and how conversations become text, if it was made for them.
    fn chat(&self) -> (&str, Option<&ChatTemplate>) {
        ("", None)
    }

    /// Numbers in which it multiplies.
    fn precision(&self) -> Precision {
        Precision::F32
    }

    /// See [`Encoder::tokens_read`].
    fn tokens_read(&self) -> u64 {
        0
    }
}

impl Encode for Encoder {
    fn encode(&self, texts: &[&str]) -> Result<Vec<EncodedDocument>> {
        Ok(Encoder::encode(self, texts)?)
    }

    fn encode_passages(&self, passages: &[Passage<'_>]) -> Result<Vec<EncodedDocument>> {
        Ok(Encoder::encode_passages(self, passages)?)
    }

    fn chat(&self) -> (&str, Option<&ChatTemplate>) {
        (self.reader().name(), self.reader().chat_template())
    }

    fn precision(&self) -> Precision {
        self.reader().precision()
    }

    fn tokens_read(&self) -> u64 {
        Encoder::tokens_read(self)
    }
}

/// Identities of documents, 16 bytes each: the first half of their SHA-256, which no two of them share.
pub(super) struct Seen(HashSet<u128>);

impl Seen {
    pub(super) fn new() -> Self {
        Self(HashSet::new())
    }

    /// Notes an identity; whether it is new.
    pub(super) fn insert(&mut self, doc_id: &str) -> bool {
        let mut half = [0; 16];
        half.copy_from_slice(&Sha256::digest(doc_id.as_bytes())[..16]);
        self.0.insert(u128::from_le_bytes(half))
    }
}

/// Some documents on their way.
pub(super) struct Chunk {
    /// Where its rows come from, for messages.
    place: String,
    /// The user's columns.
    pub(super) columns: RecordBatch,
    /// Stored columns that the source has ready.
    pub(super) given: Vec<(String, ArrayRef)>,
    pub(super) doc_ids: Vec<String>,
    /// What is to be read, nothing if there is no encoder.
    pub(super) readings: Vec<Read>,
    /// Whether one of them replaces a document of the corpus or of this source.
    pub(super) replaces: bool,
    /// Rows read for this chunk, those left out included.
    pub(super) read: u64,
    /// Rows left out because they are there already.
    pub(super) skipped: u64,
    /// Places and reasons of rows that cannot be read.
    pub(super) set_aside: Vec<String>,
}

/// What a stage hands to the next.
pub(super) enum Message {
    Chunk(Chunk, Vec<Encoded>),
    /// All was read.
    End,
    Failed(Error),
}

/// What the reading thread needs.
pub(super) struct Reading {
    pub(super) options: ImportOptions,
    /// Opened already, to know the columns.
    pub(super) first: Opened,
    pub(super) others: Vec<Part>,
    pub(super) roles: Roles,
    pub(super) corpus: Arc<CorpusInfo>,
    /// Types of the columns that the corpus has or will have from the parts before.
    pub(super) known: HashMap<String, DataType>,
    pub(super) seen: Seen,
    /// Columns with features or embeddings that were computed elsewhere.
    pub(super) given: Given,
    /// Whether texts go to an encoder.
    pub(super) encodes: bool,
    /// The conversations in which they are read.
    pub(super) chat: Option<Conversations>,
}

/// Starts reading and encoding. The threads end when the receiver is dropped, when `stop` is set, or at the end.
pub(super) fn start(
    reading: Reading,
    encoder: Option<Arc<dyn Encode>>,
    stop: Arc<AtomicBool>,
) -> Result<mpsc::Receiver<Message>> {
    let (to_encoder, chunks) = mpsc::channel::<Result<Option<Chunk>>>(QUEUE);
    let (to_writer, messages) = mpsc::channel(QUEUE);
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(work);
        thread.map(drop).map_err(|error| Error::new(ErrorKind::Resources, "cannot start a thread").with_source(error))
    };
    spawn(
        "saequel-read",
        Box::new(move || {
            let mut reading = reading;
            let end = catch_unwind(AssertUnwindSafe(|| reading.all(&to_encoder, &stop))).unwrap_or_else(|panic| {
                let place = format!("reading {} after row {}", reading.first.name, reading.first.rows.read());
                Err(panicked(&place, panic.as_ref()))
            });
            // The receiver is gone only if the import has ended already.
            let _ = to_encoder.blocking_send(end.map(|()| None));
        }),
    )?;
    spawn("saequel-encode", Box::new(move || encode_all(chunks, encoder.as_deref(), &to_writer)))?;
    Ok(messages)
}

fn encode_all(
    mut chunks: mpsc::Receiver<Result<Option<Chunk>>>,
    encoder: Option<&dyn Encode>,
    out: &mpsc::Sender<Message>,
) {
    while let Some(chunk) = chunks.blocking_recv() {
        let message = match chunk {
            Ok(Some(mut chunk)) => match encoder.map_or(Ok(Vec::new()), |encoder| encode_chunk(&chunk, encoder)) {
                Ok(encoded) => {
                    chunk.readings = Vec::new();
                    Message::Chunk(chunk, encoded)
                }
                Err(error) => Message::Failed(error),
            },
            Ok(None) => Message::End,
            Err(error) => Message::Failed(error),
        };
        if out.blocking_send(message).is_err() {
            return;
        }
    }
}

fn encode_chunk(chunk: &Chunk, encoder: &dyn Encode) -> Result<Vec<Encoded>> {
    encode_readings(&chunk.readings, &chunk.place, encoder)
}

/// Encodes what is read of the documents of `place`; what cannot be read stays the reason why.
pub(super) fn encode_readings(readings: &[Read], place: &str, encoder: &dyn Encode) -> Result<Vec<Encoded>> {
    let passages: Vec<Passage<'_>> = readings.iter().flatten().cloned().collect();
    let mut encoded = encode_passages(&passages, place, encoder)?.into_iter();
    let of = |reading: &Read| match reading {
        Ok(_) => encoded.next().unwrap_or_else(|| Err("the encoder gave no answer".to_owned())),
        Err(reason) => Err(reason.clone()),
    };
    Ok(readings.iter().map(of).collect())
}

/// Encodes the texts of `place`. If that fails, each is tried alone: the failure belongs to one of them.
fn encode_passages(passages: &[Passage<'_>], place: &str, encoder: &dyn Encode) -> Result<Vec<Encoded>> {
    if passages.is_empty() {
        return Ok(Vec::new());
    }
    let encode = |passages: &[Passage<'_>]| {
        let encoded = catch_unwind(AssertUnwindSafe(|| encoder.encode_passages(passages)));
        encoded.unwrap_or_else(|panic| Err(panicked("encoding", panic.as_ref())))
    };
    let whole = match encode(passages) {
        Ok(documents) => return Ok(documents.into_iter().map(Ok).collect()),
        Err(error) => error,
    };
    let mut encoded = Vec::with_capacity(passages.len());
    for passage in passages {
        encoded.push(match encode(std::slice::from_ref(passage)) {
            Ok(mut documents) if documents.len() == 1 => Ok(documents.remove(0)),
            Ok(_) => Err("the encoder gave no answer".to_owned()),
            Err(error) => Err(error.to_string()),
        });
    }
    // If no text can be encoded, not even this one, it is not the texts.
    if encoded.iter().all(Result::is_err) && encode(&[Passage::from("a")]).is_err() {
        return Err(whole.context(place));
    }
    Ok(encoded)
}

/// The error for a panic: our mistake, but it is said where it happened.
fn panicked(place: &str, panic: &(dyn Any + Send)) -> Error {
    let said = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    Error::new(ErrorKind::Internal, format!("{place}: {}", said.unwrap_or("panicked")))
}

/// Stands for each row in its `doc_id`: 12 hexadecimal digits of the source and of what the row holds. Of the columns that
/// `raw` names the bytes are taken: there is too much in them to print it.
fn row_hashes(source: &str, batch: &RecordBatch, raw: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let (schema, options) = (batch.schema(), FormatOptions::default());
    let values: Result<Vec<_>, ArrowError> =
        batch.columns().iter().map(|array| ArrayFormatter::try_new(array, &options)).collect();
    let values = values.map_err(|error| Error::new(ErrorKind::Internal, "identifying rows").with_source(error))?;
    let hash = |row: usize| {
        let mut hash = Sha256::new();
        hash.update(source);
        for ((field, array), values) in schema.fields().iter().zip(batch.columns()).zip(&values) {
            // Without nulls: a column that a later row brings is null in those before.
            if raw(field.name()) {
                hash_lists(&mut hash, array, row);
            } else if array.is_valid(row) {
                hash.update(format!("\0{}\0{}", field.name(), values.value(row)));
            }
        }
        hex(&hash.finalize()[..6])
    };
    Ok((0..batch.num_rows()).map(hash).collect())
}

/// A batch without some of its columns.
fn without(batch: &RecordBatch, leave_out: impl Fn(&str) -> bool) -> Result<RecordBatch> {
    let schema = batch.schema();
    let kept: Vec<usize> = (0..schema.fields().len()).filter(|at| !leave_out(schema.field(*at).name())).collect();
    batch.project(&kept).map_err(|error| Error::new(ErrorKind::Internal, "leaving columns out").with_source(error))
}

impl Reading {
    /// Reads all parts; `Ok` at the end, when told to stop, or when nobody listens any more.
    fn all(&mut self, out: &mpsc::Sender<Result<Option<Chunk>>>, stop: &AtomicBool) -> Result<()> {
        let mut left = self.options.limit.unwrap_or(u64::MAX);
        let others = std::mem::take(&mut self.others);
        self.prepare_first()?;
        if !self.part(&mut left, out, stop)? {
            return Ok(());
        }
        for part in others {
            if left == 0 {
                break;
            }
            self.first = open(&part, &self.options)?;
            self.roles = roles(&self.first, &self.options, Some(&self.corpus))?;
            self.prepare_first()?;
            if !self.part(&mut left, out, stop)? {
                break;
            }
        }
        Ok(())
    }

    fn prepare_first(&mut self) -> Result<()> {
        self.first.rows.prepare(wanted(&self.roles, &self.known))
    }

    /// Reads the opened part; whether to go on with the next.
    fn part(&mut self, left: &mut u64, out: &mpsc::Sender<Result<Option<Chunk>>>, stop: &AtomicBool) -> Result<bool> {
        let mut read_before = 0;
        loop {
            if *left == 0 || stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            let rows = self.first.rows.next()?;
            let read = self.first.rows.read() - read_before;
            read_before += read;
            let mut set_aside = self.first.rows.take_set_aside();
            let ended = rows.is_none();
            let rows = match rows {
                Some(rows) => Some(self.at_most(rows, left)),
                None if set_aside.is_empty() && read == 0 => return Ok(true),
                None => None,
            };
            let chunk = self.chunk(rows, read, &mut set_aside)?;
            if out.blocking_send(Ok(Some(chunk))).is_err() {
                return Ok(false);
            }
            if ended {
                return Ok(true);
            }
        }
    }

    fn at_most(&self, mut rows: Rows, left: &mut u64) -> Rows {
        let n = rows.rows.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
        *left -= n as u64;
        if n < rows.rows.len() {
            rows.batch = rows.batch.slice(0, n);
            rows.rows.truncate(n);
            if let Some(keys) = &mut rows.keys {
                keys.truncate(n);
            }
        }
        rows
    }

    /// Gives documents their identities and leaves out those that are there already.
    fn chunk(&mut self, rows: Option<Rows>, read: u64, set_aside: &mut Vec<String>) -> Result<Chunk> {
        let mut rows = rows.unwrap_or_else(Rows::none);
        let taken = |column: &str| self.given.takes(column);
        let hashes = if rows.keys.is_none() { row_hashes(&self.first.hash, &rows.batch, taken)? } else { Vec::new() };
        let (mut given, mut bad) = (Vec::new(), BTreeMap::new());
        if !rows.rows.is_empty() {
            let converted = self.given.convert(&self.first.name, &rows.batch, &rows.rows)?;
            (given, bad) = (converted.columns, converted.bad);
        }
        rows.batch = without(&rows.batch, taken)?;
        for field in rows.batch.schema().fields() {
            check_column(&self.first.name, field.name(), self.roles.key.as_deref())?;
        }
        let mut kept = Vec::with_capacity(rows.rows.len());
        let mut doc_ids = Vec::with_capacity(rows.rows.len());
        let (mut replaces, mut skipped) = (false, 0);
        for (at, row) in rows.rows.iter().enumerate() {
            if let Some(reason) = bad.remove(&at) {
                if self.options.on_bad_row == OnBadRow::Fail {
                    return Err(Error::new(ErrorKind::Data, reason));
                }
                set_aside.push(reason);
                kept.push(false);
                continue;
            }
            let doc_id = match &rows.keys {
                None => format!("{}-{row}", hashes[at]),
                Some(keys) => match self.key(keys[at].as_deref(), *row) {
                    Ok(key) => key,
                    Err(error) if self.options.on_bad_row == OnBadRow::SetAside => {
                        set_aside.push(error.to_string());
                        kept.push(false);
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            let new = self.seen.insert(&doc_id);
            match self.options.on_conflict {
                _ if new => {}
                OnConflict::Update => replaces = true,
                OnConflict::Skip => {
                    skipped += 1;
                    kept.push(false);
                    continue;
                }
                OnConflict::Fail => {
                    let message = format!(
                        "{}, row {row}: document '{doc_id}' is there already; to replace it import with on conflict \
                         update, to keep the stored one with on conflict skip",
                        self.first.name
                    );
                    return Err(Error::new(ErrorKind::Exists, message));
                }
            }
            kept.push(true);
            doc_ids.push(doc_id);
        }
        let columns = if doc_ids.len() == kept.len() {
            rows.batch
        } else {
            let failed = |error| Error::new(ErrorKind::Internal, "leaving rows out").with_source(error);
            let kept = BooleanArray::from(kept);
            for (_, column) in &mut given {
                *column = filter(column, &kept).map_err(failed)?;
            }
            filter_record_batch(&rows.batch, &kept).map_err(failed)?
        };
        if !doc_ids.is_empty() {
            for field in columns.schema().fields() {
                self.known.entry(field.name().clone()).or_insert_with(|| field.data_type().clone());
            }
        }
        let readings = match self.encodes {
            true => readings(&columns, &self.roles.text_columns, self.chat.as_ref()),
            false => Vec::new(),
        };
        let (first, last) = (rows.rows.first().unwrap_or(&0), rows.rows.last().unwrap_or(&0));
        let place = format!("{}, rows {first} to {last}", self.first.name);
        let set_aside = std::mem::take(set_aside);
        Ok(Chunk { place, columns, given, doc_ids, readings, replaces, read, skipped, set_aside })
    }

    fn key(&self, key: Option<&str>, row: u64) -> Result<String> {
        let column = self.roles.key.as_deref().unwrap_or_default();
        let bad = |what: &str| {
            Err(Error::new(ErrorKind::Data, format!("{}, row {row}, key column '{column}': {what}", self.first.name)))
        };
        match key {
            None => bad("it is empty, so the document has no identity"),
            Some(key) if key.len() > LONGEST_ID => {
                bad(&format!("it has {} bytes, at most {LONGEST_ID} are possible", key.len()))
            }
            Some(key) => Ok(key.to_owned()),
        }
    }
}
