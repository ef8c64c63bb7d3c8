use std::io;
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::message::{Message, parse_field};
use crate::patiently;

/// One TCP connection that sends and receives any bytes, and understands HTTP/1.1 framing when asked.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    read: BytesMut,
}

impl RawClient {
    /// Connects.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = patiently("a connection", TcpStream::connect(address)).await.expect("a connection");
        stream.set_nodelay(true).expect("an option of the socket");
        Self::from(stream)
    }

    /// Sends bytes as they are. A connection that the other side has closed is not an error: the test looks at what came.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = patiently("sending", self.stream.write_all(bytes.as_ref())).await;
    }

    /// As [`RawClient::send`], and tells whether the other side has closed the connection.
    pub async fn send_more(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        patiently("sending", self.stream.write_all(bytes.as_ref())).await.is_err()
    }

    /// Sends and reads one response.
    pub async fn request(&mut self, bytes: impl AsRef<[u8]>) -> Message {
        self.send(bytes).await;
        self.response().await
    }

    /// Ends the sending direction.
    pub async fn finish(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// Closes with a reset.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }

    /// The bytes up to and with `end`; what came if the connection ended before.
    pub async fn read_until(&mut self, end: &[u8]) -> Bytes {
        loop {
            if let Some(at) = self.read.windows(end.len()).position(|window| window == end) {
                return self.read.split_to(at + end.len()).freeze();
            }
            if self.more().await == 0 {
                return self.read.split().freeze();
            }
        }
    }

    /// Exactly so many bytes, or fewer if the connection ended.
    pub async fn read_exact(&mut self, count: usize) -> Bytes {
        while self.read.len() < count && self.more().await > 0 {}
        self.read.split_to(count.min(self.read.len())).freeze()
    }

    /// Everything until the connection ends.
    pub async fn read_to_end(&mut self) -> Bytes {
        while self.more().await > 0 {}
        self.read.split().freeze()
    }

    /// What has come and was not asked for yet; waits for at least one byte, or the end (empty).
    pub async fn read_some(&mut self) -> Bytes {
        if self.read.is_empty() {
            self.more().await;
        }
        self.read.split().freeze()
    }

    /// Whether the connection ends without another byte.
    pub async fn is_closed(&mut self) -> bool {
        self.read.is_empty() && self.more().await == 0
    }

    /// The next head, without its body. `None` if the connection ended.
    pub async fn head(&mut self) -> Option<Message> {
        let head = self.read_until(b"\r\n\r\n").await;
        let head = head.strip_suffix(b"\r\n\r\n")?;
        Some(Message::parse(&String::from_utf8_lossy(head)))
    }

    /// The next response with its body. Panics if there is none.
    pub async fn response(&mut self) -> Message {
        self.message(false).await.expect("a response")
    }

    /// The next message with its body. `bodiless` for the answer to a HEAD.
    pub async fn message(&mut self, bodiless: bool) -> Option<Message> {
        let mut message = self.head().await?;
        let status = message.status();
        let response = message.start.starts_with("HTTP/");
        if bodiless || matches!(status, 100..=199 | 204 | 304) {
            message.complete = true;
        } else if message.field("transfer-encoding") == Some("chunked") {
            self.chunks(&mut message).await;
        } else if let Some(length) = message.field("content-length").and_then(|length| length.parse().ok()) {
            message.body = self.read_exact(length).await;
            message.complete = message.body.len() == length;
        } else if response {
            message.body = self.read_to_end().await;
            message.complete = true;
        } else {
            message.complete = true;
        }
        Some(message)
    }

    /// One chunk of a chunked body; empty at the end or when the connection ends.
    pub async fn chunk(&mut self) -> Bytes {
        let line = self.read_until(b"\r\n").await;
        let size = std::str::from_utf8(&line).ok().and_then(|line| usize::from_str_radix(line.trim(), 16).ok());
        match size {
            Some(size) if size > 0 => {
                let mut data = self.read_exact(size + 2).await;
                data.truncate(size);
                data
            }
            _ => Bytes::new(),
        }
    }

    async fn chunks(&mut self, message: &mut Message) {
        let mut body = BytesMut::new();
        loop {
            let line = self.read_until(b"\r\n").await;
            let size = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
            let Some(size) = size.and_then(|size| usize::from_str_radix(size, 16).ok()) else { break };
            if size == 0 {
                loop {
                    let line = self.read_until(b"\r\n").await;
                    match line.strip_suffix(b"\r\n") {
                        Some(b"") => {
                            message.complete = true;
                            break;
                        }
                        Some(line) => message.trailers.extend(parse_field(&String::from_utf8_lossy(line))),
                        None => break,
                    }
                }
                break;
            }
            let mut data = self.read_exact(size + 2).await;
            let whole = data.len() == size + 2;
            data.truncate(size);
            body.extend_from_slice(&data);
            if !whole {
                break;
            }
        }
        message.body = body.freeze();
    }

    /// What was read ahead, for who goes on with the socket.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        self.read.split().to_vec()
    }

    /// The socket, for what this type does not do.
    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    async fn more(&mut self) -> usize {
        let read = patiently("bytes from the other side", self.stream.read_buf(&mut self.read)).await;
        // A reset is an end.
        read.unwrap_or(0)
    }

    /// Takes `count` bytes that were read ahead.
    pub(crate) fn consume(&mut self, count: usize) {
        self.read.advance(count);
    }

    pub(crate) fn buffered(&self) -> &[u8] {
        &self.read
    }

    /// Waits for more bytes, whatever they are.
    ///
    /// # Errors
    /// The connection has ended.
    pub async fn fill(&mut self) -> io::Result<()> {
        if self.more().await == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }
}

impl From<TcpStream> for RawClient {
    fn from(stream: TcpStream) -> Self {
        Self { stream, read: BytesMut::new() }
    }
}
