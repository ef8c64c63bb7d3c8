//! One request of the gateway itself: a probe.

use std::task::Poll;

use h2::ext::Protocol;
use http::{Method, Request, StatusCode, Uri};
use tidegate_transport::Transport;

use crate::probe::ProbeFailure;

/// Asks for the path over a connection of its own, for a WebSocket if that is wanted, and gives the status of the answer.
pub(crate) async fn ask(
    stream: Transport,
    path: &str,
    host: &str,
    secure: bool,
    websocket: bool,
) -> Result<StatusCode, ProbeFailure> {
    let scheme = if secure { "https" } else { "http" };
    let uri = Uri::builder().scheme(scheme).authority(host).path_and_query(path).build();
    let mut request = Request::new(());
    *request.uri_mut() = uri.map_err(|_| ProbeFailure::Invalid)?;
    request.headers_mut().insert("user-agent", http::HeaderValue::from_static("tidegate-probe"));
    let (mut send, connection) = h2::client::handshake(stream).await.map_err(|_| ProbeFailure::Invalid)?;
    let mut connection = std::pin::pin!(connection);
    if websocket {
        *request.method_mut() = Method::CONNECT;
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", http::HeaderValue::from_static("13"));
        // Servers say with their SETTINGS whether they know such requests; one that does not is never heard of it.
        std::future::poll_fn(|cx| {
            let ended = connection.as_mut().poll(cx).is_ready();
            if send.is_extended_connect_protocol_enabled() {
                return Poll::Ready(Ok(()));
            }
            if ended { Poll::Ready(Err(ProbeFailure::Closed)) } else { Poll::Pending }
        })
        .await?;
    }
    let (response, _stream) = send.send_request(request, !websocket).map_err(|_| ProbeFailure::Invalid)?;
    tokio::select! {
        response = response => match response {
            Ok(response) => Ok(response.status()),
            Err(error) if error.is_library() => Err(ProbeFailure::Invalid),
            Err(_) => Err(ProbeFailure::Closed),
        },
        _ended = connection => Err(ProbeFailure::Closed),
    }
}
