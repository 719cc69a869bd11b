//! The catalog on disk: which corpora, readers, dictionaries, features, concepts and jobs there are.
//!
//! Small Lance tables under `catalog/`; [`Catalog`] is the in-memory picture that is loaded on opening and replaced as a
//! whole after each change.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use saequel_udfs::FeatureCatalog;

use crate::engine::Engine;
use crate::error::Result;

/// A corpus as the catalog knows it.
#[derive(Debug, Clone)]
pub struct CorpusInfo {
    /// Name: lower-case letters, digits, `_`, beginning with a letter.
    pub name: String,
    /// Columns that are read, in order.
    pub text_columns: Vec<String>,
    /// Column whose value identifies a document; `doc_id` is made from it. `None`: made from source and row number.
    pub key: Option<String>,
    /// The user's own columns with their types (text and metadata), without what saequel adds.
    pub columns: SchemaRef,
    /// Names of the dictionaries it is encoded with, in column order; the first one's column is `features`.
    pub dictionaries: Vec<String>,
    /// When it was made, microseconds since 1970 UTC.
    pub created_micros: i64,
}

/// A reader as the catalog knows it.
#[derive(Debug, Clone)]
pub struct ReaderInfo {
    /// Name, e.g. `all-MiniLM-L6-v2`.
    pub name: String,
    /// Blocks.
    pub n_layers: u32,
    /// Width of a hidden state.
    pub width: u32,
    /// Tokens of a window, special ones included.
    pub context: u32,
    /// SHA-256 of the weights.
    pub sha256: String,
}

/// A job (import, label, compact, ...) and how it went.
#[derive(Debug, Clone)]
pub struct JobInfo {
    /// Number.
    pub id: u64,
    /// `import`, `compact`, ...
    pub kind: String,
    /// Corpus or dictionary.
    pub subject: String,
    /// `running`, `done`, `failed`, `interrupted`.
    pub state: String,
    /// Rows written, skipped, set aside.
    pub detail: String,
    /// Start, microseconds since 1970 UTC.
    pub started_micros: i64,
    /// End, if it ended.
    pub finished_micros: Option<i64>,
}

/// Immutable picture of the catalog.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    /// By name.
    pub corpora: Vec<Arc<CorpusInfo>>,
    /// By name.
    pub readers: Vec<ReaderInfo>,
    /// Dictionaries, features and concepts.
    pub features: Arc<FeatureCatalog>,
    /// Newest first.
    pub jobs: Vec<JobInfo>,
}

/// A health check of [`Engine::doctor`].
#[derive(Debug, Clone)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// What was found and, if it is not well, the way out.
    pub detail: String,
}

impl Engine {
    /// Gives a feature another label (kept with source `user`).
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`].
    pub async fn rename_feature(&self, id: u32, label: &str) -> Result<()> {
        let _ = (id, label);
        todo!("owner of store")
    }

    /// Takes labels for many features at once; returns how many changed.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] if an id does not exist; then nothing is changed.
    pub async fn import_labels(&self, labels: &[(u32, String)], source: &str) -> Result<u64> {
        let _ = (labels, source);
        todo!("owner of store")
    }

    /// Makes or replaces a concept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] for a feature that does not exist.
    pub async fn put_concept(&self, name: &str, members: &[(u32, f32)]) -> Result<()> {
        let _ = (name, members);
        todo!("owner of store")
    }

    /// Removes a concept.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`].
    pub async fn drop_concept(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!("owner of store")
    }

    /// Adds a trained SAE to the database as a dictionary; returns its first feature id.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Exists`] if another dictionary has its name.
    pub async fn add_dictionary(&self, sae: &crate::sae::Sae) -> Result<u32> {
        let _ = sae;
        todo!("owner of store")
    }

    /// Looks at everything that can go wrong: folder, catalog, datasets, indexes, weights, disk space.
    ///
    /// # Errors
    /// Only if the checks themselves cannot run.
    pub async fn doctor(&self) -> Result<Vec<Check>> {
        todo!("owner of store")
    }
}
