//! Postings of a corpus's features in plain files beside it, so that the documents with the largest weighted sums of
//! activations are found without reading the others.
//!
//! ```text
//! cache/postings/<corpus>-<made>/<n>.postings
//!   chunk | chunk | ... | footer (JSON) | its length, u64 | magic
//!   chunk: directory (starts u32, largest f16) | lists u16 | ends of doc_ids u32 | doc_ids
//! ```
//!
//! A chunk is what [`saequel_udfs::kernels::postings`] searches. A file covers whole fragments of the dataset, which it
//! knows by the names of their data files. These never change once written, and their names are never used again: a file
//! of postings is never out of date, whatever is committed later. Documents that were deleted since are masked, fragments
//! that are gone too, and fragments that no file covers are read, or get a file of their own if they are large. Files are
//! written under another name and moved to their own when they are complete, so that a process that dies leaves nothing
//! that counts; all of it can be made again.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::array::{Array, ArrowPrimitiveType, AsArray, RecordBatch};
use arrow::datatypes::{Float16Type, UInt32Type, UInt64Type};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use futures::TryStreamExt;
use half::f16;
use lance::dataset::fragment::FileFragment;
use lance::datatypes::Field;
use saequel_udfs::FeatureId;
use saequel_udfs::kernels::postings::{CHUNK_DOCS, Chunk, ChunkBuilder, Search, Term};
use serde::{Deserialize, Serialize};

use super::corpus::{BATCH_BYTES, IO_BUFFER_BYTES};
use super::{Snapshot, Store};
use crate::error::{Error, ErrorKind, Result, io_error};
use crate::schema;

/// How a file ends; the digit is the version of the format.
const MAGIC: &[u8; 8] = b"SAEQPST1";
/// Documents outside of all files that are read rather than indexed.
const READ_DOCS: usize = if cfg!(test) { 2 } else { 8192 };
/// Files of a corpus, at most: then all become one.
const MOST_FILES: usize = 8;
/// Features in the documents of a chunk that is closed before it is full, about: 80 MB while it is made.
const CHUNK_PRESENT: usize = 8 << 20;
/// Documents by which a chunk grows: its bits in a mask then start with a word.
const CHUNK_STEP: usize = 4096;

/// The files that are open, by corpus, and who makes one.
#[derive(Default)]
pub(super) struct PostingsCache {
    open: Mutex<HashMap<PathBuf, Arc<PostingsFile>>>,
    turn: tokio::sync::Mutex<()>,
}

/// What a file ends with.
#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    id_bound: usize,
    /// The fragments that it covers, in the order of its documents.
    sources: Vec<SourceFragment>,
    chunks: Vec<ChunkPlace>,
}

/// A fragment: its rows, deleted ones included, are so many documents of a file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
struct SourceFragment {
    /// Data files of the columns that are read.
    files: Vec<String>,
    rows: usize,
}

/// Where a chunk lies in its file.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct ChunkPlace {
    n_docs: usize,
    directory: u64,
    lists: u64,
    names: u64,
    end: u64,
}

/// An open file.
struct PostingsFile {
    path: PathBuf,
    file: File,
    footer: Footer,
    directories: Vec<Directory>,
}

/// Where each list of a chunk starts, in words, and its largest activation.
struct Directory {
    starts: Vec<u32>,
    largest: Vec<f16>,
}

/// The postings that cover a version of a corpus.
pub(crate) struct Postings {
    files: Vec<Covered>,
    /// Fragments that no file covers; their documents come after those of the files.
    missing: Vec<FileFragment>,
    /// Where the documents of a fragment are: its file, and the first of them there.
    fragment_places: HashMap<u64, (usize, usize)>,
    /// Rows of missing fragments that may be found; `None` for all.
    allowed_missing: Option<HashSet<u64>>,
    snapshot: Snapshot,
}

struct Covered {
    file: Arc<PostingsFile>,
    /// Place of its first document among all.
    first: u64,
    /// A bit for each document that may be found; `None` for all.
    allowed: Option<Vec<u64>>,
}

fn bit_mask(n_docs: usize) -> Vec<u64> {
    vec![0; n_docs.div_ceil(64)]
}

