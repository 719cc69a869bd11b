//! Bytes and messages: frames are read here, with every length checked, and what is to be sent is gathered.
//!
//! Reading is ours and not pgwire's: its decoders read past the end of a message that lies about its lengths, or panic,
//! and before anybody has said who they are that must not be possible. What is sent are pgwire's messages.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use pgwire::messages::Message;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::{Report, Result, Trouble};

/// Largest message before somebody has said who they are.
pub(super) const MAX_STARTUP: usize = 10_000;
/// Bytes that are gathered before they are sent.
pub(super) const CHUNK: usize = 64 << 10;
/// Bytes of further messages that are taken in while a statement runs.
const AHEAD: usize = 256 << 10;

/// A connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Io for S {}

/// A message of the client.
#[derive(Debug)]
pub(super) struct Frame {
    /// Which one.
    pub(super) tag: u8,
    /// What follows the length.
    pub(super) body: Body,
}

/// Contents of a message, read with checked lengths.
#[derive(Debug)]
pub(super) struct Body(pub(super) Bytes);

impl Body {
    fn short() -> Trouble {
        Trouble::protocol("a message ends too early")
    }

    /// So many bytes.
    pub(super) fn bytes(&mut self, length: usize) -> Result<Bytes> {
        if self.0.len() < length {
            return Err(Self::short());
        }
        Ok(self.0.split_to(length))
    }

    /// One byte.
    pub(super) fn byte(&mut self) -> Result<u8> {
        Ok(self.bytes(1)?.get_u8())
    }

    /// Two bytes.
    pub(super) fn int16(&mut self) -> Result<i16> {
        Ok(self.bytes(2)?.get_i16())
    }

    /// Four bytes.
    pub(super) fn int32(&mut self) -> Result<i32> {
        Ok(self.bytes(4)?.get_i32())
    }

    /// A number of things that follow.
    pub(super) fn count(&mut self) -> Result<usize> {
        Ok(usize::from(self.bytes(2)?.get_u16()))
    }

    /// Text up to a zero byte.
    pub(super) fn text(&mut self) -> Result<String> {
        let length = self.0.iter().position(|byte| *byte == 0).ok_or_else(Self::short)?;
        let text = self.bytes(length)?;
        self.byte()?;
        String::from_utf8(text.into()).map_err(|_| {
            Trouble::new("22021", "a message holds bytes that are no UTF-8").hint("set the client's encoding to UTF8")
        })
    }
}

/// A connection with what was read of it and what waits to be written.
pub(super) struct Wire<S> {
    stream: S,
    input: BytesMut,
    /// What waits to be written.
    pub(super) output: BytesMut,
    /// Largest message.
    pub(super) max_message: usize,
}

impl<S: Io> Wire<S> {
    /// Nothing is read yet.
    pub(super) fn new(stream: S) -> Self {
        Self { stream, input: BytesMut::new(), output: BytesMut::new(), max_message: MAX_STARTUP }
    }

    /// The connection below, if nothing of it was read too much: what came before TLS must not be taken for what comes
    /// through it.
    pub(super) fn into_stream(self) -> Option<S> {
        self.input.is_empty().then_some(self.stream)
    }

    /// The same, whatever the connection is.
    pub(super) fn boxed(self) -> Wire<Box<dyn Io>>
    where
        S: 'static,
    {
        Wire { stream: Box::new(self.stream), input: self.input, output: self.output, max_message: self.max_message }
    }

    /// Adds a message to what waits to be written.
    pub(super) fn put(&mut self, message: &impl Message) -> Result<()> {
        message.encode(&mut self.output).map_err(|error| Trouble::new("54000", error.to_string()))
    }

