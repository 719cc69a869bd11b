//! How a reader is loaded and run.

use std::path::PathBuf;

/// Numbers in which a reader and its dictionaries multiply.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    #[default]
    F32,
    /// Both factors of every product with weights rounded to bf16 (8 bits of mantissa), sums in `f32`; norms, softmax and
    /// attention stay `f32`. Faster where the processor multiplies bf16; the few features whose activation lies near a
    /// threshold change.
    Bf16,
}

impl Precision {
    /// `f32` or `bf16`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }

    /// Whether this processor has instructions for it; without them [`Self::Bf16`] gives the same features, but no speed.
    pub fn is_native(self) -> bool {
        self == Self::F32 || crate::reader::packed::has_bf16()
    }
}

impl std::str::FromStr for Precision {
    type Err = crate::Error;

    /// # Errors
    /// [`crate::ErrorKind::Query`] for another name.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            _ => {
                let message = format!("precision '{name}' is unknown; expected f32 or bf16");
                Err(crate::Error::new(crate::ErrorKind::Query, message))
            }
        }
    }
}

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
    /// Numbers in which it multiplies; default `f32`.
    pub precision: Precision,
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
            precision: Precision::F32,
        }
    }
}
