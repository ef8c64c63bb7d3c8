use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{BufMut, Bytes, BytesMut};
use sha1::{Digest, Sha1};

use crate::{Message, RawClient};

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// The first byte: FIN, reserved bits, opcode.
    pub first: u8,
    /// Unmasked.
    pub payload: Bytes,
}

/// A WebSocket at the level of frames; either side.
#[derive(Debug)]
pub struct WebSocket {
    /// The connection below.
    pub raw: RawClient,
    /// A client masks.
    masks: bool,
}

/// The key that every handshake of this kit uses (RFC 6455 section 1.3).
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// RFC 6455 section 4.2.2.
pub fn accept_for(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(hash.finalize())
}

impl WebSocket {
    /// The bytes of a client's handshake; `extra` are whole header lines.
    pub fn handshake(path: &str, extra: &str) -> String {
        format!(
            "GET {path} HTTP/1.1\r\nHost: example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{extra}\r\n"
        )
    }

    /// Connects and shakes hands. Panics unless the answer is a right 101.
    pub async fn connect(address: SocketAddr, path: &str) -> Self {
        Self::open(RawClient::connect(address).await, path).await
    }

    /// As [`WebSocket::connect`], on a connection that stands.
    pub async fn open(mut raw: RawClient, path: &str) -> Self {
        raw.send(Self::handshake(path, "")).await;
        let head = raw.head().await.expect("an answer to the handshake");
        assert_eq!(head.status(), 101, "{head:?}");
        assert_eq!(head.field("sec-websocket-accept"), Some(accept_for(KEY).as_str()));
        Self { raw, masks: true }
    }

    /// The client's side, after a 101.
    pub fn client(raw: RawClient) -> Self {
        Self { raw, masks: true }
    }

    /// The server's side, after its 101.
    pub fn server(raw: RawClient) -> Self {
        Self { raw, masks: false }
    }

    /// Sends a final frame of that opcode.
    pub async fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mut frame = BytesMut::new();
        frame.put_u8(0x80 | opcode);
        let mask = if self.masks { 0x80 } else { 0 };
        match payload.len() {
            length @ 0..126 => frame.put_u8(mask | length as u8),
            length @ 126..65_536 => {
                frame.put_u8(mask | 126);
                frame.put_u16(length as u16);
            }
            length => {
                frame.put_u8(mask | 127);
                frame.put_u64(length as u64);
            }
        }
        if self.masks {
            let key = [1, 2, 3, 4];
            frame.put_slice(&key);
            frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
        } else {
            frame.put_slice(payload);
        }
        self.raw.send(frame).await;
    }

    /// Sends a text.
    pub async fn text(&mut self, text: &str) {
        self.send(1, text.as_bytes()).await;
    }

    /// The next frame; `None` if the connection ended.
    pub async fn receive(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, used)) = parse(self.raw.buffered()) {
                self.raw.consume(used);
                return Some(frame);
            }
            self.raw.fill().await.ok()?;
        }
    }

    /// The next frame as text. Panics if the connection ended.
    pub async fn receive_text(&mut self) -> String {
        let frame = self.receive().await.expect("a frame");
        String::from_utf8_lossy(&frame.payload).into_owned()
    }

    /// Takes frames until the other side's Close, answers it, and gives its code: 1005 if it had none. `None` if the
    /// connection ended without one.
    pub async fn close_code(&mut self) -> Option<u16> {
        loop {
            let frame = self.receive().await?;
            if frame.first & 0x0f == 8 {
                self.send(8, frame.payload.get(..2).unwrap_or_default()).await;
                return Some(frame.payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code)));
            }
        }
    }

    /// Answers a client's handshake rightly; `extra` are whole header lines.
    pub fn accept(request: &Message, extra: &str) -> String {
        let accept = accept_for(request.field("sec-websocket-key").unwrap_or_default());
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
        )
    }
}

fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let first = *bytes.first()?;
    let second = *bytes.get(1)?;
    let (length, mut at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
        127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
        length => (u64::from(length), 2),
    };
    let mut key = [0u8; 4];
    if second & 0x80 != 0 {
        key = bytes.get(at..at + 4)?.try_into().ok()?;
        at += 4;
    }
    let end = at + usize::try_from(length).ok()?;
    let payload = bytes.get(at..end)?.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
    Some((Frame { first, payload }, end))
}
