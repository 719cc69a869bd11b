//! From texts to sparse features, without a database: readers, sparse autoencoders, their training and their labels.
//!
//! A [`Reader`] gives the hidden states of a text at every layer; an [`Sae`] turns the states of one hook point into
//! sparse activations; an [`Encoder`] joins one reader with any number of dictionaries and gives each text its dense
//! embedding and its features, in one pass. The crate is apart from the engine because its loops are compiled at full
//! optimisation in every profile, and because it compiles in seconds where a database takes minutes.

pub mod detection;
pub mod encode;
pub mod error;
pub mod evidence;
pub mod labels;
mod level;
mod options;
pub mod progress;
pub mod reader;
pub mod sae;
#[cfg(test)]
mod testing;

pub use encode::Encoder;
pub use error::{Error, ErrorKind, Result};
pub use level::Level;
pub use options::{Precision, ReaderOptions};
pub use progress::{Progress, Silent};
pub use reader::Reader;
pub use sae::Sae;
