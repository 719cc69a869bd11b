//! Bodies of requests: decompressed before they come here, and read no further than their limit and no slower than allowed.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::problem::Problem;
use crate::error::{Failure, TOO_LARGE};

/// Time in which something of a body must arrive.
const STALL: Duration = Duration::from_secs(30);
/// Time in which a whole statement must arrive.
const WHOLE: Duration = Duration::from_secs(120);

/// A body, piece by piece.
pub(super) struct Incoming {
    body: Body,
    left: u64,
    limit: u64,
    stall: Duration,
    until: Option<Instant>,
}

impl Incoming {
    /// A body of at most `limit` bytes after decompression.
    ///
    /// # Errors
    /// 413 if its length is told and too large, 415 for a compression that is not known.
    pub(super) fn new(headers: &HeaderMap, body: Body, limit: u64) -> Result<Self, Problem> {
        if let Some(encoding) = headers.get(header::CONTENT_ENCODING)
            && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
        {
            let message = format!("request: content encoding {encoding:?} is not understood");
            return Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, "send gzip, zstd or identity"));
        }
        let told = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if told.is_some_and(|told| told > limit) {
            return Err(too_large(limit));
        }
        Ok(Self { body, left: limit, limit, stall: STALL, until: None })
    }

    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// 408 if nothing comes, 413, 400 if the body breaks off or cannot be decompressed.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let stall = Instant::now() + self.stall;
            let until = self.until.map_or(stall, |until| until.min(stall));
            let frame = match tokio::time::timeout_at(until, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => {
                    let message = format!("request: the body breaks off or cannot be decompressed: {error}");
                    return Err(Problem::request(StatusCode::BAD_REQUEST, message, ""));
                }
                Err(_) => {
                    let message = "request: the body came too slowly".to_owned();
                    return Err(Problem::request(StatusCode::REQUEST_TIMEOUT, message, ""));
                }
            };
            let Ok(bytes) = frame.into_data() else { continue };
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| too_large(self.limit))?;
            return Ok(Some(bytes));
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub(super) async fn all(mut self) -> Result<Vec<u8>, Problem> {
        self.until = Some(Instant::now() + WHOLE);
        let mut all = Vec::new();
        while let Some(bytes) = self.next().await? {
            all.extend_from_slice(&bytes);
        }
        Ok(all)
    }
}

fn too_large(limit: u64) -> Problem {
    Failure::usage(format!("request: the body is larger than {limit} bytes (after decompression)"))
        .shown_as(TOO_LARGE)
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_that_stalls_or_is_too_large_is_refused() {
        let stalled = Body::from_stream(futures::stream::pending::<Result<Bytes, std::io::Error>>());
        let mut incoming = Incoming::new(&HeaderMap::new(), stalled, 10).unwrap();
        incoming.stall = Duration::from_millis(20);
        assert_eq!(incoming.next().await.unwrap_err().status, StatusCode::REQUEST_TIMEOUT);
        let pieces = ["12345", "67890", "1"].map(|piece| Ok::<_, std::io::Error>(Bytes::from_static(piece.as_bytes())));
        let mut incoming =
            Incoming::new(&HeaderMap::new(), Body::from_stream(futures::stream::iter(pieces)), 10).unwrap();
        assert!(incoming.next().await.unwrap().is_some() && incoming.next().await.unwrap().is_some());
        assert_eq!(incoming.next().await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
        let broken = futures::stream::iter([Ok(Bytes::from_static(b"SELECT")), Err(std::io::Error::other("gone"))]);
        let incoming = Incoming::new(&HeaderMap::new(), Body::from_stream(broken), 10).unwrap();
        assert_eq!(incoming.all().await.unwrap_err().status, StatusCode::BAD_REQUEST);
        let headers = HeaderMap::from_iter([(header::CONTENT_LENGTH, 11.into())]);
        assert_eq!(Incoming::new(&headers, Body::empty(), 10).err().unwrap().status, StatusCode::PAYLOAD_TOO_LARGE);
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "lzma".parse().unwrap())]);
        assert_eq!(
            Incoming::new(&headers, Body::empty(), 10).err().unwrap().status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
    }
}
