//! Embedded database of document meanings.
//!
//! Five words, used unvaried: a *corpus* is a named, versioned set of documents; a *feature* is one direction of an
//! SAE's dictionary; an *activation* is its strength on a token or, pooled, on a document; a *concept* is a user's name
//! for a combination of features; a *property* is what a user asks for in words.

#[cfg(test)]
mod access_tests;
mod activation_filter;
mod activations;
mod bounded;
mod caller;
pub mod catalog;
mod doctor;
pub mod engine;
pub mod error;
mod feature_source;
mod files;
pub mod ingest;
mod join_features;
pub mod json;
mod label_embeddings;
mod named_files;
mod namespace;
pub mod options;
mod outside_unions;
mod picture;
mod query_error;
mod query_log;
pub mod schema;
mod session;
mod set_words;
#[cfg(test)]
mod sql_tests;
mod statement_pool;
mod statements;
mod store;
mod system_tables;
mod table_provider;
mod top_documents;
mod words;
mod yielding_joins;

pub use caller::{Caller, SessionExtension};
pub use catalog::{Catalog, Check, CorpusInfo, JobInfo, NewLabel, ReaderInfo};
pub use engine::{Engine, GivenFeatures, GivenMatrix, ImportOptions, ImportReport, ImportSource, OnBadRow, OnConflict};
pub use error::{Error, ErrorKind, Result};
pub use ingest::backfill::BackfillReport;
pub use options::EngineOptions;
pub use saequel_encoder::{Encoder, Error as EncoderError, Precision, Progress, Reader, ReaderOptions, Sae, Silent};
pub use saequel_encoder::{detection, encode as encoder, evidence, labels, progress, reader, sae};
pub use saequel_udfs::docs as functions;
pub use saequel_udfs::{FeatureCatalog, FeatureRef, Level};
pub use session::{Described, Parameter};
pub use statements::{check_tokens, with_stack};
