//! How a reader is loaded and run.

use std::path::PathBuf;

/// Options of [`crate::Reader::load`].
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// Threads for reading and encoding; default: all cores.
    pub threads: usize,
    /// Where weights are kept; default `$SAEQUEL_CACHE`, else `~/.cache/saequel`.
    pub cache_dir: PathBuf,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        let cache_dir = std::env::var_os("SAEQUEL_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(std::env::temp_dir);
            home.join(".cache").join("saequel")
        });
        Self { threads: std::thread::available_parallelism().map_or(1, usize::from), cache_dir }
    }
}
