//! A result on disk: an Arrow stream in a file without a name, which is gone when nobody holds it, however the server ends.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use futures::{StreamExt, stream};
use saequel_engine::ErrorKind;
use tokio::sync::mpsc;

use super::query::{CHUNK_BYTES, Chunk, Chunks, Known};
use crate::error::{Failure, Result, io_failure};
use crate::gate::{Answer, QueryInfo};
use crate::output::{About, Format, table::Layout, writer};

/// Bytes of one result on disk at most.
const MAX_BYTES: u64 = 4 << 30;
/// Batches that wait to be written or sent.
const WAITING: usize = 2;

/// A whole result.
#[derive(Debug)]
pub(super) struct Spooled {
    file: Arc<File>,
    /// Size on disk.
    pub(super) bytes: u64,
    /// Whether rows were left out because of a limit.
    pub(super) truncated: bool,
    /// Rows that it has at most.
    max_rows: Option<u64>,
    /// The query when it had ended.
    pub(super) info: QueryInfo,
}

impl Spooled {
    /// Runs a query to its end.
    ///
    /// # Errors
    /// The query's; [`ErrorKind::Resources`] if the result is too large, [`ErrorKind::Io`] if it cannot be written.
    pub(super) async fn take(mut answer: Answer) -> Result<Self> {
        let (sender, batches) = mpsc::channel(WAITING);
        let schema = answer.schema();
        let writing = tokio::task::spawn_blocking(move || write(&schema, batches));
        while let Some(batch) = answer.next().await {
            if sender.send(batch?).await.is_err() {
                break; // the writer tells why
            }
        }
        drop(sender);
        let (file, bytes) =
            writing.await.map_err(|_| Failure::new(ErrorKind::Internal, "the result could not be written"))??;
        let (truncated, max_rows) = (answer.truncated(), answer.max_rows());
        Ok(Self { file: Arc::new(file), bytes, truncated, max_rows, info: answer.info() })
    }

    /// What can be said of it before it is sent.
    pub(super) fn known(&self) -> Known {
        Known { max_rows: self.max_rows, truncated: Some(self.truncated) }
    }

    /// The result in a format.
    pub(super) fn chunks(&self, format: Format) -> Chunks {
        let (sender, receiver) = mpsc::channel(WAITING);
        let about = About {
            query_id: Some(self.info.query_id.clone()),
            truncated: self.truncated,
            elapsed_ms: Some(self.info.elapsed_ms),
        };
        let file = At { file: Arc::clone(&self.file), at: 0 };
        tokio::task::spawn_blocking(move || {
            let last = send(file, format, &about, &sender);
            if let Some(last) = last.transpose() {
                let _ = sender.blocking_send(last); // else the client has gone
            }
        });
        stream::unfold(receiver, |mut receiver| async move { Some((receiver.recv().await?, receiver)) }).boxed()
    }
}

/// Writes batches to a new file; returns its size.
fn write(schema: &SchemaRef, mut batches: mpsc::Receiver<RecordBatch>) -> Result<(File, u64)> {
    let failed = |error: std::io::Error| io_failure("a file for the result", &error);
    let file = tempfile::tempfile().map_err(failed)?;
    let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
    let counted = Counted { inner: BufWriter::with_capacity(1 << 20, file), bytes: 0 };
    let mut library = StreamWriter::try_new_with_options(counted, schema, options)?;
    while let Some(batch) = batches.blocking_recv() {
        library.write(&batch)?;
        if library.get_ref().bytes > MAX_BYTES {
            let message = format!("the result takes more than {MAX_BYTES} bytes on disk");
            return Err(Failure::new(ErrorKind::Resources, message).hint("ask for less, or stream it"));
        }
    }
    let counted = library.into_inner()?;
    let file = counted.inner.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok((file, counted.bytes))
}

/// Reads a file and sends it in a format; returns the end, or nothing if the client has gone.
fn send(file: At, format: Format, about: &About, sender: &mpsc::Sender<Result<Chunk>>) -> Result<Option<Chunk>> {
    let reader = StreamReader::try_new(BufReader::with_capacity(1 << 20, file), None)?;
    let mut writer = writer(format, Layout::default());
    let mut bytes = Vec::new();
    writer.about(about);
    writer.start(&reader.schema(), &mut bytes)?;
    for batch in reader {
        writer.batch(&batch?, &mut bytes)?;
        if bytes.len() >= CHUNK_BYTES
            && sender.blocking_send(Ok(Chunk::Bytes(std::mem::take(&mut bytes).into()))).is_err()
        {
            return Ok(None);
        }
    }
    writer.finish(&mut bytes)?;
    if !bytes.is_empty() && sender.blocking_send(Ok(Chunk::Bytes(bytes.into()))).is_err() {
        return Ok(None);
    }
    Ok(Some(Chunk::End { truncated: about.truncated }))
}

/// Counts what is written.
struct Counted<W> {
    inner: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let n = self.inner.write(bytes)?;
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}

/// A place in a file that several read at once.
struct At {
    file: Arc<File>,
    at: u64,
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::testing::batch;

    #[test]
    fn a_result_comes_back_from_disk_as_often_as_asked() {
        let (sender, receiver) = mpsc::channel(2);
        sender.try_send(batch()).unwrap();
        sender.try_send(batch()).unwrap();
        drop(sender);
        let (file, bytes) = write(batch().schema_ref(), receiver).unwrap();
        assert_eq!(bytes, file.metadata().unwrap().len());
        let file = Arc::new(file);
        for _ in 0..2 {
            let (sender, mut receiver) = mpsc::channel(2);
            let end = send(At { file: Arc::clone(&file), at: 0 }, Format::Csv, &About::default(), &sender).unwrap();
            assert!(matches!(end, Some(Chunk::End { truncated: false })));
            let Ok(Ok(Chunk::Bytes(bytes))) = receiver.try_recv() else { panic!("bytes") };
            assert_eq!(std::str::from_utf8(&bytes).unwrap().matches("0.000123456").count(), 2);
        }
    }
}
