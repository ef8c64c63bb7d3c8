//! The WebSocket echo: each message goes back as it came, text as text and binary as binary.

use bytes::Bytes;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tidegate_wire::websocket::{
    Decoder, Message, Opcode, Role, WsError, accept_key, close_payload, encode_header, is_valid_key,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;

use super::{Body, full, json_response};

/// The largest message that is echoed, bytes.
const MAX_MESSAGE: usize = 4 << 20;
/// What is read at once, bytes.
const READ_AT_ONCE: usize = 16 * 1024;
/// Echoes are written when so many bytes wait, or all of what was read has been decoded.
const WRITE_AT: usize = 256 * 1024;

/// Answers an upgrade request (RFC 6455 section 4.2) and starts the echo.
pub(super) fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let Some(accept) = accepted(request.headers()) else {
        return json_response(
            StatusCode::BAD_REQUEST,
            &json!({ "error": "this is a WebSocket: send a valid upgrade request" }),
        );
    };
    let upgraded = hyper::upgrade::on(&mut request);
    spawn_local(async move {
        match upgraded.await {
            Ok(stream) => {
                if let Err(error) = echo(TokioIo::new(stream)).await {
                    tracing::debug!(%error, "echo ended");
                }
            }
            Err(error) => tracing::debug!(%error, "upgrade failed"),
        }
    });
    let mut response = Response::new(full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// The value of `Sec-WebSocket-Accept`, if the request asks for a WebSocket as it should.
fn accepted(headers: &HeaderMap) -> Option<HeaderValue> {
    let named = |name, wanted: &str| {
        let values = headers.get_all(name);
        values
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(wanted))
    };
    let key = headers.get(SEC_WEBSOCKET_KEY)?.to_str().ok()?;
    let right = named(CONNECTION, "upgrade")
        && named(UPGRADE, "websocket")
        && named(SEC_WEBSOCKET_VERSION, "13")
        && is_valid_key(key);
    right.then(|| HeaderValue::from_str(&accept_key(key)).ok()).flatten()
}

async fn echo(mut stream: TokioIo<Upgraded>) -> std::io::Result<()> {
    let mut decoder = Decoder::new(Role::Server, MAX_MESSAGE);
    let mut unread = Vec::new();
    let mut out = Vec::new();
    loop {
        // Space for the rest of a frame whose length is known, so that a large one is not moved again and again.
        let missing = decoder.needed().map_or(0, |needed| needed.min(MAX_MESSAGE + 14).saturating_sub(unread.len()));
        unread.reserve(missing.max(READ_AT_ONCE));
        if stream.read_buf(&mut unread).await? == 0 {
            return Ok(());
        }
        let mut done = 0;
        let mut closing = false;
        while !closing {
            let rest = unread.get_mut(done..).unwrap_or_default();
            match decoder.decode(rest) {
                Ok(decoded) if decoded.consumed == 0 => break,
                Ok(decoded) => {
                    closing = decoded.message.is_some_and(|message| reply(&mut out, message));
                    done += decoded.consumed;
                }
                Err(error) => {
                    refuse(&mut out, error);
                    closing = true;
                }
            }
            if out.len() >= WRITE_AT {
                stream.write_all(&out).await?;
                out.clear();
            }
        }
        unread.drain(..done);
        stream.write_all(&out).await?;
        out.clear();
        if closing {
            return stream.shutdown().await;
        }
        // A large message must not leave its buffers with an idle connection.
        if unread.is_empty() {
            unread = Vec::new();
            out = Vec::new();
        }
    }
}

/// Appends the answer to a message; `true` if it ends the connection.
fn reply(out: &mut Vec<u8>, message: Message<'_>) -> bool {
    match message {
        Message::Text(text) => push(out, Opcode::Text, text.as_bytes()),
        Message::Binary(bytes) => push(out, Opcode::Binary, bytes),
        Message::Ping(bytes) => push(out, Opcode::Pong, bytes),
        Message::Pong(_) => {}
        // The handshake agrees to no compression, so that the decoder refuses such a message.
        Message::Compressed { .. } => return true,
        Message::Close(reason) => {
            let payload = reason.map(|(code, _)| close_payload(code, "")).unwrap_or_default();
            push(out, Opcode::Close, &payload);
            return true;
        }
    }
    false
}

fn refuse(out: &mut Vec<u8>, error: WsError) {
    push(out, Opcode::Close, &close_payload(error.close_code(), &error.to_string()));
}

fn push(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    encode_header(out, opcode, true, payload.len() as u64);
    out.extend_from_slice(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upgrade_request_needs_all_of_its_parts() {
        let whole = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        let headers = |without: usize| -> HeaderMap {
            let parts = whole.iter().enumerate().filter(|(index, _)| *index != without);
            parts.map(|(_, (name, value))| (name.parse().unwrap(), HeaderValue::from_static(value))).collect()
        };
        assert_eq!(accepted(&headers(9)).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for (without, (name, _)) in whole.iter().enumerate() {
            assert!(accepted(&headers(without)).is_none(), "without {name}");
        }
    }

    #[test]
    fn messages_go_back_as_they_came_and_a_close_is_answered_with_its_code() {
        let mut out = Vec::new();
        assert!(!reply(&mut out, Message::Text("hi")));
        assert!(!reply(&mut out, Message::Ping(b"x")));
        assert!(!reply(&mut out, Message::Pong(b"ignored")));
        assert!(reply(&mut out, Message::Close(Some((4001, "why")))));
        assert_eq!(out, [0x81, 2, b'h', b'i', 0x8a, 1, b'x', 0x88, 2, 0x0f, 0xa1]);
    }
}
