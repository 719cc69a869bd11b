//! Runs one query and streams its bytes.
//!
//! The first 64 KiB are held back, so that an error until then gets its status. A client that goes away ends the query.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use saequel_engine::ErrorKind;

use super::problem::{Problem, put_query_id};
use super::request::{SqlRequest, Wishes};
use super::spool::Spooled;
use crate::error::{Failure, Result};
use crate::gate::{Answer, Ask, Gate, Visitor, random_id};
use crate::output::{About, Format, ResultWriter, table::Layout, writer};

/// Bytes that are held back before the status is sent, and then sent at once.
pub(super) const CHUNK_BYTES: usize = 64 << 10;
/// Whether rows were left out because of a limit: a header where it is known in time, else a trailer.
const TRUNCATED: HeaderName = HeaderName::from_static("x-truncated");
/// The limit, if there is one. A trailer reaches few clients; rows as many as this are known to all.
const MAX_ROWS: HeaderName = HeaderName::from_static("x-max-rows");

/// A piece of a result. All but the last one before the end have at least [`CHUNK_BYTES`].
pub(super) enum Chunk {
    Bytes(Bytes),
    End { truncated: bool },
}

/// The pieces of a result in its format.
pub(super) type Chunks = BoxStream<'static, Result<Chunk>>;

/// What is known of a result before its first byte.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    /// Rows that it has at most.
    pub(super) max_rows: Option<u64>,
    /// Whether rows were left out, if the query has ended.
    pub(super) truncated: Option<bool>,
}

/// The query of a request, with an id that is known whatever happens.
pub(super) fn ask(request: SqlRequest) -> Result<(Ask, String, Wishes), Problem> {
    let SqlRequest { statement, parameters, wishes } = request;
    let query_id = match &wishes.query_id {
        Some(query_id) => query_id.clone(),
        None => random_id()?,
    };
    let ask = Ask {
        parameters,
        query_id: Some(query_id.clone()),
        timeout: wishes.timeout,
        max_rows: wishes.max_rows,
        ..Ask::new(statement)
    };
    Ok((ask, query_id, wishes))
}

/// Answers a request.
pub(super) async fn answer(gate: &Gate, visitor: &Visitor, request: SqlRequest) -> Result<Response, Problem> {
    let (ask, query_id, wishes) = ask(request)?;
    let made = async {
        let answer = gate.run(visitor, ask).await?;
        if wishes.wait_end_of_query {
            let spooled = Spooled::take(answer).await?;
            return Ok((spooled.known(), spooled.chunks(wishes.format)));
        }
        let known = Known { max_rows: answer.max_rows(), truncated: None };
        Ok((known, chunks(Written::start(answer, wishes.format)?)))
    };
    let (known, chunks) = made.await.map_err(|failure: Failure| Problem::from(failure).of_query(Some(&query_id)))?;
    respond(known, chunks, wishes.format, &query_id).await
}

