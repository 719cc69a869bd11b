//! One writer at a time: a lock on the file `lock` in the database folder.
//!
//! The operating system releases the lock when the process ends, however it ends, so a killed writer leaves nothing to
//! clean up. Readers never take it. The file's content says who holds it and is only read for the message.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::error::{Error, ErrorKind, Result, io_error};

/// How long a writer waits for another's short change before it gives up.
const PATIENCE: Duration = Duration::from_secs(3);
/// Time between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The right to write, held until dropped.
pub(crate) struct WriteGuard {
    /// Unlocked when it is closed.
    _file: File,
    _turn: OwnedMutexGuard<()>,
}

/// Gives out [`WriteGuard`]s.
#[derive(Clone)]
pub(super) struct WriteLock {
    path: PathBuf,
    turn: Arc<Mutex<()>>,
}

impl WriteLock {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("lock"), turn: Arc::default() }
    }

    /// Waits for this process's other writers, then for the lock; `purpose` is what another writer is told.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] naming the process that holds it.
    pub(super) async fn acquire(&self, purpose: &str) -> Result<WriteGuard> {
        let turn = tokio::time::timeout(PATIENCE, self.turn.clone().lock_owned()).await.map_err(|_| self.held())?;
        let start = Instant::now();
        loop {
            match self.try_file(purpose)? {
                Some(file) => return Ok(WriteGuard { _file: file, _turn: turn }),
                None if start.elapsed() > PATIENCE => return Err(self.held()),
                None => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    /// Who holds the lock, as that process wrote it; `None` if nobody does.
    pub(super) fn holder(&self) -> Option<String> {
        let file = OpenOptions::new().read(true).open(&self.path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => Some(self.content()),
            _ => None,
        }
    }

    fn try_file(&self, purpose: &str) -> Result<Option<File>> {
        let failed = |error| io_error("cannot lock the database for writing", &self.path, error);
        let mut file =
            OpenOptions::new().create(true).read(true).write(true).truncate(false).open(&self.path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // Best effort: the note only serves the message, and a full disk must not keep a delete or a compaction away.
        let note = format!("process {}, {purpose}", std::process::id());
        let _ = file.rewind().and_then(|()| file.set_len(0)).and_then(|()| file.write_all(note.as_bytes()));
        Ok(Some(file))
    }

    fn content(&self) -> String {
        let mut note = String::new();
        if let Ok(file) = File::open(&self.path) {
            let _ = file.take(500).read_to_string(&mut note);
        }
        if note.is_empty() { "an unknown process".to_owned() } else { note }
    }

    fn held(&self) -> Error {
        Error::new(
            ErrorKind::Io,
            format!(
                "another writer is at work on this database ({}); one process writes at a time while any number may \
                 read: wait for it to end and try again (lock file: {})",
                self.content(),
                self.path.display()
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn second_holder_is_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let first = WriteLock::new(dir.path());
        // A lock object of its own stands for another process: `flock` is per open file.
        let second = WriteLock::new(dir.path());
        let guard = first.acquire("import into 'answers'").await.unwrap();
        let holder = second.holder().unwrap();
        assert!(
            holder.contains(&std::process::id().to_string()) && holder.contains("import into 'answers'"),
            "{holder}"
        );
        // A writer of this process is told the same as one of another.
        let (same, other) = tokio::join!(first.acquire("delete"), second.acquire("delete"));
        for refused in [same, other] {
            let error = refused.err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.message().contains("import into 'answers'"), "{error}");
        }
        drop(guard);
        assert!(second.holder().is_none());
        second.acquire("delete").await.unwrap();
    }
}
