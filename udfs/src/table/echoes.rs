//! Pairs of features that say the same thing because the same token fires both.

use std::collections::HashMap;

use crate::catalog::FeatureCatalog;
use crate::features::FeatureId;

/// Strongest tokens of a feature that are compared.
const TOKENS: usize = 5;

/// What features are about, as far as their strongest tokens and labels tell.
#[derive(Debug, Default)]
pub struct Echoes {
    words: HashMap<FeatureId, Vec<String>>,
}

/// Letters and digits of a token, lower case, without a plural s; a token that has none as it is.
fn normal(token: &str) -> String {
    let word: String = token.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect();
    if word.is_empty() {
        return token.trim().to_string();
    }
    match word.strip_suffix('s') {
        Some(stem) if stem.chars().count() >= 3 && !stem.ends_with('s') => stem.to_string(),
        _ => word,
    }
}

impl Echoes {
    /// Looks the features up.
    pub fn new(catalog: &FeatureCatalog, ids: &[FeatureId]) -> Self {
        let words_of = |id: &FeatureId| {
            let feature = catalog.feature(*id)?;
            let mut words: Vec<String> = Vec::new();
            for token in feature.top_tokens.iter().take(TOKENS) {
                let word = normal(token);
                if !word.is_empty() && !words.contains(&word) {
                    words.push(word);
                }
            }
            if words.is_empty() {
                words.push(feature.label.to_lowercase());
            }
            Some((*id, words))
        };
        Self { words: ids.iter().filter_map(words_of).collect() }
    }

    /// Whether the strongest token is the same, or at least half of the strongest tokens of one are tokens of the other.
    pub fn contains(&self, a: FeatureId, b: FeatureId) -> bool {
        let (Some(a), Some(b)) = (self.words.get(&a), self.words.get(&b)) else { return false };
        let shared = a.iter().filter(|word| b.contains(word)).count();
        a.first() == b.first() || 2 * shared >= a.len().min(b.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FeatureSource, MemorySource};

    #[test]
    fn shared_tokens_make_an_echo() {
        let features: &[(&str, &[&str])] = &[
            ("list", &["First", "second", "third", "then"]),
            ("steps", &["step", "Then", "first"]),
            ("stairs", &[" steps", "stair", "floor"]),
            ("dance", &["waltz", "tango", "floor", "shoes"]),
            ("quote", &["\"", "“"]),
            ("speech", &["said", "“", "\""]),
        ];
        let catalog = MemorySource::with_words(features, vec![]).catalog();
        let echoes = Echoes::new(&catalog, &[0, 1, 2, 3, 4, 5]);
        assert!(echoes.contains(0, 1), "two of three");
        assert!(echoes.contains(1, 2), "same first token, but for number and blank");
        assert!(!echoes.contains(2, 3), "one of three");
        assert!(echoes.contains(4, 5), "symbols count");
        assert!(!echoes.contains(0, 3) && !echoes.contains(0, 77));
    }
}
