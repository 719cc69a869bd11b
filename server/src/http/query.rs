//! Runs one query and streams its bytes.
//!
//! The first 64 KiB are held back, so that an error until then gets its status. A client that goes away ends the query.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::StreamExt;

use super::request::SqlRequest;
use crate::error::{Failure, Result};
use crate::gate::{Answer, Ask, Gate, Visitor};
use crate::output::{Format, ResultWriter, table::Layout, writer};

/// Bytes that are held back before the status is sent, and then sent at once.
const CHUNK_BYTES: usize = 64 << 10;

/// A running query and how it is written. Dropping it ends the query.
struct Written {
    answer: Answer,
    writer: Box<dyn ResultWriter>,
    bytes: Vec<u8>,
    ended: bool,
}

/// What follows the first chunk.
enum Rest {
    Running(Written),
    Failed(Failure),
    Nothing,
}

/// Answers a request.
pub(super) async fn answer(gate: &Gate, visitor: &Visitor, request: SqlRequest) -> Response {
    let format = request.format;
    let ask = Ask { parameters: request.parameters, ..Ask::new(request.statement) };
    let mut running = match start(gate, visitor, ask, format).await {
        Ok(running) => running,
        Err(failure) => return super::failed(&failure),
    };
    let query_id = running.answer.query_id.clone();
    let first = match running.next().await {
        Ok(first) => first.unwrap_or_default(),
        Err(failure) => return super::failed(&failure),
    };
    let rest = futures::stream::unfold(Rest::Running(running), move |rest| async move {
        match rest {
            Rest::Running(mut running) => match running.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Rest::Running(running))),
                Ok(None) => None,
                // A line that tells readers of lines what the broken transfer cannot.
                Err(failure) if format == Format::Jsonl => {
                    Some((Ok(format!("{}\n", super::error_json(&failure)).into()), Rest::Failed(failure)))
                }
                Err(failure) => Some((Err(broken(&failure)), Rest::Nothing)),
            },
            Rest::Failed(failure) => {
                tokio::task::yield_now().await; // the line goes out before the transfer breaks
                Some((Err(broken(&failure)), Rest::Nothing))
            }
            Rest::Nothing => None,
        }
    });
    let first = futures::stream::once(async move { Ok::<_, std::io::Error>(first) });
    let mut response = Body::from_stream(first.chain(rest)).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(format.media_type()));
    if let Ok(query_id) = HeaderValue::from_str(&query_id) {
        response.headers_mut().insert("x-query-id", query_id);
    }
    response
}

/// What breaks the transfer, so that nobody takes a part for the whole.
fn broken(failure: &Failure) -> std::io::Error {
    std::io::Error::other(failure.to_string())
}

async fn start(gate: &Gate, visitor: &Visitor, ask: Ask, format: Format) -> Result<Written> {
    let answer = gate.run(visitor, ask).await?;
    let mut writer = writer(format, Layout::default());
    let mut bytes = Vec::new();
    writer.start(&answer.schema(), &mut bytes)?;
    Ok(Written { answer, writer, bytes, ended: false })
}

impl Written {
    /// The next chunk; nothing at the end.
    async fn next(&mut self) -> Result<Option<Bytes>> {
        while !self.ended {
            match self.answer.next().await {
                Some(batch) => self.writer.batch(&batch?, &mut self.bytes)?,
                None => {
                    self.writer.finish(&mut self.bytes)?;
                    self.ended = true;
                }
            }
            if self.bytes.len() >= CHUNK_BYTES {
                break;
            }
        }
        let bytes = std::mem::take(&mut self.bytes);
        Ok((!bytes.is_empty()).then(|| bytes.into()))
    }
}