/// Sets the bits of `docs`, a word at a time.
fn set(mask: &mut [u64], docs: std::ops::Range<usize>) {
    let mut at = docs.start;
    while at < docs.end {
        let end = docs.end.min((at / 64 + 1) * 64);
        let bits = if end - at == 64 { u64::MAX } else { ((1 << (end - at)) - 1) << (at % 64) };
        mask[at / 64] |= bits;
        at = end;
    }
}

impl PostingsFile {
    fn open(path: PathBuf) -> Result<Self> {
        let failed = |error| io_error("cannot read postings", &path, error);
        let file = File::open(&path).map_err(failed)?;
        let length = file.metadata().map_err(failed)?.len();
        let damaged = || {
            let message = format!("{} is damaged; remove it, it is made again", path.display());
            Error::new(ErrorKind::Corrupt, message)
        };
        let mut tail = [0u8; 16];
        let footer_end = length.checked_sub(tail.len() as u64).ok_or_else(damaged)?;
        read_at(&file, &mut tail, footer_end).map_err(failed)?;
        let (footer_length, magic) = tail.split_at(8);
        let footer_length = u64::from_le_bytes(footer_length.try_into().unwrap_or_default());
        if magic != MAGIC || footer_length > footer_end {
            return Err(damaged());
        }
        let mut footer = vec![0; footer_length as usize];
        read_at(&file, &mut footer, footer_end - footer_length).map_err(failed)?;
        let footer: Footer = serde_json::from_slice(&footer).map_err(|_| damaged())?;
        let mut directories = Vec::with_capacity(footer.chunks.len());
        for place in &footer.chunks {
            let mut bytes = vec![0; (footer.id_bound + 1) * size_of::<u32>() + footer.id_bound * size_of::<f16>()];
            read_at(&file, &mut bytes, place.directory).map_err(failed)?;
            let (starts, largest) = bytes.split_at((footer.id_bound + 1) * size_of::<u32>());
            directories.push(Directory {
                starts: starts.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect(),
                largest: largest.as_chunks().0.iter().map(|word| f16::from_le_bytes(*word)).collect(),
            });
        }
        Ok(Self { path, file, footer, directories })
    }

    fn n_docs(&self) -> usize {
        self.footer.sources.iter().map(|source| source.rows).sum()
    }

    fn largest(&self, chunk: usize, id: FeatureId) -> f32 {
        self.directories[chunk].largest.get(id as usize).map_or(0.0, |largest| largest.to_f32())
    }

    /// Reads a list's words.
    fn list(&self, chunk: usize, id: FeatureId, bytes: &mut Vec<u8>) -> Result<Vec<u16>> {
        let starts = &self.directories[chunk].starts;
        let (Some(start), Some(end)) = (starts.get(id as usize), starts.get(id as usize + 1)) else {
            return Ok(Vec::new());
        };
        bytes.resize(end.saturating_sub(*start) as usize * size_of::<u16>(), 0);
        let at = self.footer.chunks[chunk].lists + u64::from(*start) * size_of::<u16>() as u64;
        read_at(&self.file, bytes, at).map_err(|error| io_error("cannot read postings", &self.path, error))?;
        Ok(bytes.as_chunks().0.iter().map(|word| u16::from_le_bytes(*word)).collect())
    }

    fn doc_id(&self, mut doc: usize) -> Result<String> {
        let failed = |error| io_error("cannot read postings", &self.path, error);
        for place in &self.footer.chunks {
            if doc >= place.n_docs {
                doc -= place.n_docs;
                continue;
            }
            let mut ends = [0u8; 8];
            let ends = if doc == 0 { &mut ends[4..] } else { &mut ends[..] };
            let at = place.names + doc.saturating_sub(1) as u64 * size_of::<u32>() as u64;
            read_at(&self.file, ends, at).map_err(failed)?;
            let number = |bytes: &[u8]| u64::from(u32::from_le_bytes(bytes.try_into().unwrap_or_default()));
            let (start, end) = if doc == 0 { (0, number(ends)) } else { (number(&ends[..4]), number(&ends[4..])) };
            let mut name = vec![0; end.saturating_sub(start) as usize];
            let names = place.names + place.n_docs as u64 * size_of::<u32>() as u64;
            read_at(&self.file, &mut name, names + start).map_err(failed)?;
            return String::from_utf8(name).map_err(|_| {
                let message = format!("{} is damaged; remove it, it is made again", self.path.display());
                Error::new(ErrorKind::Corrupt, message)
            });
        }
        Err(Error::new(ErrorKind::Internal, "postings: a document that no chunk holds"))
    }
}

