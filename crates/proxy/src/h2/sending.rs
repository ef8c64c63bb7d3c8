//! A request on its way to an HTTP/2 server, until the head of its response has come.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::ext::Protocol;
use h2::{Reason, RecvStream, SendStream};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, SEC_WEBSOCKET_KEY, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Frame;

use super::link::Slot;
use super::receiving::Receiving;
use super::tunnel::Bidirectional;
use crate::body::{BodyError, RequestBody};
use crate::flow::Flow;
use crate::forward::Failure;
use crate::h1::{Framing, Head, SendingFailed, may_trail};
use crate::headers::Prepared;

/// So much of a request body is kept until its response begins, so that a request that the server did not look at can go to
/// another one.
const KEPT: usize = 64 * 1024;

/// A request and the stream that it is sent on.
#[derive(Debug)]
pub(crate) struct Call {
    response: ResponseFuture,
    pub(crate) upload: Upload,
    slot: Slot,
    id: u32,
    /// The body of the response, once its head has come.
    received: Option<RecvStream>,
}

/// The request's body.
#[derive(Debug)]
pub(crate) struct Upload {
    stream: SendStream<Bytes>,
    body: RequestBody,
    /// What was sent of it, in order; `None` when it has become too much.
    kept: Option<Vec<Frame<Bytes>>>,
    kept_bytes: usize,
    ended: bool,
}

impl Call {
    /// Sends the head. An error gives the body back: nothing was sent.
    pub(crate) fn begin(
        slot: Slot,
        request: &Prepared,
        body: RequestBody,
        flow: &Flow,
        scratch: &mut Vec<u8>,
    ) -> Result<Self, (Failure, RequestBody)> {
        let Some(head) = head(request, flow, slot.upstream.settings.tls.is_some(), scratch) else {
            return Err((Failure::ClientBroken, body));
        };
        let ended = body.is_end();
        match slot.sender().send_request(head, ended) {
            Ok((response, stream)) => {
                let id = response.stream_id().into();
                let upload = Upload { stream, body, kept: Some(Vec::new()), kept_bytes: 0, ended };
                Ok(Self { response, upload, slot, id, received: None })
            }
            // The connection ended a moment ago.
            Err(_) => Err((Failure::Unprocessed, body)),
        }
    }

    /// Asks for a tunnel in which WebSocket is spoken. `None` if the server does not know such requests.
    pub(crate) fn tunnel(
        slot: Slot,
        request: &Prepared,
        body: RequestBody,
        flow: &Flow,
        scratch: &mut Vec<u8>,
    ) -> Result<Self, Failure> {
        let mut sender = slot.sender();
        if !sender.is_extended_connect_protocol_enabled() {
            return Err(Failure::NoTunnel);
        }
        let secure = slot.upstream.settings.tls.is_some();
        let mut head = head(request, flow, secure, scratch).ok_or(Failure::ClientBroken)?;
        *head.method_mut() = Method::CONNECT;
        head.extensions_mut().insert(Protocol::from_static("websocket"));
        head.headers_mut().remove(SEC_WEBSOCKET_KEY);
        let (response, stream) = sender.send_request(head, false).map_err(|_| Failure::Unprocessed)?;
        let id = response.stream_id().into();
        let upload = Upload { stream, body, kept: None, kept_bytes: 0, ended: true };
        Ok(Self { response, upload, slot, id, received: None })
    }

    /// The tunnel, whose head has come.
    pub(crate) fn into_tunnel(self) -> Option<(Bidirectional, Slot)> {
        Some((Bidirectional::new(self.upload.stream, self.received?), self.slot))
    }

    /// Sends the rest of the request and waits for the head of its response.
    pub(crate) fn poll_head(&mut self, method: &Method, cx: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        if !self.upload.ended
            && let Poll::Ready(Err(failed)) = self.upload.poll(cx)
        {
            match failed {
                SendingFailed::Client => return Poll::Ready(Err(Failure::ClientBroken)),
                SendingFailed::TooLarge => return Poll::Ready(Err(Failure::TooLarge)),
                SendingFailed::Upstream => {}
            }
        }
        let response = match ready!(Pin::new(&mut self.response).poll(cx)) {
            Ok(response) => response,
            Err(error) => return Poll::Ready(Err(self.classify(&error))),
        };
        Poll::Ready(self.head(response, method))
    }

    fn head(&mut self, response: Response<RecvStream>, method: &Method) -> Result<Head, Failure> {
        let (parts, stream) = response.into_parts();
        let mut lengths = parts.headers.get_all(CONTENT_LENGTH).iter();
        let length = match (lengths.next(), lengths.next()) {
            (None, _) => None,
            (Some(length), None) => {
                Some(length.to_str().ok().and_then(|text| text.parse::<u64>().ok()).ok_or(Failure::Invalid)?)
            }
            (Some(_), Some(_)) => return Err(Failure::Invalid),
        };
        let bodyless =
            method == Method::HEAD || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Failure::Invalid);
        }
        let framing = match length {
            _ if stream.is_end_stream() || bodyless => Framing::Length(0),
            Some(length) => Framing::Length(length),
            None => Framing::UntilClose,
        };
        let mut response = Response::new(());
        *response.status_mut() = parts.status;
        *response.headers_mut() = parts.headers;
        self.received = Some(stream);
        Ok(Head { response, framing, reusable: false })
    }

    fn classify(&self, error: &h2::Error) -> Failure {
        if self.slot.disowns(self.id) || (error.is_remote() && error.reason() == Some(Reason::REFUSED_STREAM)) {
            Failure::Unprocessed
        } else if error.is_library() {
            Failure::Invalid
        } else {
            Failure::Reset
        }
    }
}

