//! What a client still sends when its request was answered already, as one that is refused before its statement is read.
//!
//! Most clients send a whole request before they look at the answer. If the connection ended meanwhile they would see a
//! broken pipe instead of the reason, so the rest is taken and forgotten, within bounds. Beyond them the connection ends.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, Version, header};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Bytes that are taken and forgotten.
const MOST: u64 = 16 << 20;
/// Time that is spent on them.
const LONGEST: Duration = Duration::from_secs(2);

/// Takes what was left of the body, so that the connection can go on; otherwise says that it ends.
pub(crate) async fn take_rest(request: Request, next: Next) -> Response {
    if request.version() > Version::HTTP_11 {
        return next.run(request).await; // a stream ends without its connection
    }
    let waits = request.headers().contains_key(header::EXPECT);
    let (back, rest) = oneshot::channel();
    let mut response = next.run(request.map(|body| Body::new(Lent { body, was_asked: false, back: Some(back) }))).await;
    // Whoever has the body still, reads it.
    let Ok((mut body, was_asked)) = { rest }.try_recv() else { return response };
    // A client that waits to be asked for the body is not asked.
    let is_taken = (was_asked || !waits) && forget(&mut body).await;
    if !is_taken {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Reads to the end; false if that is too far.
async fn forget(body: &mut Body) -> bool {
    let (mut left, until) = (MOST, Instant::now() + LONGEST);
    while !body.is_end_stream() {
        match tokio::time::timeout_at(until, body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => match left.checked_sub(frame.data_ref().map_or(0, Bytes::len) as u64) {
                Some(less) => left = less,
                None => return false,
            },
            Ok(Some(Err(_))) | Err(_) => return false,
        }
    }
    true
}

/// A body that goes back to whom it belongs when it is no longer needed.
struct Lent {
    body: Body,
    /// Whether anybody wanted to read it.
    was_asked: bool,
    back: Option<oneshot::Sender<(Body, bool)>>,
}

impl HttpBody for Lent {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.was_asked = true;
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Nobody may be there any more.
            let _ = back.send((std::mem::take(&mut self.body), self.was_asked));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::routing::post;
    use axum::{Router, middleware};
    use futures::{StreamExt, stream};
    use tower::ServiceExt;

    use super::*;

    /// How a client sends.
    #[derive(PartialEq)]
    enum Client {
        Ordinary,
        Stalls,
        WaitsToBeAsked,
    }

    /// Whether the connection ends, and how many of the pieces were taken.
    async fn asked(path: &str, pieces: Vec<Bytes>, client: Client) -> (bool, usize) {
        let taken = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&taken);
        let body = stream::iter(pieces).map(move |piece| {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok::<_, io::Error>(piece)
        });
        let body = match client {
            Client::Stalls => Body::from_stream(body.chain(stream::pending())),
            _ => Body::from_stream(body),
        };
        let mut request = Request::post(path).body(body).unwrap();
        if client == Client::WaitsToBeAsked {
            request.headers_mut().insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        let router = Router::new()
            .route("/read", post(async |body: String| body))
            .route("/refuse", post(async || "no"))
            .layer(middleware::from_fn(take_rest));
        let response = router.oneshot(request).await.unwrap();
        (response.headers().contains_key(header::CONNECTION), taken.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn what_was_not_read_is_taken_within_bounds() {
        let statement = || vec![Bytes::from_static(b"SELECT"), Bytes::from_static(b" 1")];
        assert_eq!(asked("/read", statement(), Client::Ordinary).await, (false, 2));
        assert_eq!(asked("/refuse", statement(), Client::Ordinary).await, (false, 2));
        assert_eq!(asked("/refuse", statement(), Client::Stalls).await, (true, 2));
        assert_eq!(asked("/refuse", statement(), Client::WaitsToBeAsked).await, (true, 0));
        assert_eq!(asked("/read", statement(), Client::WaitsToBeAsked).await, (false, 2));
        let large = vec![Bytes::from(vec![b' '; 5 << 20]); 9];
        assert_eq!(asked("/refuse", large, Client::Ordinary).await, (true, 4));
    }
}
