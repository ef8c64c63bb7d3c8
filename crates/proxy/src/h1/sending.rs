//! A request on its way to the upstream.

use std::io::{self, IoSlice};
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};
use smallvec::SmallVec;
use tokio::io::AsyncWrite;

use super::connection::{Connection, poll_write};
use crate::body::{BodyError, RequestBody};
use crate::flow::Flow;
use crate::headers::{Prepared, is_origin};

/// A request that is being sent: what the socket has not taken yet, and the body behind it.
#[derive(Debug)]
pub(crate) struct Sending {
    /// In order. Nothing is asked of the body while there is any.
    queue: SmallVec<[Bytes; 3]>,
    body: RequestBody,
    chunked: bool,
    /// The body has ended, and so has its framing.
    ended: bool,
    /// The socket has taken something: the upstream may know of the request.
    pub(crate) begun: bool,
}

/// Why a request was not sent to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendingFailed {
    /// The client's body broke off.
    Client,
    /// The client's body is longer than allowed.
    TooLarge,
    /// The upstream takes no more. It may have answered all the same.
    Upstream,
}

impl Sending {
    /// Writes the head at once, as far as the socket takes it.
    pub(crate) fn begin(
        connection: &Connection,
        request: &Prepared,
        body: RequestBody,
        flow: &Flow,
        scratch: &mut Vec<u8>,
    ) -> Self {
        let chunked = !body.is_end() && !request.parts.headers.contains_key(CONTENT_LENGTH);
        scratch.clear();
        write_head(scratch, request, flow, chunked);
        let ended = body.is_end();
        let mut this = Self { queue: SmallVec::new(), body, chunked, ended, begun: false };
        // An error shows again when the rest is sent.
        let written = connection.try_write(scratch).unwrap_or(0);
        this.begun = written > 0;
        if let Some(rest) = scratch.get(written..).filter(|rest| !rest.is_empty()) {
            this.queue.push(Bytes::copy_from_slice(rest));
        }
        this
    }

    /// Whether everything has been sent.
    pub(crate) fn is_done(&self) -> bool {
        self.ended && self.queue.is_empty()
    }

    /// The body, as far as it has not been sent.
    pub(crate) fn into_body(self) -> RequestBody {
        self.body
    }

    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> Poll<Result<(), SendingFailed>> {
        loop {
            while !self.queue.is_empty() {
                match ready!(self.poll_queue(cx, stream)) {
                    Ok(0) | Err(_) => return Poll::Ready(Err(SendingFailed::Upstream)),
                    Ok(_) => {}
                }
            }
            if self.ended {
                return Poll::Ready(Ok(()));
            }
            match ready!(self.body.poll(cx)) {
                None => self.end(None),
                Some(Err(BodyError::TooLarge)) => return Poll::Ready(Err(SendingFailed::TooLarge)),
                Some(Err(_)) => return Poll::Ready(Err(SendingFailed::Client)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.push(data),
                    Err(frame) => self.end(frame.into_trailers().ok()),
                },
            }
        }
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            // An empty chunk would be the last one.
            return;
        }
        if self.chunked {
            self.queue.push(format!("{:x}\r\n", data.len()).into());
            self.queue.push(data);
            self.queue.push(Bytes::from_static(b"\r\n"));
        } else {
            self.queue.push(data);
            self.ended = self.body.is_end();
        }
    }

    fn end(&mut self, trailers: Option<HeaderMap>) {
        self.ended = true;
        if !self.chunked {
            return;
        }
        let mut last = b"0\r\n".to_vec();
        for (name, value) in trailers.iter().flat_map(HeaderMap::iter) {
            if may_trail(name) {
                write_field(&mut last, name.as_str(), value.as_bytes());
            }
        }
        last.extend_from_slice(b"\r\n");
        self.queue.push(last.into());
    }

    fn poll_queue(&mut self, cx: &mut Context<'_>, stream: &mut (impl AsyncWrite + Unpin)) -> Poll<io::Result<usize>> {
        let slices: SmallVec<[IoSlice<'_>; 3]> = self.queue.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let written = ready!(poll_write(stream, cx, &slices))?;
        drop(slices);
        self.begun |= written > 0;
        let mut left = written;
        while let Some(first) = self.queue.first_mut() {
            let taken = left.min(first.len());
            first.advance(taken);
            left -= taken;
            if !first.is_empty() {
                break;
            }
            self.queue.remove(0);
        }
        Poll::Ready(Ok(written))
    }
}

/// What frames or routes a message, or says who sent it, cannot come behind it: a server that takes trailers for header
/// fields would believe it (RFC 9110 section 6.5.1).
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    ![AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name)
        && !is_origin(name.as_str())
}

fn write_head(out: &mut Vec<u8>, request: &Prepared, flow: &Flow, chunked: bool) {
    let parts = &request.parts;
    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(parts.uri.path_and_query().map_or("/", |target| target.as_str()).as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        if name != TRANSFER_ENCODING {
            write_field(out, name.as_str(), value.as_bytes());
        }
    }
    request.write_origin(out, flow);
    if let Some(trace) = &flow.trace {
        write_field(out, "traceparent", trace.header().as_bytes());
    }
    if chunked {
        out.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
