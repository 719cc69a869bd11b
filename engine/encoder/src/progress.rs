//! How long work tells what it is doing. The engine prints nothing itself.

/// Receives news of long work. Called from several threads.
pub trait Progress: Send + Sync {
    /// A stage begins; `total` units if known (documents, bytes, tokens, steps: `unit` says which).
    fn stage(&self, name: &str, total: Option<u64>, unit: &str);
    /// `done` units of the stage are finished in all; `detail` is a short text such as `FVU 0.21, L0 16.0`.
    fn update(&self, done: u64, detail: &str);
    /// The stage is over.
    fn finish(&self, summary: &str);
    /// Something the user should know, such as a row that was set aside.
    fn warn(&self, message: &str);
    /// Whether the user asked to stop; long work then ends at the next safe point with [`crate::ErrorKind::Cancelled`].
    fn cancelled(&self) -> bool {
        false
    }
    /// Shows terms of use and asks the user to accept them; who cannot be asked has not accepted.
    fn agree(&self, _terms: &str) -> bool {
        false
    }
}

/// Tells nobody.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&self, _name: &str, _total: Option<u64>, _unit: &str) {}
    fn update(&self, _done: u64, _detail: &str) {}
    fn finish(&self, _summary: &str) {}
    fn warn(&self, _message: &str) {}
}
