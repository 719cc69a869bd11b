//! Settings of a connection.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// What a connection has set.
#[derive(Debug, Default)]
pub(crate) struct SessionSettings(Mutex<BTreeMap<String, String>>);

impl SessionSettings {
    /// A value.
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&name.to_lowercase()).cloned()
    }

    /// Sets a value.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_lowercase(), value.to_owned());
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<(String, String)> {
        let settings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        settings.iter().map(|(name, value)| (name.clone(), value.clone())).collect()
    }
}