/// Sends a result; what goes wrong before the first bytes is an error with its status.
pub(super) async fn respond(
    known: Known,
    mut chunks: Chunks,
    format: Format,
    query_id: &str,
) -> Result<Response, Problem> {
    let problem = |failure: Failure| Problem::from(failure).of_query(Some(query_id));
    let mut first = Bytes::new();
    let mut end = None;
    match chunks.next().await.transpose().map_err(problem)? {
        Some(Chunk::Bytes(bytes)) => first = bytes,
        Some(Chunk::End { truncated }) => end = Some(truncated),
        None => return Err(problem(no_end())),
    }
    // A short piece is the last: its end is there already.
    if end.is_none() && first.len() < CHUNK_BYTES {
        match chunks.next().await.transpose().map_err(problem)? {
            Some(Chunk::End { truncated }) => end = Some(truncated),
            Some(Chunk::Bytes(more)) => {
                let more = stream::once(async move { Ok(Chunk::Bytes(more)) });
                chunks = more.chain(chunks).boxed();
            }
            None => return Err(problem(no_end())),
        }
    }
    let mut response = match end {
        Some(truncated) => {
            let mut response = Body::from(first).into_response();
            response.headers_mut().insert(TRUNCATED, truth(truncated));
            response
        }
        None => {
            let first = stream::once(async move { Ok(Frame::data(first)) });
            let rest = frames(chunks, format, query_id.to_owned());
            let mut response = Body::new(StreamBody::new(first.chain(rest))).into_response();
            let headers = response.headers_mut();
            match known.truncated {
                Some(truncated) => headers.insert(TRUNCATED, truth(truncated)),
                None => headers.insert(header::TRAILER, HeaderValue::from_static("x-truncated")),
            };
            response
        }
    };
    let headers = response.headers_mut();
    if let Some(max_rows) = known.max_rows {
        headers.insert(MAX_ROWS, max_rows.into());
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    put_query_id(headers, query_id);
    Ok(response)
}

fn no_end() -> Failure {
    Failure::new(ErrorKind::Internal, "the result ended without its end")
}

fn truth(value: bool) -> HeaderValue {
    HeaderValue::from_static(if value { "true" } else { "false" })
}

/// What follows.
enum Rest {
    Running(Chunks),
    Failed(Failure),
    Nothing,
}

/// The frames after the first: data, then the trailer; an error breaks the transfer.
fn frames(
    chunks: Chunks,
    format: Format,
    query_id: String,
) -> impl futures::Stream<Item = std::io::Result<Frame<Bytes>>> + Send + 'static {
    stream::unfold((Rest::Running(chunks), query_id), move |(rest, query_id)| async move {
        let (frame, rest) = match rest {
            Rest::Running(mut chunks) => match chunks.next().await.unwrap_or_else(|| Err(no_end())) {
                Ok(Chunk::Bytes(bytes)) => (Ok(Frame::data(bytes)), Rest::Running(chunks)),
                Ok(Chunk::End { truncated }) => {
                    (Ok(Frame::trailers(HeaderMap::from_iter([(TRUNCATED, truth(truncated))]))), Rest::Nothing)
                }
                // A line that tells readers of lines what the broken transfer cannot.
                Err(failure) if format == Format::Jsonl => {
                    let line = format!("{}\n", Problem::from(&failure).of_query(Some(&query_id)).json());
                    (Ok(Frame::data(line.into())), Rest::Failed(failure))
                }
                Err(failure) => {
                    tokio::task::yield_now().await; // what came before goes out before the transfer breaks
                    (Err(broken(&failure)), Rest::Nothing)
                }
            },
            Rest::Failed(failure) => {
                tokio::task::yield_now().await; // and so does the line
                (Err(broken(&failure)), Rest::Nothing)
            }
            Rest::Nothing => return None,
        };
        Some((frame, (rest, query_id)))
    })
}

/// What breaks the transfer, so that nobody takes a part for the whole.
fn broken(failure: &Failure) -> std::io::Error {
    std::io::Error::other(failure.to_string())
}

/// A running query and how it is written. Dropping it ends the query.
struct Written {
    answer: Answer,
    writer: Box<dyn ResultWriter>,
    bytes: Vec<u8>,
    ended: bool,
}

impl Written {
    fn start(answer: Answer, format: Format) -> Result<Self> {
        let mut writer = writer(format, Layout::default());
        let mut bytes = Vec::new();
        writer.about(&About { query_id: Some(answer.query_id.clone()), ..About::default() });
        writer.start(&answer.schema(), &mut bytes)?;
        Ok(Self { answer, writer, bytes, ended: false })
    }

    async fn next(&mut self) -> Result<Chunk> {
        while !self.ended && self.bytes.len() < CHUNK_BYTES {
            match self.answer.next().await {
                Some(batch) => self.writer.batch(&batch?, &mut self.bytes)?,
                None => {
                    self.writer.about(&About {
                        query_id: Some(self.answer.query_id.clone()),
                        truncated: self.answer.truncated(),
                        elapsed_ms: Some(self.answer.info().elapsed_ms),
                    });
                    self.writer.finish(&mut self.bytes)?;
                    self.ended = true;
                }
            }
        }
        Ok(match std::mem::take(&mut self.bytes) {
            bytes if bytes.is_empty() => Chunk::End { truncated: self.answer.truncated() },
            bytes => Chunk::Bytes(bytes.into()),
        })
    }
}

fn chunks(written: Written) -> Chunks {
    stream::unfold(Some(written), |written| async move {
        let mut written = written?;
        let chunk = written.next().await;
        let goes_on = matches!(chunk, Ok(Chunk::Bytes(_)));
        Some((chunk, goes_on.then_some(written)))
    })
    .boxed()
}
