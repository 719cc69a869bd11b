//! SQL functions over sparse features.
//!
//! `scalar`, `aggregate` and `table` hold one function a file, each of which only checks and converts; the arithmetic
//! is in `kernels`, on plain slices. Stored documents are reached through one trait, [`FeatureSource`].

pub mod aggregate;
pub mod args;
pub mod catalog;
pub mod docs;
pub mod feature_source;
pub mod features;
pub mod memory_source;
pub mod rows;
pub mod scalar;
pub mod table;
#[cfg(test)]
pub(crate) mod test_support;
pub mod unnest_keys;

pub use catalog::{Concept, Dictionary, Feature, FeatureCatalog, FeatureRef, FeatureSelection, Level};
pub use feature_source::{
    DocumentColumn, EncodedText, FeatureHit, FeatureSource, LabelEmbeddings, Said, TokenFeatures, WordHit,
};
pub use features::{FeatureId, FeaturesBuilder, FeaturesView, IdsView};
pub use memory_source::MemorySource;
pub use saequel_kernels as kernels;

use std::sync::Arc;

use datafusion::error::Result;
use datafusion::prelude::SessionContext;

/// Where functions get documents from, shared by all functions of a session.
pub type SharedSource = Arc<dyn FeatureSource>;

/// Registers every scalar, aggregate and table function of saequel, and the rule that makes `unnest` of them right.
///
/// Functions of the same names are replaced; `encode(binary, format)` of DataFusion goes on under ours.
///
/// # Errors
/// None at present.
pub fn register_all(session: &SessionContext, source: &SharedSource) -> Result<()> {
    for function in scalar::functions(source) {
        session.register_udf(function);
    }
    for function in aggregate::functions(source) {
        session.register_udaf(function);
    }
    for (name, function) in table::functions(source) {
        session.register_udtf(name, function);
    }
    session.add_analyzer_rule(Arc::new(unnest_keys::UnnestedKeys::default()));
    Ok(())
}
