//! The end of a WebSocket: what waits, a close frame, and the peer's time to read both (RFC 6455 section 7.1).

use std::io;
use std::num::NonZeroU16;
use std::time::Duration;

use tidegate_transport::Transport;
use tidegate_types::CloseReason;
use tidegate_wire::websocket::{self, Opcode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::connection::WebSocket;
use crate::outbox::Outbox;

/// How long a closed connection may take to read the rest and close its side.
const GOODBYE: Duration = Duration::from_secs(2);

/// The code of a close frame without one (section 7.4.1); never sent.
pub(crate) const NO_CODE: NonZeroU16 = NonZeroU16::new(1005).unwrap();

/// Ends a session's WebSocket. Nothing is sent behind the close frame.
pub(crate) fn say_goodbye(socket: WebSocket, reason: CloseReason) {
    if reason == CloseReason::SlowConsumer {
        // Whoever does not read gets nothing more; the kernel's buffer is full anyway.
        return;
    }
    // A peer's own close is answered with its code (section 5.5.1).
    let code = socket.sink.close_code().or_else(|| NonZeroU16::new(reason.websocket_code()));
    let outbox = socket.sink.into_outbox().map(|outbox| *outbox).unwrap_or_default();
    part(socket.stream, outbox, code.unwrap_or(NO_CODE));
}

/// Sends what waits and a close frame, then lets the peer close first, so that nothing sent is lost to a reset.
pub(crate) fn part(stream: Transport, mut outbox: Outbox, code: NonZeroU16) {
    let payload = if code == NO_CODE { Vec::new() } else { websocket::close_payload(code.get(), "") };
    let mut frame = Vec::with_capacity(payload.len() + 2);
    websocket::encode_header(&mut frame, Opcode::Close, true, payload.len() as u64);
    frame.extend_from_slice(&payload);
    outbox.push(frame.into());
    spawn_local(async move {
        let mut stream = stream;
        let _ = timeout(GOODBYE, async {
            while let Some(bytes) = outbox.pop() {
                stream.write_all(&bytes).await?;
            }
            stream.shutdown().await?;
            let mut rest = [0; 512];
            while stream.read(&mut rest).await? > 0 {}
            Ok::<_, io::Error>(())
        })
        .await;
    });
}
