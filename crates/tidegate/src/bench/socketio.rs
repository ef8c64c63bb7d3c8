//! A Socket.IO client session (Engine.IO v4, WebSocket only), as far as load needs it.

use std::net::Ipv4Addr;
use std::rc::Rc;

use anyhow::{Context as _, anyhow, bail};

use super::frame::{self, push_masked};
use super::link::{Reader, Scratch, Writer};
use super::target::Target;
use super::websocket;

/// A connected session in namespace `/`.
pub struct Session {
    reader: Reader,
    writer: Rc<Writer>,
    next_ack: u64,
    /// The answer to CONNECT, JSON.
    reply: Vec<u8>,
    /// The offset that came with the server's greeting.
    offset: String,
}

/// The path with the query that selects Engine.IO v4 over WebSocket; `/` alone means the usual `/socket.io/`.
fn path(target: &Target) -> String {
    let base = if target.path == "/" { "/socket.io/" } else { target.path.as_str() };
    let joint = if base.contains('?') { '&' } else { '?' };
    format!("{base}{joint}EIO=4&transport=websocket")
}

/// Appends the masked frame of an EVENT packet; `arguments` is the inside of the array, JSON.
pub fn push_event(out: &mut Vec<u8>, ack: Option<u64>, arguments: &[u8]) {
    let mut packet = Vec::with_capacity(arguments.len() + 16);
    packet.extend_from_slice(b"42");
    if let Some(ack) = ack {
        packet.extend_from_slice(ack.to_string().as_bytes());
    }
    packet.push(b'[');
    packet.extend_from_slice(arguments);
    packet.push(b']');
    push_masked(out, frame::TEXT, &packet);
}

impl Session {
    /// Connects, upgrades, and sends CONNECT with `auth` (a JSON object).
    pub async fn open(
        target: &Target,
        source: Option<Ipv4Addr>,
        scratch: &Scratch,
        auth: &str,
    ) -> anyhow::Result<Self> {
        Self::open_with(target, source, scratch, auth, |_| Ok(())).await
    }

