//! A plain WebSocket client connection.

use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Context as _, bail, ensure};

use super::frame;
use super::link::{Reader, Scratch, Writer, halves};
use super::target::Target;

/// The key of RFC 6455 section 1.3, and the answer that goes with it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// Connects, upgrades and checks the 101.
pub async fn open(
    target: &Target,
    path: &str,
    source: Option<Ipv4Addr>,
    scratch: &Scratch,
) -> anyhow::Result<(Reader, Rc<Writer>)> {
    let stream = target.connect(source).await?;
    let (mut reader, writer) = halves(stream, scratch);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n\r\n",
        target.host
    );
    writer.send(request.as_bytes()).await?;
    let mut upgraded = false;
    while !upgraded {
        let open = reader
            .read(|bytes| {
                let Some(end) = head_end(bytes) else {
                    ensure!(bytes.len() < 16 * 1024, "the answer to the handshake has no end");
                    return Ok(0);
                };
                check(bytes.get(..end).unwrap_or_default(), bytes.get(end..).unwrap_or_default())?;
                upgraded = true;
                Ok(end)
            })
            .await?;
        if !open && !upgraded {
            bail!("the server closed the connection instead of answering the WebSocket handshake");
        }
    }
    Ok((reader, writer))
}

/// Where the head ends, after its empty line.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn check(head: &[u8], body: &[u8]) -> anyhow::Result<()> {
    let head = std::str::from_utf8(head).context("the handshake's answer is not text")?;
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap_or_default();
    if status.split(' ').nth(1) != Some("101") {
        let body = String::from_utf8_lossy(body.get(..body.len().min(160)).unwrap_or_default());
        bail!("the server refused the WebSocket: {status} {}", body.trim());
    }
    let accepted = lines
        .filter_map(|line| line.split_once(':'))
        .any(|(name, value)| name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == ACCEPT);
    ensure!(accepted, "the server's Sec-WebSocket-Accept is wrong");
    Ok(())
}

/// Hands each complete frame of `bytes` to `each`; how many bytes were used.
pub fn frames(bytes: &[u8], mut each: impl FnMut(u8, &[u8]) -> anyhow::Result<()>) -> anyhow::Result<usize> {
    let mut used = 0;
    while let Some(found) = frame::first(bytes.get(used..).unwrap_or_default())? {
        used += found.length;
        each(found.opcode, found.payload)?;
    }
    Ok(used)
}

/// What a Close frame says.
pub fn close_text(payload: &[u8]) -> String {
    let code = payload.get(..2).and_then(|raw| <[u8; 2]>::try_from(raw).ok()).map_or(1005, u16::from_be_bytes);
    let reason = String::from_utf8_lossy(payload.get(2..).unwrap_or_default());
    format!("the server closed the WebSocket with {code} {reason}").trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_101_with_the_right_accept_is_an_upgrade() {
        let good =
            format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nsec-websocket-accept: {ACCEPT}\r\n\r\n");
        assert!(check(good.as_bytes(), b"").is_ok());
        assert!(check(b"HTTP/1.1 101 X\r\nSec-WebSocket-Accept: wrong\r\n\r\n", b"").is_err());
        let refused = check(b"HTTP/1.1 503 Service Unavailable\r\n\r\n", b"busy").unwrap_err().to_string();
        assert!(refused.contains("503") && refused.contains("busy"));
    }
}
