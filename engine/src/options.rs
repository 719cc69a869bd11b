//! How a database is opened.

use std::path::PathBuf;

/// Options of [`crate::Engine::open`].
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// Open without the right to write; default false. A read-only engine creates no folder.
    pub read_only: bool,
    /// Memory that queries may hold together, in bytes; default 2 GiB. Larger sorts and joins spill to disk. Beside it a
    /// quarter as much keeps columns that were decoded already (not texts, not embeddings).
    pub memory_limit_bytes: usize,
    /// Threads for encoding and for query partitions; default: all cores.
    pub threads: usize,
    /// Where readers' weights are kept between databases; default `$SAEQUEL_CACHE`, else `~/.cache/saequel`.
    pub cache_dir: PathBuf,
    /// Numbers in which readers and dictionaries multiply; default `f32`.
    pub precision: saequel_encoder::Precision,
    /// Folders whose files a statement may read (`FROM 'file.parquet'`, `IMPORT INTO`), beside the database folder;
    /// `None` (default of the command line) allows every file that the process can read; `Some(vec![])` (default of the
    /// server) allows none.
    pub allowed_dirs: Option<Vec<PathBuf>>,
    /// Files that no statement may read, wherever they lie and by whatever name or link: tokens, keys, logs; default none.
    pub secret_files: Vec<PathBuf>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        let saequel_encoder::ReaderOptions { threads, cache_dir, precision, .. } =
            saequel_encoder::ReaderOptions::default();
        Self {
            read_only: false,
            memory_limit_bytes: 2 << 30,
            threads,
            cache_dir,
            precision,
            allowed_dirs: None,
            secret_files: Vec::new(),
        }
    }
}

impl EngineOptions {
    /// The part that concerns readers.
    pub fn reader(&self) -> saequel_encoder::ReaderOptions {
        saequel_encoder::ReaderOptions {
            threads: self.threads,
            cache_dir: self.cache_dir.clone(),
            precision: self.precision,
            ..saequel_encoder::ReaderOptions::default()
        }
    }
}
