//! Where the command line's results go: standard output, or a file that appears when it is complete.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use datafusion::physical_plan::SendableRecordBatchStream;
use futures::StreamExt;
use tempfile::NamedTempFile;

use super::table::Layout;
use super::{Format, ResultWriter, arrow_file_writer, writer};
use crate::error::{Failure, Result, io_failure};

enum Target {
    Stdout,
    /// Written beside `path` and renamed at the end.
    New {
        file: NamedTempFile,
        path: PathBuf,
    },
    /// A device or pipe that exists.
    Existing {
        file: std::fs::File,
        path: PathBuf,
    },
}

/// A place for one result.
pub struct Sink {
    writer: Box<dyn ResultWriter>,
    target: Target,
}

impl Sink {
    /// Opens the file `output`, or standard output.
    ///
    /// # Errors
    /// If a binary format would go to a terminal, or the file cannot be made.
    pub fn open(format: Format, output: Option<&Path>) -> Result<Self> {
        let Some(path) = output else {
            if format.is_binary() && io::stdout().is_terminal() {
                return Err(Failure::usage(format!("{} is binary and would garble the terminal", format.as_str()))
                    .hint("add --output FILE, or pipe it into another program"));
            }
            return Ok(Self { writer: writer(format, stdout_layout()), target: Target::Stdout });
        };
        let is_stream = path.extension().is_some_and(|extension| extension == "arrows");
        let writer = match format {
            Format::Arrow if !is_stream => arrow_file_writer(),
            _ => writer(format, Layout::default()),
        };
        let failed = |error: io::Error| io_failure(path.display(), &error);
        let special = path.metadata().is_ok_and(|metadata| !metadata.is_file());
        let target = if special {
            let file = OpenOptions::new().write(true).open(path).map_err(failed)?;
            Target::Existing { file, path: path.to_owned() }
        } else {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let file = tempfile::Builder::new()
                .prefix(".saequel-")
                .permissions(permissions())
                .tempfile_in(folder)
                .map_err(failed)?;
            Target::New { file, path: path.to_owned() }
        };
        Ok(Self { writer, target })
    }

    /// Writes a whole result as it arrives; returns its number of rows.
    ///
    /// # Errors
    /// What the query or the disk says; a file is then not there (an older one of its name stays).
    pub async fn write(mut self, mut stream: SendableRecordBatchStream) -> Result<u64> {
        let mut n_rows = 0;
        let mut bytes = Vec::new();
        self.writer.start(&stream.schema(), &mut bytes)?;
        while let Some(batch) = stream.next().await {
            let batch = batch?;
            n_rows += batch.num_rows() as u64;
            self.writer.batch(&batch, &mut bytes)?;
            self.put(&mut bytes)?;
        }
        self.writer.finish(&mut bytes)?;
        self.put(&mut bytes)?;
        if let Target::New { file, path } = self.target {
            file.as_file().sync_all().map_err(|error| io_failure(path.display(), &error))?;
            file.persist(&path).map_err(|error| io_failure(path.display(), &error.error))?;
        }
        Ok(n_rows)
    }

    /// Writes and empties `bytes`.
    fn put(&mut self, bytes: &mut Vec<u8>) -> Result<()> {
        let outcome = match &mut self.target {
            Target::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes).and_then(|()| stdout.flush())
            }
            Target::New { file, .. } => file.write_all(bytes),
            Target::Existing { file, .. } => file.write_all(bytes),
        };
        bytes.clear();
        outcome.map_err(|error| match &self.target {
            Target::Stdout => io_failure("standard output", &error),
            Target::New { path, .. } | Target::Existing { path, .. } => io_failure(path.display(), &error),
        })
    }
}

/// Room on standard output: that of the terminal; `COLUMNS` overrides it; none if it is no terminal.
pub fn stdout_layout() -> Layout {
    let asked = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).filter(|columns| *columns > 0);
    let terminal = || {
        let is_terminal = io::stdout().is_terminal();
        is_terminal.then(terminal_size::terminal_size).flatten().map(|(width, _)| usize::from(width.0))
    };
    Layout { width: asked.or_else(terminal) }
}

/// What a new file may be used for, as far as the process's mask allows.
fn permissions() -> std::fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    std::fs::Permissions::from_mode(0o666)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::error::DataFusionError;
    use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

    use super::*;
    use crate::output::testing::batch;

    fn stream(fails: bool) -> SendableRecordBatchStream {
        let mut items = vec![Ok(batch()), Ok(batch())];
        if fails {
            items.push(Err(DataFusionError::Execution("broken".into())));
        }
        let schema = Arc::clone(batch().schema_ref());
        Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(items)))
    }

    #[tokio::test]
    async fn a_file_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("result.csv");
        let open = || Sink::open(Format::Csv, Some(&path)).unwrap();
        assert_eq!(open().write(stream(false)).await.unwrap(), 4);
        let before = std::fs::read(&path).unwrap();
        assert!(open().write(stream(true)).await.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), before);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let failure = Sink::open(Format::Csv, Some(Path::new("/nonexistent/x.csv"))).err().unwrap();
        assert_eq!(failure.wire().exit, 4);
        assert!(failure.line().contains("/nonexistent/x.csv"), "{failure}");
    }
}
