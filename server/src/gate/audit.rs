//! Who ran what: one JSON object a line, appended when a query ends or a token is refused.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chrono::Utc;
use serde_json::{Value, json};

use super::{Door, QueryInfo, Visitor};
use crate::error::{Failure, Result, io_failure};

/// The log, or nothing if none is kept.
#[derive(Debug, Default)]
pub(super) struct Audit(Option<Kept>);

#[derive(Debug)]
struct Kept {
    path: PathBuf,
    file: Mutex<File>,
}

impl Audit {
    /// Appends to `path`; readable by its owner alone if it is made now.
    ///
    /// # Errors
    /// If it cannot be written: who asks for a log must have one.
    pub(super) fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        Ok(Self(Some(Kept { path: path.to_path_buf(), file: Mutex::new(append_to(path)?) })))
    }

    /// Opens the file anew: whoever moved it away gets a new one.
    ///
    /// # Errors
    /// If it cannot be opened; then lines go where they went.
    pub(super) fn reopen(&self) -> Result<()> {
        let Some(Kept { path, file }) = &self.0 else { return Ok(()) };
        let new = append_to(path)?;
        *file.lock().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(())
    }

    /// Whether there is a log.
    pub(super) fn is_kept(&self) -> bool {
        self.0.is_some()
    }

    /// A query that ended, with all of its statement.
    pub(super) fn query(&self, query: &QueryInfo, statement: Option<&str>) {
        if !self.is_kept() {
            return;
        }
        let mut line = serde_json::to_value(query).unwrap_or_default();
        if let Some(line) = line.as_object_mut() {
            line.remove("error"); // it can quote data and values of parameters; the SQLSTATE says enough
            line.insert("event".to_owned(), "query".into());
            if let Some(statement) = statement {
                line.insert("statement".to_owned(), statement.into());
            }
            line.insert("ended".to_owned(), Utc::now().to_rfc3339().into());
        }
        self.line(&line);
    }

    /// A statement that was refused before it became a query, or that could not be planned.
    pub(super) fn not_run(&self, visitor: &Visitor, statement: &str, failure: &Failure) {
        if !self.is_kept() {
            return;
        }
        self.line(&json!({
            "event": "refused",
            "caller": visitor.principal.name,
            "door": visitor.door,
            "peer": visitor.peer.map(|peer| peer.to_string()),
            "statement": statement,
            "sqlstate": failure.sqlstate(),
            "ended": Utc::now().to_rfc3339(),
        }));
    }

    /// A token that was refused.
    pub(super) fn refused(&self, door: Door, peer: Option<SocketAddr>) {
        let peer = peer.map(|peer| peer.to_string());
        self.line(&json!({ "event": "refused", "door": door, "peer": peer, "ended": Utc::now().to_rfc3339() }));
    }

    fn line(&self, line: &Value) {
        let Some(Kept { file, .. }) = &self.0 else { return };
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        // One write a line, so that lines of two writers do not mix.
        if let Err(error) = file.write_all(format!("{line}\n").as_bytes()) {
            tracing::error!(%error, "the audit log cannot be written");
        }
    }
}

fn append_to(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|error| io_failure(format!("audit log: {}", path.display()), &error))
}
