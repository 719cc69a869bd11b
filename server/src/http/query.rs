//! Runs one query and streams its bytes, within limits of time and number.
//!
//! The query runs in a task of its own; its bytes come through a channel. The first 64 KiB are held back, so that an
//! error until then gets its status. A client that goes away, or a deadline, ends the task.

use std::sync::{Arc, OnceLock};

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;
use saequel_engine::{Engine, ErrorKind};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::request::SqlRequest;
use crate::error::{Failure, Result};
use crate::options::ServeOptions;
use crate::output::{Format, table::Layout, writer};

/// Bytes that are held back before the status is sent, and then sent at once.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait for a slow client.
const WAITING_CHUNKS: usize = 4;

enum Message {
    Chunk(Bytes),
    Done,
    Failed(Failure),
}

/// What follows the first chunk.
enum Rest {
    Running(Running),
    Failed(Failure),
    Nothing,
}

/// The running query as its reader sees it. Dropping it ends the query.
struct Running {
    messages: mpsc::Receiver<Message>,
    task: AbortHandle,
    deadline: Instant,
    timeout_secs: u64,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers a request.
pub(super) async fn answer(
    engine: &Engine,
    options: &ServeOptions,
    permits: &Arc<Semaphore>,
    request: SqlRequest,
) -> Response {
    let Ok(permit) = Arc::clone(permits).try_acquire_owned() else {
        let failure =
            Failure::new(ErrorKind::Resources, format!("{} queries are running already", options.max_queries))
                .hint("try again in a moment, or start the server with a larger --max-queries");
        return super::error(StatusCode::TOO_MANY_REQUESTS, &failure);
    };
    let format = request.format;
    let mut running = start(engine.clone(), request, permit, options);
    let first = match running.next().await {
        Message::Chunk(bytes) => bytes,
        Message::Done => return with_type(Body::empty().into_response(), format),
        Message::Failed(failure) => return super::failed(&failure),
    };
    let rest = futures::stream::unfold(Rest::Running(running), move |rest| async move {
        match rest {
            Rest::Running(mut running) => match running.next().await {
                Message::Chunk(bytes) => Some((Ok(bytes), Rest::Running(running))),
                Message::Done => None,
                // A line that tells readers of lines what the broken transfer cannot.
                Message::Failed(failure) if format == Format::Jsonl => {
                    Some((Ok(format!("{}\n", super::error_json(&failure)).into()), Rest::Failed(failure)))
                }
                Message::Failed(failure) => Some((Err(broken(&failure)), Rest::Nothing)),
            },
            Rest::Failed(failure) => {
                tokio::task::yield_now().await; // the line goes out before the transfer breaks
                Some((Err(broken(&failure)), Rest::Nothing))
            }
            Rest::Nothing => None,
        }
    });
    let first = futures::stream::once(async move { Ok::<_, std::io::Error>(first) });
    with_type(Body::from_stream(first.chain(rest)).into_response(), format)
}

/// What breaks the transfer, so that nobody takes a part for the whole.
fn broken(failure: &Failure) -> std::io::Error {
    std::io::Error::other(failure.to_string())
}

fn with_type(mut response: Response, format: Format) -> Response {
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    response
}

/// Threads of their own for queries: a query that computes for long must not keep the server from answering others.
fn query_runtime() -> Handle {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let make = || Builder::new_multi_thread().thread_name("saequel-query").enable_all().build().ok();
    RUNTIME.get_or_init(make).as_ref().map_or_else(Handle::current, |runtime| runtime.handle().clone())
}

fn start(engine: Engine, request: SqlRequest, permit: OwnedSemaphorePermit, options: &ServeOptions) -> Running {
    let deadline = Instant::now() + options.timeout;
    let (sender, messages) = mpsc::channel(WAITING_CHUNKS);
    let task = query_runtime().spawn(async move {
        let _permit = permit; // held until the query has ended, whoever still reads
        // A deadline on this side ends a query whose client reads too slowly.
        let last = match timeout_at(deadline, run(&engine, request, &sender)).await {
            Ok(Ok(())) => Message::Done,
            Ok(Err(failure)) => Message::Failed(failure),
            Err(_) => return,
        };
        let _ = sender.send(last).await; // an error: the client has gone
    });
    Running { messages, task: task.abort_handle(), deadline, timeout_secs: options.timeout.as_secs() }
}

/// Runs the query and sends what is written.
async fn run(engine: &Engine, request: SqlRequest, sender: &mpsc::Sender<Message>) -> Result<()> {
    let mut stream = engine.sql_with(&request.statement, request.parameters).await?;
    let mut writer = writer(request.format, Layout::default());
    let mut bytes = Vec::new();
    writer.start(&stream.schema(), &mut bytes)?;
    while let Some(batch) = stream.next().await {
        writer.batch(&batch?, &mut bytes)?;
        if bytes.len() >= CHUNK_BYTES && !send(&mut bytes, sender).await {
            return Ok(());
        }
    }
    writer.finish(&mut bytes)?;
    if !bytes.is_empty() {
        send(&mut bytes, sender).await;
    }
    Ok(())
}

/// Sends and empties `bytes`; false if the client has gone.
async fn send(bytes: &mut Vec<u8>, sender: &mpsc::Sender<Message>) -> bool {
    sender.send(Message::Chunk(std::mem::take(bytes).into())).await.is_ok()
}

impl Running {
    /// The next message. A deadline on this side answers even while the query's thread is busy.
    async fn next(&mut self) -> Message {
        match timeout_at(self.deadline, self.messages.recv()).await {
            Ok(Some(message)) => message,
            Ok(None) if Instant::now() < self.deadline => {
                Message::Failed(Failure::new(ErrorKind::Internal, "the query ended without an answer"))
            }
            Ok(None) | Err(_) => Message::Failed(
                Failure::new(ErrorKind::Cancelled, format!("the query took longer than {} s", self.timeout_secs))
                    .hint("ask for less with WHERE or LIMIT, or start the server with a larger --timeout"),
            ),
        }
    }
}
