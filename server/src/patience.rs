//! How long clients are waited for below their protocols: those that say nothing, and those that take nothing.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;

/// Bytes from which on it is known which version of HTTP a client speaks; from there, its head has a time of its own.
const ENOUGH: usize = 24;

/// A connection whose first bytes must come in time: until it is known what a client speaks, nobody else looks at the clock.
pub(crate) struct Patient<S> {
    stream: S,
    read: usize,
    until: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(stream: S, patience: Duration) -> Self {
        Self { stream, read: 0, until: Some(Box::pin(tokio::time::sleep(patience))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let Some(until) = &mut self.until else { return polled };
        if polled.is_pending() && until.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        self.read += buffer.filled().len() - before;
        if self.read >= ENOUGH {
            self.until = None;
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Lets the system end a connection whose client takes nothing of what is sent to it for so long, or has gone without a word.
pub(crate) fn give_up_after(stream: &TcpStream, patience: Duration) {
    let socket = socket2::SockRef::from(stream);
    let _ = socket.set_keepalive(true);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(patience));
    #[cfg(not(target_os = "linux"))]
    let _ = patience;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn who_says_nothing_is_not_waited_for() {
        let patience = Duration::from_millis(50);
        let (mut client, server) = tokio::io::duplex(100);
        let mut server = Patient::new(server, patience);
        client.write_all(b"PRI * HTTP/2.0").await.unwrap();
        let mut space = [0; 100];
        assert_eq!(server.read(&mut space).await.unwrap(), 14);
        assert_eq!(server.read(&mut space).await.unwrap_err().kind(), io::ErrorKind::TimedOut);

        let (mut client, server) = tokio::io::duplex(100);
        let mut server = Patient::new(server, patience);
        client.write_all(b"GET /health HTTP/1.1\r\nhost: localhost").await.unwrap();
        server.read(&mut space).await.unwrap();
        let later = tokio::time::timeout(4 * patience, server.read(&mut space)).await;
        assert!(later.is_err(), "who has spoken is waited for by others");
    }
}
