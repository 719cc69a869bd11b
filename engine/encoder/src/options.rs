//! How a reader is loaded and run.

use std::path::PathBuf;

/// Options of [`crate::Reader::load`].
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// Threads for reading and encoding; default: all cores.
    pub threads: usize,
    /// Where weights are kept; default `$SAEQUEL_CACHE`, else `~/.cache/saequel`.
    pub cache_dir: PathBuf,
    /// Accept the terms of use of the model that is loaded, should it be fetched; default false.
    /// Those of a model that `$SAEQUEL_ACCEPT_TERMS` names (several with commas between) are accepted too.
    pub accept_terms: bool,
    /// Tokens of a window, special ones included; default 256, or less where the model's context is shorter. A longer
    /// window sees more around each token and costs more time.
    pub context: Option<usize>,
    /// Where the model runs: `cpu`, `cuda`, `cuda:1`, `metal`; default `$SAEQUEL_DEVICE`, else the accelerator that the
    /// program was built for, else `cpu`.
    pub device: Option<String>,
}

impl Default for ReaderOptions {
    fn default() -> Self {
        let cache_dir = std::env::var_os("SAEQUEL_CACHE").map(PathBuf::from).unwrap_or_else(|| {
            let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(std::env::temp_dir);
            home.join(".cache").join("saequel")
        });
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            cache_dir,
            accept_terms: false,
            context: None,
            device: std::env::var("SAEQUEL_DEVICE").ok().filter(|device| !device.is_empty()),
        }
    }
}