#[cfg(unix)]
fn read_at(file: &File, bytes: &mut [u8], at: u64) -> std::io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(windows)]
fn read_at(file: &File, mut bytes: &mut [u8], mut at: u64) -> std::io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_read(file, bytes, at)? {
            0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
            n => (bytes, at) = (&mut bytes[n..], at + n as u64),
        }
    }
    Ok(())
}

/// A file in the making.
struct Writing {
    file: BufWriter<tempfile::NamedTempFile>,
    at: u64,
    footer: Footer,
    chunk: ChunkBuilder,
    name_ends: Vec<u32>,
    names: String,
    n_docs: usize,
}

impl Writing {
    fn new(folder: &Path, id_bound: usize, sources: Vec<SourceFragment>) -> std::io::Result<Self> {
        let file = tempfile::Builder::new().prefix("unfinished-").tempfile_in(folder)?;
        Ok(Self {
            file: BufWriter::new(file),
            at: 0,
            footer: Footer { id_bound, sources, chunks: Vec::new() },
            chunk: ChunkBuilder::default(),
            name_ends: Vec::new(),
            names: String::new(),
            n_docs: 0,
        })
    }

    /// Adds document `doc` of the file; those before it that were not added are empty.
    fn push(&mut self, doc: usize, doc_id: &str, ids: &[FeatureId], activations: &[f16]) -> std::io::Result<()> {
        self.fill(doc)?;
        self.names.push_str(doc_id);
        self.one(ids, activations)
    }

    fn fill(&mut self, n_docs: usize) -> std::io::Result<()> {
        while self.n_docs < n_docs {
            self.one(&[], &[])?;
        }
        Ok(())
    }

    fn one(&mut self, ids: &[FeatureId], activations: &[f16]) -> std::io::Result<()> {
        self.chunk.push(ids, activations);
        self.name_ends.push(self.names.len() as u32);
        self.n_docs += 1;
        let n_docs = self.chunk.n_docs();
        let full = n_docs == CHUNK_DOCS || self.chunk.n_present() >= CHUNK_PRESENT || self.names.len() >= 1 << 28;
        if n_docs.is_multiple_of(CHUNK_STEP) && full { self.close_chunk() } else { Ok(()) }
    }

    fn close_chunk(&mut self) -> std::io::Result<()> {
        let Chunk { n_docs, starts, largest, lists } = self.chunk.finish(self.footer.id_bound);
        let directory = self.at;
        self.words(starts.iter().map(|word| word.to_le_bytes()))?;
        self.words(largest.iter().map(|word| word.to_le_bytes()))?;
        let lists_at = self.at;
        self.words(lists.iter().map(|word| word.to_le_bytes()))?;
        let names = self.at;
        let (ends, text) = (std::mem::take(&mut self.name_ends), std::mem::take(&mut self.names));
        self.words(ends.iter().map(|word| word.to_le_bytes()))?;
        self.words(std::iter::once(text.as_bytes()))?;
        self.footer.chunks.push(ChunkPlace { n_docs, directory, lists: lists_at, names, end: self.at });
        Ok(())
    }

    fn words(&mut self, words: impl Iterator<Item = impl AsRef<[u8]>>) -> std::io::Result<()> {
        for word in words {
            self.file.write_all(word.as_ref())?;
            self.at += word.as_ref().len() as u64;
        }
        Ok(())
    }

    /// Writes the rest and gives the file its name.
    fn finish(mut self, path: &Path) -> std::io::Result<()> {
        let n_docs = self.footer.sources.iter().map(|source| source.rows).sum();
        self.fill(n_docs)?;
        if self.chunk.n_docs() > 0 {
            self.close_chunk()?;
        }
        let footer = serde_json::to_vec(&self.footer)?;
        self.file.write_all(&footer)?;
        self.file.write_all(&(footer.len() as u64).to_le_bytes())?;
        self.file.write_all(MAGIC)?;
        let file = self.file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }
}

