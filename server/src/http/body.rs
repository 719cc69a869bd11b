//! Bodies of requests: decompressed, read no further than their limit, and no slower than allowed.
//!
//! A layer above decompresses zstd. It would end gzip after its first member, and `cat a.gz b.gz` has two.

use std::io::Write;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use flate2::write::MultiGzDecoder;
use http_body_util::BodyExt;
use tokio::time::Instant;

use super::problem::Problem;
use crate::error::{Failure, TOO_LARGE};

/// Time in which something of a body must arrive.
const STALL: Duration = Duration::from_secs(30);
/// Time in which a whole statement must arrive.
const WHOLE: Duration = Duration::from_secs(120);
/// Bytes that are decompressed at once; gzip makes at most a thousand times as many of them.
const AT_ONCE: usize = 4 << 10;

/// A body, piece by piece.
pub(super) struct Incoming {
    body: Body,
    gzip: Option<MultiGzDecoder<Vec<u8>>>,
    /// Not yet decompressed.
    packed: Bytes,
    left: u64,
    limit: u64,
    stall: Duration,
    until: Option<Instant>,
}

impl Incoming {
    /// A body of at most `limit` bytes after decompression.
    ///
    /// # Errors
    /// 415 for a compression that is not known.
    pub(super) fn new(headers: &HeaderMap, body: Body, limit: u64) -> Result<Self, Problem> {
        let encoding = headers.get(header::CONTENT_ENCODING).map(|encoding| encoding.as_bytes().to_ascii_lowercase());
        let gzip = match encoding.as_deref() {
            None | Some(b"identity") => None,
            Some(b"gzip" | b"x-gzip") => Some(MultiGzDecoder::new(Vec::new())),
            Some(other) => {
                let message =
                    format!("request: content encoding '{}' is not understood", String::from_utf8_lossy(other));
                let hint = "send gzip, zstd or identity";
                return Err(Problem::request(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, hint));
            }
        };
        Ok(Self { body, gzip, packed: Bytes::new(), left: limit, limit, stall: STALL, until: None })
    }

    /// The next piece; nothing at the end.
    ///
    /// # Errors
    /// 408 if nothing comes, 413, 400 if the body breaks off or cannot be decompressed.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let bytes = match &mut self.gzip {
                Some(gzip) if !self.packed.is_empty() => {
                    let some = self.packed.split_to(self.packed.len().min(AT_ONCE));
                    gzip.write_all(&some).map_err(|error| broken(&error))?;
                    Bytes::from(std::mem::take(gzip.get_mut()))
                }
                Some(gzip) => match Self::frame(&mut self.body, self.stall, self.until).await? {
                    Some(packed) => {
                        self.packed = packed;
                        continue;
                    }
                    None => {
                        gzip.try_finish().map_err(|error| broken(&error))?;
                        let last = std::mem::take(gzip.get_mut());
                        self.gzip = None;
                        Bytes::from(last)
                    }
                },
                None => match Self::frame(&mut self.body, self.stall, self.until).await? {
                    Some(bytes) => bytes,
                    None => return Ok(None),
                },
            };
            if bytes.is_empty() {
                continue;
            }
            match self.left.checked_sub(bytes.len() as u64) {
                Some(left) => self.left = left,
                None => return Err(too_large(self.limit)),
            }
            return Ok(Some(bytes));
        }
    }

    /// The next piece as it comes.
    async fn frame(body: &mut Body, stall: Duration, until: Option<Instant>) -> Result<Option<Bytes>, Problem> {
        loop {
            let stall = Instant::now() + stall;
            let until = until.map_or(stall, |until| until.min(stall));
            match tokio::time::timeout_at(until, body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => return Ok(Some(bytes)),
                    Err(_trailers) => continue,
                },
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(broken(&error)),
                Err(_) => {
                    let message = "request: the body came too slowly".to_owned();
                    return Err(Problem::request(StatusCode::REQUEST_TIMEOUT, message, ""));
                }
            }
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

fn broken(error: &dyn std::fmt::Display) -> Problem {
    let message = format!("request: the body breaks off or cannot be decompressed: {error}");
    Problem::request(StatusCode::BAD_REQUEST, message, "")
}

fn too_large(limit: u64) -> Problem {
    Failure::usage(format!("request: the body is larger than {limit} bytes (after decompression)"))
        .shown_as(TOO_LARGE)
        .hint("send less, or start the server with a larger --max-body (of an import: --max-import)")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn gzip_is_read_to_its_end() {
        let packed = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(text.as_bytes()).unwrap();
            encoder.finish().unwrap()
        };
        let read = async |bytes: Vec<u8>| {
            let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "gzip".parse().unwrap())]);
            Incoming::new(&headers, Body::from(bytes), 100_000).unwrap().all().await
        };
        let two = [packed("SELECT "), packed("1")].concat();
        assert_eq!(read(two.clone()).await.unwrap(), b"SELECT 1");
        for wrong in [two[..two.len() - 5].to_vec(), [two, b"more".to_vec()].concat(), b"SELECT 1".to_vec()] {
            assert_eq!(read(wrong).await.unwrap_err().status, StatusCode::BAD_REQUEST);
        }
        let bomb = packed(&" ".repeat(50_000_000));
        assert_eq!(read(bomb).await.unwrap_err().status, StatusCode::PAYLOAD_TOO_LARGE);
    }

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
        // A body that ended stays ended.
        let mut incoming = Incoming::new(&HeaderMap::new(), Body::from("x"), 10).unwrap();
        assert!(incoming.next().await.unwrap().is_some() && incoming.next().await.unwrap().is_none());
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, "lzma".parse().unwrap())]);
        assert_eq!(
            Incoming::new(&headers, Body::empty(), 10).err().unwrap().status,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
    }
}
