//! A response's body on its way from an HTTP/2 server.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::Frame;

use super::link::Slot;
use crate::body::{BodyError, Piece};
use crate::h1::Framing;

/// What a stream brings after the head. Dropped before its end, it tells the server to stop.
#[derive(Debug)]
pub(crate) struct Receiving {
    stream: RecvStream,
    /// All data has come; trailers may follow.
    data_ended: bool,
    #[expect(dead_code, reason = "the stream has its place until the end")]
    slot: Slot,
}

impl Receiving {
    pub(super) fn new(stream: RecvStream, slot: Slot) -> Self {
        Self { stream, data_ended: false, slot }
    }

    /// `framing` only counts what is left of an announced length: the end is what the stream says.
    pub(crate) fn poll(&mut self, framing: &mut Framing, cx: &mut Context<'_>) -> Poll<Result<Piece, BodyError>> {
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // What is on its way to the client no longer counts: that is bounded at the client's side.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    if let Framing::Length(left) = framing {
                        *left = left.saturating_sub(data.len() as u64);
                    }
                    let last = self.stream.is_end_stream();
                    if data.is_empty() && !last {
                        continue;
                    }
                    return Poll::Ready(Ok(piece(data, last)));
                }
                Some(Err(error)) => return Poll::Ready(Err(broken(error))),
                None => self.data_ended = true,
            }
        }
        let trailers = ready!(self.stream.poll_trailers(cx)).map_err(broken)?;
        Poll::Ready(Ok(Piece { frame: trailers.map(Frame::trailers), last: true }))
    }
}

fn piece(data: Bytes, last: bool) -> Piece {
    Piece { frame: (!data.is_empty()).then(|| Frame::data(data)), last }
}

fn broken(error: h2::Error) -> BodyError {
    BodyError::Upstream(io::Error::other(error))
}