impl Snapshot {
    /// Stored columns whose values postings hold.
    fn posted_columns(&self) -> Vec<String> {
        let mut columns = vec![schema::DOC_ID.to_owned()];
        for dictionary in &self.info.dictionaries {
            columns.extend([schema::ids_column(dictionary), schema::activations_column(dictionary)]);
        }
        columns
    }

    /// What a fragment is known by; `None` for one whose cells were overwritten.
    fn source_fragment(&self, fragment: &FileFragment) -> Option<SourceFragment> {
        fn ids(field: &Field, found: &mut HashSet<i32>) {
            found.insert(field.id);
            field.children.iter().for_each(|child| ids(child, found));
        }
        let mut fields = HashSet::new();
        let schema = self.dataset.schema();
        self.posted_columns().iter().filter_map(|name| schema.field(name)).for_each(|field| ids(field, &mut fields));
        let metadata = fragment.metadata();
        let holds = |file: &&lance::table::format::DataFile| file.fields.iter().any(|id| fields.contains(id));
        let files = metadata.files.iter().filter(holds).map(|file| file.path.clone()).collect();
        let rows = metadata.physical_rows?;
        metadata.overlays.is_empty().then_some(SourceFragment { files, rows })
    }

    /// Streams the rows of some fragments to `each`: address, doc_id, features and activations.
    async fn read_posted(
        &self,
        fragments: &[FileFragment],
        mut each: impl FnMut(u64, &str, &[FeatureId], &[f16]) -> Result<()>,
    ) -> Result<()> {
        let failed = |error| self.failed("reading features of", error);
        let mut scanner = self.dataset.scan();
        let names = self.posted_columns();
        scanner.project(&names).map_err(failed)?;
        scanner.with_fragments(fragments.iter().map(|fragment| fragment.metadata().clone()).collect());
        scanner.with_row_address().scan_in_order(true);
        scanner.batch_size_bytes(BATCH_BYTES).io_buffer_size(IO_BUFFER_BYTES);
        let mut stream = scanner.try_into_stream().await.map_err(failed)?;
        let (mut ids, mut activations) = (Vec::new(), Vec::new());
        while let Some(batch) = stream.try_next().await.map_err(failed)? {
            let columns = PostedColumns::of(&batch, &names).ok_or_else(|| {
                Error::new(ErrorKind::Corrupt, format!("corpus '{}' has columns of other types", self.info.name))
            })?;
            for row in 0..batch.num_rows() {
                ids.clear();
                activations.clear();
                for (id_lists, activation_lists) in &columns.lists {
                    append::<UInt32Type>(id_lists, row, &mut ids);
                    append::<Float16Type>(activation_lists, row, &mut activations);
                }
                each(columns.addresses.value(row), columns.doc_ids.value(row), &ids, &activations)?;
            }
        }
        Ok(())
    }
}

/// The columns of a batch of [`Snapshot::read_posted`].
struct PostedColumns<'a> {
    addresses: &'a arrow::array::UInt64Array,
    doc_ids: &'a arrow::array::StringArray,
    lists: Vec<(&'a arrow::array::ListArray, &'a arrow::array::ListArray)>,
}

impl<'a> PostedColumns<'a> {
    /// By the names of [`Snapshot::posted_columns`].
    fn of(batch: &'a RecordBatch, names: &[String]) -> Option<Self> {
        let list = |name: &String| batch.column_by_name(name)?.as_list_opt::<i32>();
        let (doc_id, dictionaries) = names.split_first()?;
        let pairs = dictionaries.as_chunks::<2>().0.iter();
        Some(Self {
            addresses: batch.column_by_name("_rowaddr")?.as_primitive_opt::<UInt64Type>()?,
            doc_ids: batch.column_by_name(doc_id)?.as_string_opt::<i32>()?,
            lists: pairs.map(|[ids, activations]| Some((list(ids)?, list(activations)?))).collect::<Option<_>>()?,
        })
    }
}

/// Adds the items of a row.
fn append<T: ArrowPrimitiveType>(lists: &arrow::array::ListArray, row: usize, to: &mut Vec<T::Native>) {
    if lists.is_valid(row)
        && let Some(values) = lists.values().as_primitive_opt::<T>()
    {
        let offsets = lists.value_offsets();
        to.extend_from_slice(&values.values()[offsets[row] as usize..offsets[row + 1] as usize]);
    }
}