    /// Reads once; `false` at the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<bool>> {
        let mut space = [0_u8; 16 << 10];
        let mut buffer = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        self.input.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(!buffer.filled().is_empty()))
    }

    async fn fill(&mut self) -> Result<()> {
        if poll_fn(|cx| self.poll_fill(cx)).await? { Ok(()) } else { Err(Trouble::Gone) }
    }

    /// Ends when the client has gone. Takes in what it sends meanwhile.
    pub(super) async fn gone(&mut self) {
        poll_fn(|cx| {
            while self.input.len() < AHEAD {
                if !matches!(ready!(self.poll_fill(cx)), Ok(true)) {
                    return Poll::Ready(());
                }
            }
            // It said a great deal without waiting for answers; it is looked at again when that was read.
            Poll::Pending
        })
        .await;
    }

    /// Sends what waits. A client that sends instead of reading is listened to meanwhile.
    pub(super) async fn flush(&mut self) -> Result<()> {
        while !self.output.is_empty() {
            let n = poll_fn(|cx| {
                if let Poll::Ready(written) = Pin::new(&mut self.stream).poll_write(cx, &self.output) {
                    return Poll::Ready(written);
                }
                while self.input.len() < AHEAD {
                    match self.poll_fill(cx) {
                        Poll::Ready(Ok(true)) => {}
                        Poll::Ready(Ok(false)) => return Poll::Ready(Ok(0)),
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => break,
                    }
                }
                Poll::Pending
            })
            .await?;
            if n == 0 {
                return Err(Trouble::Gone);
            }
            self.output.advance(n);
        }
        poll_fn(|cx| Pin::new(&mut self.stream).poll_flush(cx)).await?;
        Ok(())
    }

    /// Sends what waits and says goodbye.
    pub(super) async fn close(&mut self) {
        let _ = self.flush().await;
        let _ = poll_fn(|cx| Pin::new(&mut self.stream).poll_shutdown(cx)).await;
    }

    /// Whether a whole message was read already, or one that is refused.
    fn buffered(&self) -> Result<Option<usize>> {
        let Some(head) = self.input.first_chunk::<5>() else { return Ok(None) };
        let length = i32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = self.checked(length)?;
        Ok((self.input.len() > length).then_some(length))
    }

    fn checked(&self, length: i32) -> Result<usize> {
        let length = usize::try_from(length).ok().filter(|length| *length >= 4);
        let length = length.ok_or_else(|| Trouble::protocol("a message has an impossible length"))?;
        if length > self.max_message {
            let message = format!("a message of {length} bytes is larger than the {} that are taken", self.max_message);
            let hint = "start the server with a larger --max-body";
            return Err(Trouble::Fatal(Report::fatal("54000", message).hint(hint)));
        }
        Ok(length)
    }

    /// Takes a message that was read already.
    pub(super) fn take(&mut self) -> Result<Option<Frame>> {
        let Some(length) = self.buffered()? else { return Ok(None) };
        let mut frame = self.input.split_to(1 + length);
        let tag = frame.get_u8();
        frame.advance(4);
        Ok(Some(Frame { tag, body: Body(frame.freeze()) }))
    }

    /// The next message.
    pub(super) async fn frame(&mut self) -> Result<Frame> {
        loop {
            if let Some(frame) = self.take()? {
                return Ok(frame);
            }
            self.fill().await?;
        }
    }

    /// The first message of a connection, which has no tag.
    pub(super) async fn first(&mut self) -> Result<Body> {
        loop {
            if let Some(head) = self.input.first_chunk::<4>() {
                let length = self.checked(i32::from_be_bytes(*head))?;
                if self.input.len() >= length {
                    let mut frame = self.input.split_to(length);
                    frame.advance(4);
                    return Ok(Body(frame.freeze()));
                }
            }
            self.fill().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lengths_that_lie_are_refused() {
        for bytes in [&b"Q\0\0\0\x03"[..], b"Q\xff\xff\xff\xff", b"Q\0\xff\xff\xff"] {
            let mut wire = Wire::new(std::io::Cursor::new(bytes.to_vec()));
            assert!(matches!(wire.frame().await, Err(Trouble::Fatal(_))), "{bytes:?}");
        }
        let mut short = Wire::new(std::io::Cursor::new(b"Q\0\0\0\x08ab".to_vec()));
        assert!(matches!(short.frame().await, Err(Trouble::Gone)));
        let mut wire = Wire::new(std::io::Cursor::new(b"B\0\0\0\x0aa\0\0\x01\xff\xff".to_vec()));
        let mut frame = wire.frame().await.unwrap();
        assert_eq!((frame.tag, frame.body.text().unwrap().as_str(), frame.body.count().unwrap()), (b'B', "a", 1));
        assert!(frame.body.int32().is_err() && frame.body.text().is_err());
        assert_eq!(frame.body.count().unwrap(), 0xffff);
    }
}