    /// As [`Session::open`]; `each` also sees the packets that come with the answer to CONNECT.
    pub async fn open_with(
        target: &Target,
        source: Option<Ipv4Addr>,
        scratch: &Scratch,
        auth: &str,
        mut each: impl FnMut(&[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let (reader, writer) = websocket::open(target, &path(target), source, scratch).await?;
        let mut session = Self { reader, writer, next_ack: 0, reply: Vec::new(), offset: String::new() };
        let mut frame = Vec::new();
        push_masked(&mut frame, frame::TEXT, format!("40{auth}").as_bytes());
        session.writer.send(&frame).await?;
        let mut reply = None;
        session
            .until(|packet| {
                if let Some(error) = packet.strip_prefix(b"4") {
                    bail!("the server refused the session: {}", String::from_utf8_lossy(error));
                }
                if let Some(json) = packet.strip_prefix(b"0") {
                    reply = Some(json.to_vec());
                }
                each(packet)?;
                Ok(reply.is_some())
            })
            .await
            .context("Socket.IO CONNECT")?;
        session.reply = reply.unwrap_or_default();
        Ok(session)
    }

    /// The `auth` object with which a client gets this session back, as a stock client makes it of `auth`.
    pub fn comeback(&self, auth: &str) -> anyhow::Result<String> {
        let reply: serde_json::Value = serde_json::from_slice(&self.reply).context("the answer to CONNECT")?;
        let pid = reply.get("pid").and_then(serde_json::Value::as_str);
        let pid = pid.context("the server gave no pid: it recovers no sessions")?;
        let mut auth: serde_json::Value = serde_json::from_str(auth)?;
        if let Some(fields) = auth.as_object_mut() {
            fields.insert("pid".to_owned(), pid.into());
            fields.insert("offset".to_owned(), self.offset.as_str().into());
        }
        Ok(auth.to_string())
    }

    /// The writing half, for tasks that send while this one reads.
    pub fn writer(&self) -> Rc<Writer> {
        Rc::clone(&self.writer)
    }

    /// Emits an event and waits for its ack; an ack with `"success":false` or `"error"` is an error.
    pub async fn call(&mut self, arguments: &str) -> anyhow::Result<Vec<u8>> {
        let id = self.next_ack;
        self.next_ack += 1;
        let mut frame = Vec::new();
        push_event(&mut frame, Some(id), arguments.as_bytes());
        self.writer.send(&frame).await?;
        let head = format!("3{id}[");
        let mut answer = None;
        self.until(|packet| {
            if let Some(json) = packet.strip_prefix(head.as_bytes()) {
                answer = Some(json.strip_suffix(b"]").unwrap_or(json).to_vec());
            }
            Ok(answer.is_some())
        })
        .await?;
        let answer = answer.ok_or_else(|| anyhow!("no ack"))?;
        let text = String::from_utf8_lossy(&answer);
        if text.contains("\"success\":false") || text.starts_with("{\"error\"") {
            bail!("the server answered {} with {text}", arguments.get(..arguments.len().min(60)).unwrap_or(arguments));
        }
        Ok(answer)
    }

    /// Joins a room of the rooms API.
    pub async fn join(&mut self, room: &str) -> anyhow::Result<()> {
        self.call(&format!("\"room:join\",{{\"room\":{}}}", serde_json::Value::from(room))).await.map(|_| ())
    }

    /// Reads packets until `enough` says so.
    async fn until(&mut self, mut enough: impl FnMut(&[u8]) -> anyhow::Result<bool>) -> anyhow::Result<()> {
        let mut done = false;
        while !done {
            let mut offset = None;
            let open = self
                .packets(|packet| {
                    if packet.starts_with(b"2[\"connection:established\"") {
                        offset = last_text(packet);
                    }
                    done |= enough(packet)?;
                    Ok(())
                })
                .await?;
            if let Some(offset) = offset {
                self.offset = offset;
            }
            if !open && !done {
                bail!("the server closed the connection");
            }
        }
        Ok(())
    }

    /// Reads once and hands every Socket.IO packet (without Engine.IO's `4`) to `each`; pings are answered.
    /// `false` when the server has closed.
    pub async fn packets(&mut self, mut each: impl FnMut(&[u8]) -> anyhow::Result<()>) -> anyhow::Result<bool> {
        let mut pings = 0u32;
        let mut answers = Vec::new();
        let open = self
            .reader
            .read(|bytes| {
                websocket::frames(bytes, |opcode, payload| {
                    match (opcode, payload.split_first()) {
                        (frame::TEXT, Some((b'4', packet))) => each(packet)?,
                        (frame::TEXT, Some((b'2', _))) => pings += 1,
                        (frame::TEXT, Some((b'1', _))) => bail!("the server closed the Engine.IO session"),
                        (frame::CLOSE, _) => bail!(websocket::close_text(payload)),
                        (frame::PING, _) => push_masked(&mut answers, frame::PONG, payload),
                        _ => {}
                    }
                    Ok(())
                })
            })
            .await?;
        (0..pings).for_each(|_| push_masked(&mut answers, frame::TEXT, b"3"));
        if !answers.is_empty() {
            self.writer.send(&answers).await?;
        }
        Ok(open)
    }
}

/// The last argument of an event, if it is a text.
fn last_text(packet: &[u8]) -> Option<String> {
    let arguments: Vec<serde_json::Value> = serde_json::from_slice(packet.strip_prefix(b"2")?).ok()?;
    arguments.last()?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_query_is_added_to_whatever_path_was_given() {
        let at = |url| path(&Target::parse(url).unwrap());
        assert_eq!(at("ws://127.0.0.1:1"), "/socket.io/?EIO=4&transport=websocket");
        assert_eq!(at("ws://127.0.0.1:1/io/?a=b"), "/io/?a=b&EIO=4&transport=websocket");
    }

    #[test]
    fn an_event_is_one_masked_frame() {
        let mut out = Vec::new();
        push_event(&mut out, Some(7), b"\"x\",1");
        let frame = frame::first_masked(&mut out).unwrap().unwrap();
        assert_eq!(frame.payload, b"427[\"x\",1]");
    }
}