impl Store {
    /// Folder of the postings of a corpus; one that is dropped and made again has another.
    fn postings_dir(&self, snapshot: &Snapshot) -> PathBuf {
        let name = format!("{}-{}", snapshot.info.name, snapshot.info.created_micros);
        self.inner.dir.join("cache").join("postings").join(name)
    }

    /// Removes the postings of a corpus, of any age.
    pub(super) fn forget_postings(&self, corpus: &str) {
        let postings = self.inner.dir.join("cache").join("postings");
        let Ok(entries) = fs::read_dir(&postings) else { return };
        let ours = |name: &str| name.rsplit_once('-').is_some_and(|(name, _)| name == corpus);
        for entry in entries.flatten().filter(|entry| entry.file_name().to_str().is_some_and(ours)) {
            // Best effort: what stays takes room and is never read.
            let _ = fs::remove_dir_all(entry.path());
            self.open_postings().retain(|path, _| !path.starts_with(entry.path()));
        }
    }

    fn open_postings(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Arc<PostingsFile>>> {
        self.inner.postings.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Files of postings in a folder, in the order in which they were made. Damaged ones are removed.
    fn postings_files(&self, folder: &Path) -> Vec<Arc<PostingsFile>> {
        let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
        let number = |path: &Path| -> Option<u64> {
            let is_ours = path.extension().is_some_and(|extension| extension == "postings");
            if is_ours { path.file_stem()?.to_str()?.parse().ok() } else { None }
        };
        let mut paths: Vec<(u64, PathBuf)> =
            entries.flatten().filter_map(|entry| Some((number(&entry.path())?, entry.path()))).collect();
        paths.sort();
        let mut files = Vec::with_capacity(paths.len());
        for (_, path) in paths {
            let known = self.open_postings().get(&path).cloned();
            match known.map_or_else(|| PostingsFile::open(path.clone()).map(Arc::new), Ok) {
                Ok(file) => {
                    self.open_postings().insert(path, Arc::clone(&file));
                    files.push(file);
                }
                Err(error) => {
                    tracing::warn!("postings are made again: {error}");
                    if !self.inner.read_only {
                        let _ = fs::remove_file(&path);
                    }
                }
            }
        }
        files
    }

    /// The postings of a version of a corpus. Those that are missing are made if it is the newest version and the database
    /// is open for writing; `None` if too many documents would have to be read.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Corrupt`].
    pub(crate) async fn postings(&self, snapshot: &Snapshot, newest: bool) -> Result<Option<Postings>> {
        let folder = self.postings_dir(snapshot);
        let mut postings = self.cover(snapshot, &folder).await?;
        let can_write = newest && !self.inner.read_only;
        if postings.missing_docs() > READ_DOCS && can_write {
            let _turn = self.inner.postings.turn.lock().await;
            postings = self.cover(snapshot, &folder).await?;
            if postings.missing_docs() > READ_DOCS {
                self.make_postings(snapshot, &folder, &postings).await?;
                postings = self.cover(snapshot, &folder).await?;
            }
        }
        Ok((postings.missing_docs() <= READ_DOCS).then_some(postings))
    }

    /// What the files of a folder cover of a version.
    async fn cover(&self, snapshot: &Snapshot, folder: &Path) -> Result<Postings> {
        let files = self.postings_files(folder);
        let mut places: HashMap<&SourceFragment, (usize, usize)> = HashMap::new();
        for (number, file) in files.iter().enumerate() {
            let mut first = 0;
            for source in &file.footer.sources {
                places.insert(source, (number, first));
                first += source.rows;
            }
        }
        let mut masks: Vec<Vec<u64>> = files.iter().map(|file| bit_mask(file.n_docs())).collect();
        let mut n_allowed = vec![0; files.len()];
        let (mut missing, mut fragment_places) = (Vec::new(), HashMap::new());
        for fragment in snapshot.dataset.get_fragments() {
            let source = snapshot.source_fragment(&fragment);
            let Some((source, (number, first))) = source.as_ref().and_then(|s| Some((s, *places.get(s)?))) else {
                missing.push(fragment);
                continue;
            };
            fragment_places.insert(fragment.id() as u64, (number, first));
            set(&mut masks[number], first..first + source.rows);
            n_allowed[number] += source.rows;
            let deleted = fragment.get_deletion_vector().await;
            if let Some(deleted) = deleted.map_err(|error| snapshot.failed("reading deletions of", error))? {
                for row in deleted.iter() {
                    let doc = first + row as usize;
                    masks[number][doc / 64] &= !(1 << (doc % 64));
                    n_allowed[number] -= 1;
                }
            }
        }
        let mut first = 0;
        let covered = files.into_iter().zip(masks).zip(n_allowed).map(|((file, mask), n_allowed)| {
            let n_docs = file.n_docs();
            let allowed = (n_allowed < n_docs).then_some(mask);
            first += n_docs as u64;
            Covered { file, first: first - n_docs as u64, allowed }
        });
        let files = covered.collect();
        Ok(Postings { files, missing, fragment_places, allowed_missing: None, snapshot: snapshot.clone() })
    }

    /// Makes a file of the fragments that are missing; of all, if there are many files or most of what they cover is gone.
    async fn make_postings(&self, snapshot: &Snapshot, folder: &Path, covered: &Postings) -> Result<()> {
        let failed = |error| io_error("cannot write postings", folder, error);
        fs::create_dir_all(folder).map_err(failed)?;
        let dead = |covered: &Covered| match &covered.allowed {
            Some(allowed) => {
                covered.file.n_docs() - allowed.iter().map(|word| word.count_ones() as usize).sum::<usize>()
            }
            None => 0,
        };
        let (n_dead, n_docs) = (
            covered.files.iter().map(dead).sum::<usize>(),
            covered.files.iter().map(|covered| covered.file.n_docs()).sum::<usize>(),
        );
        let all = covered.files.len() >= MOST_FILES || 2 * n_dead > n_docs;
        let mut fragments = if all { snapshot.dataset.get_fragments() } else { covered.missing.clone() };
        let mut sources = Vec::with_capacity(fragments.len());
        fragments.retain(|fragment| {
            let source = snapshot.source_fragment(fragment);
            sources.extend(source.clone());
            source.is_some()
        });
        let mut firsts: HashMap<u64, usize> = HashMap::new();
        let mut first = 0;
        for (fragment, source) in fragments.iter().zip(&sources) {
            firsts.insert(fragment.id() as u64, first);
            first += source.rows;
        }
        let id_bound = self.catalog().features.id_bound();
        let mut writing = Writing::new(folder, id_bound, sources).map_err(failed)?;
        snapshot
            .read_posted(&fragments, |address, doc_id, ids, activations| {
                let first = firsts.get(&(address >> 32)).copied().unwrap_or_default();
                writing.push(first + (address & 0xFFFF_FFFF) as usize, doc_id, ids, activations).map_err(failed)
            })
            .await?;
        let old: Vec<PathBuf> = covered.files.iter().map(|covered| covered.file.path.clone()).collect();
        let last = old.iter().filter_map(|path| path.file_stem()?.to_str()?.parse::<u64>().ok()).max().unwrap_or(0);
        writing.finish(&folder.join(format!("{:06}.postings", last + 1))).map_err(failed)?;
        if all {
            for path in old {
                self.open_postings().remove(&path);
                let _ = fs::remove_file(&path);
            }
        }
        Ok(())
    }
}

impl Postings {
    /// Documents that no file covers.
    fn missing_docs(&self) -> usize {
        self.missing.iter().map(|fragment| fragment.metadata().physical_rows.unwrap_or(usize::MAX / 2)).sum()
    }

    /// Leaves only the documents that satisfy all `filters` (see [`Snapshot::scan`]).
    ///
    /// # Errors
    /// As [`Snapshot::scan`].
    pub(crate) async fn restrict(&mut self, filters: &[Expr]) -> Result<()> {
        let Some(filter) = conjunction(filters.iter().cloned()) else { return Ok(()) };
        let failed = |error| self.snapshot.failed("filtering", error);
        let mut scanner = self.snapshot.dataset.scan();
        scanner.project(&["_rowaddr"]).map_err(failed)?;
        scanner.filter_expr(filter).io_buffer_size(IO_BUFFER_BYTES);
        let mut stream = scanner.try_into_stream().await.map_err(failed)?;
        let mut masks: Vec<Vec<u64>> = self.files.iter().map(|covered| bit_mask(covered.file.n_docs())).collect();
        let mut missing = HashSet::new();
        while let Some(batch) = stream.try_next().await.map_err(failed)? {
            let addresses = batch.column_by_name("_rowaddr").and_then(|column| column.as_primitive_opt::<UInt64Type>());
            let addresses =
                addresses.ok_or_else(|| Error::new(ErrorKind::Internal, "postings: a scan without addresses"))?;
            for address in addresses.values() {
                match self.fragment_places.get(&(address >> 32)) {
                    Some((number, first)) => {
                        let doc = first + (address & 0xFFFF_FFFF) as usize;
                        masks[*number][doc / 64] |= 1 << (doc % 64);
                    }
                    None => {
                        missing.insert(*address);
                    }
                }
            }
        }
        // A scan leaves out what was deleted.
        self.files.iter_mut().zip(masks).for_each(|(covered, mask)| covered.allowed = Some(mask));
        self.allowed_missing = Some(missing);
        Ok(())
    }

    /// The `k` documents with the largest sums of `query`, best first, and their sums.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Corrupt`].
    pub(crate) async fn search(self, query: &[(FeatureId, f32)], k: usize) -> Result<Vec<(String, f32)>> {
        let ids: Vec<FeatureId> = query.iter().map(|(id, _)| *id).collect();
        let largest = |id: FeatureId| {
            let of_file = |covered: &Covered| {
                let chunks = 0..covered.file.footer.chunks.len();
                chunks.map(|chunk| covered.file.largest(chunk, id)).fold(0.0, f32::max)
            };
            self.files.iter().map(of_file).fold(0.0, f32::max)
        };
        let terms: Vec<Term> =
            query.iter().map(|(id, weight)| Term { weight: *weight, largest: largest(*id) }).collect();
        let mut search = Search::new(&terms, k);
        let Self { files, missing, allowed_missing, snapshot, .. } = self;
        // A few reads of the page cache and arithmetic, but of large lists many milliseconds of it.
        let (files, mut search) = tokio::task::spawn_blocking({
            let ids = ids.clone();
            move || search_files(&files, &ids, &mut search).map(|()| (files, search))
        })
        .await
        .map_err(|error| Error::new(ErrorKind::Internal, "a thread ended unexpectedly").with_source(error))??;
        let mut names: HashMap<u64, String> = HashMap::new();
        if !missing.is_empty() {
            let mut place = files.last().map_or(0, |covered| covered.first + covered.file.n_docs() as u64);
            snapshot
                .read_posted(&missing, |address, doc_id, document, activations| {
                    let allowed = allowed_missing.as_ref().is_none_or(|allowed| allowed.contains(&address));
                    if allowed && search.document(&ids, document, activations, place) {
                        names.insert(place, doc_id.to_owned());
                    }
                    place += 1;
                    Ok(())
                })
                .await?;
        }
        let mut hits = Vec::new();
        for (place, score) in search.finish() {
            let name = match names.remove(&place) {
                Some(name) => name,
                None => {
                    let number = files.partition_point(|covered| covered.first <= place) - 1;
                    files[number].file.doc_id((place - files[number].first) as usize)?
                }
            };
            hits.push((name, score));
        }
        Ok(hits)
    }
}

fn search_files(files: &[Covered], ids: &[FeatureId], search: &mut Search) -> Result<()> {
    let mut bytes = Vec::new();
    for covered in files {
        let mut doc = 0;
        for (chunk, place) in covered.file.footer.chunks.iter().enumerate() {
            if search.can_find(ids.iter().map(|id| covered.file.largest(chunk, *id))) {
                let lists: Vec<Vec<u16>> =
                    ids.iter().map(|id| covered.file.list(chunk, *id, &mut bytes)).collect::<Result<_>>()?;
                let lists: Vec<&[u16]> = lists.iter().map(Vec::as_slice).collect();
                let allowed = covered.allowed.as_ref().map(|allowed| &allowed[doc / 64..]);
                search.chunk(&lists, place.n_docs, covered.first + doc as u64, allowed);
            }
            doc += place.n_docs;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