impl Call {
    /// Whether the whole request was sent.
    pub(crate) fn is_sent(&self) -> bool {
        self.upload.ended
    }

    /// Whether the request can be sent again as it was.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.upload.kept.is_some()
    }

    /// Nothing came for too long: nobody else is to wait on this connection.
    pub(crate) fn retire(&self) {
        self.slot.retire();
    }

    /// The request's body as it was before, as far as it was kept.
    pub(crate) fn into_body(self) -> RequestBody {
        let Upload { mut body, kept, .. } = self.upload;
        body.put_back(kept.unwrap_or_default());
        body
    }

    /// The response's body, and the request's.
    pub(crate) fn hold(self) -> Option<(Receiving, RequestBody)> {
        let Self { upload: Upload { mut body, kept, .. }, slot, received, .. } = self;
        body.put_back(kept.unwrap_or_default());
        Some((Receiving::new(received?, slot), body))
    }

    /// The response's body, and what is still to be sent of the request. The head must have come.
    pub(crate) fn into_parts(self) -> Option<(Receiving, Option<Upload>)> {
        let Self { upload, slot, received, .. } = self;
        let upload = (!upload.ended).then_some(Upload { kept: None, ..upload });
        Some((Receiving::new(received?, slot), upload))
    }
}

impl Upload {
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), SendingFailed>> {
        while !self.ended {
            self.stream.reserve_capacity(1);
            if self.stream.capacity() == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    Some(Err(_)) | None => return Poll::Ready(Err(SendingFailed::Upstream)),
                }
            }
            if let Poll::Ready(_reset) = self.stream.poll_reset(cx) {
                return Poll::Ready(Err(SendingFailed::Upstream));
            }
            let frame = match ready!(self.body.poll(cx)) {
                Some(Ok(frame)) => Some(frame),
                None => None,
                Some(Err(error)) => {
                    self.stream.send_reset(Reason::CANCEL);
                    let too_large = matches!(error, BodyError::TooLarge);
                    return Poll::Ready(Err(if too_large { SendingFailed::TooLarge } else { SendingFailed::Client }));
                }
            };
            if self.send(frame).is_err() {
                return Poll::Ready(Err(SendingFailed::Upstream));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// `None` is the end.
    fn send(&mut self, frame: Option<Frame<Bytes>>) -> Result<(), h2::Error> {
        let Some(frame) = frame else {
            self.ended = true;
            return self.stream.send_data(Bytes::new(), true);
        };
        match frame.into_data() {
            Ok(data) => {
                self.ended = self.body.is_end();
                self.kept_bytes += data.len();
                if self.kept_bytes > KEPT {
                    self.kept = None;
                }
                if let Some(kept) = &mut self.kept {
                    kept.push(Frame::data(data.clone()));
                }
                self.stream.send_data(data, self.ended)
            }
            Err(frame) => {
                self.ended = true;
                let mut trailers = frame.into_trailers().unwrap_or_default();
                let unfit: Vec<HeaderName> = trailers.keys().filter(|name| !may_trail(name)).cloned().collect();
                for name in unfit {
                    trailers.remove(name);
                }
                if let Some(kept) = &mut self.kept {
                    kept.push(Frame::trailers(trailers.clone()));
                }
                self.stream.send_trailers(trailers)
            }
        }
    }
}

/// The head as HTTP/2 has it (RFC 9113 section 8.3.1): the host in the target, nothing of a connection. `None` if the host is none.
fn head(request: &Prepared, flow: &Flow, secure: bool, scratch: &mut Vec<u8>) -> Option<Request<()>> {
    let parts = &request.parts;
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    uri.authority = Some(Authority::try_from(parts.headers.get(HOST)?.as_bytes()).ok()?);
    let root = || PathAndQuery::from_static("/");
    uri.path_and_query = Some(parts.uri.path_and_query().cloned().unwrap_or_else(root));
    let mut head = Request::new(());
    *head.method_mut() = parts.method.clone();
    *head.version_mut() = Version::HTTP_2;
    *head.uri_mut() = Uri::from_parts(uri).ok()?;
    let headers = head.headers_mut();
    *headers = parts.headers.clone();
    for name in [HOST, CONNECTION, TRANSFER_ENCODING, UPGRADE] {
        headers.remove(name);
    }
    scratch.clear();
    request.write_origin(scratch, flow);
    add_lines(headers, scratch);
    if let Some(trace) = &flow.trace
        && let Ok(value) = HeaderValue::from_str(&trace.header())
    {
        headers.insert("traceparent", value);
    }
    Some(head)
}

/// Fields as HTTP/1.1 writes them.
fn add_lines(headers: &mut HeaderMap, lines: &[u8]) {
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = line.split_at(colon);
        let value = value.strip_prefix(b": ").unwrap_or_default();
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
}
