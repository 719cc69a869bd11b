//! What a dictionary reads.

use serde::{Deserialize, Serialize};

/// What one row of a dictionary's input stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A token's hidden state.
    Token,
    /// The mean hidden state of a sentence.
    Span,
    /// The mean hidden state of a document.
    Document,
}

impl Level {
    /// As it is written in files and SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Span => "span",
            Self::Document => "document",
        }
    }
}
