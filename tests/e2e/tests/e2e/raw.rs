//! A client that sends exactly the bytes it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Ends a test that would hang for ever; nothing waits so long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// What came back until the server closed.
#[derive(Debug)]
pub struct Answer {
    /// 0 when nothing that looks like HTTP came.
    pub status: u16,
    /// Everything, heads included.
    pub text: String,
    /// What follows the first head.
    pub body: String,
}

impl Answer {
    fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let status = text.strip_prefix("HTTP/1.1 ").or_else(|| text.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok()).unwrap_or(0);
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Self { status, text, body }
    }

    /// How many responses there are in it.
    pub fn responses(&self) -> usize {
        self.text.matches("HTTP/1.1 ").count()
    }
}

/// Sends `bytes` and reads until the server closes. An error of writing or reading counts as closed: a server that
/// refuses early may reset the connection under unread bytes.
pub fn exchange(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    Answer::of(&read_to_end(&mut stream))
}

/// Sends `bytes`, says that no more will come, and reads what is answered.
pub fn exchange_and_finish(address: SocketAddr, bytes: &[u8]) -> Answer {
    let mut stream = connect(address);
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    Answer::of(&read_to_end(&mut stream))
}

/// A read with a timeout is interrupted when its process is stopped and goes on, as on a machine that pauses.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> std::io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

pub fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut buffer = [0; 16 * 1024];
    loop {
        match read(stream, &mut buffer) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&buffer[..n]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                panic!("the server neither answered nor closed; so far: {}", String::from_utf8_lossy(&all))
            }
            Err(_) => return all,
        }
    }
}

pub fn get(address: SocketAddr, path: &str) -> Answer {
    exchange(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes())
}

pub fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    let mut bytes = format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    exchange(address, &bytes)
}

/// A WebSocket whose frames are made by hand.
pub struct RawWebSocket {
    pub stream: TcpStream,
    unread: Vec<u8>,
}

/// A frame as it came: whether final, its opcode, its payload.
pub type Frame = (bool, u8, Vec<u8>);

impl RawWebSocket {
    pub fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, path, "")
    }

    /// With whole header lines more.
    pub fn open_with(address: SocketAddr, path: &str, more: &str) -> Self {
        let mut stream = connect(address);
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut unread = Vec::new();
        let mut buffer = [0; 4096];
        let end = loop {
            if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                break end + 4;
            }
            let n = read(&mut stream, &mut buffer).unwrap();
            assert!(n > 0, "closed during the handshake: {}", String::from_utf8_lossy(&unread));
            unread.extend_from_slice(&buffer[..n]);
        };
        let head = String::from_utf8_lossy(&unread[..end]).into_owned();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // The answer to RFC 6455's own example key, section 1.3.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        unread.drain(..end);
        Self { stream, unread }
    }

    /// A Socket.IO connection that has been let in with `token`.
    pub fn socket_io(address: SocketAddr, token: &str) -> Self {
        let mut socket = Self::open(address, "/socket.io/?EIO=4&transport=websocket");
        assert!(socket.text().starts_with("0{"));
        socket.send(&frame(1, format!("40{{\"token\":\"{token}\"}}").as_bytes()));
        while !socket.text().starts_with("40{") {}
        socket
    }

    pub fn send(&mut self, bytes: &[u8]) {
        // The server may close before it has read everything.
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame, or `None` once the server has closed.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, used)) = parse(&self.unread) {
                self.unread.drain(..used);
                return Some(frame);
            }
            let mut buffer = [0; 16 * 1024];
            match read(&mut self.stream, &mut buffer) {
                Ok(0) => return None,
                Ok(n) => self.unread.extend_from_slice(&buffer[..n]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("the server neither answered nor closed")
                }
                Err(_) => return None,
            }
        }
    }

    pub fn text(&mut self) -> String {
        let (_, opcode, payload) = self.frame().expect("a text frame");
        assert_eq!(opcode, 1);
        String::from_utf8(payload).unwrap()
    }

    /// Reads to the end: the close code, if a close frame came.
    pub fn close_code(&mut self) -> Option<u16> {
        let mut code = None;
        while let Some((_, opcode, payload)) = self.frame() {
            if opcode == 8 {
                code = payload.first_chunk().map(|bytes| u16::from_be_bytes(*bytes));
                // The peer's half of the closing handshake, so that a server that waits for it may end.
                self.send(&frame(8, &payload));
                let _ = self.stream.shutdown(Shutdown::Write);
            }
        }
        code
    }
}

fn parse(bytes: &[u8]) -> Option<(Frame, usize)> {
    let (&[first, second], rest) = bytes.split_first_chunk::<2>()?;
    assert_eq!(second & 0x80, 0, "a server does not mask");
    let (length, head) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 10),
        short => (u64::from(short), 2),
    };
    let end = head + usize::try_from(length).unwrap();
    let payload = bytes.get(head..end)?.to_vec();
    Some(((first & 0x80 != 0, first & 0x0f, payload), end))
}

/// A masked, final frame.
pub fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    frame_with(0x80 | opcode, payload)
}

/// A masked frame with this first byte.
pub fn frame_with(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ 0..=125 => bytes.push(0x80 | u8::try_from(short).unwrap()),
        middle @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&u16::try_from(middle).unwrap().to_be_bytes());
        }
        long => {
            bytes.push(0x80 | 127);
            bytes.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    bytes.extend_from_slice(&mask);
    bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}
