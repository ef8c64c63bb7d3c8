//! What carries an exchange: a connection of its own, or a stream of one that is shared.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Method;
use tidegate_metrics::ConnectError;

use crate::body::{RequestBody, Uploading};
use crate::flow::Flow;
use crate::forward::Failure;
use crate::h1::{Connection, Head, Sending};
use crate::h2::{Call, Receiving, Slot};
use crate::headers::Prepared;
use crate::server::Server;
use crate::{Forwarder, Upstream};

/// The way to a server, before anything was sent.
pub(crate) enum Way {
    H1(Connection),
    H2(Slot),
}

/// A request on its way. The rarer kind is boxed, the usual one is not: a request allocates nothing for it.
#[expect(clippy::large_enum_variant, reason = "the large kind is the usual one")]
pub(crate) enum Journey {
    H1(Connection, Sending),
    H2(Box<Call>),
}

/// What brings a response's body.
#[derive(Debug)]
pub(crate) enum Carrier {
    H1(Connection),
    H2(Box<Receiving>),
}

impl Forwarder {
    /// A way to the server that stands already.
    pub(crate) fn take(&self, upstream: &Arc<Upstream>, server: &Server) -> Option<Way> {
        if upstream.settings.http2 {
            self.links.take(upstream, server).map(Way::H2)
        } else {
            self.pool.take(upstream, server).map(Way::H1)
        }
    }

    /// A new one.
    pub(crate) async fn open(
        &self,
        upstream: &Arc<Upstream>,
        server: &Server,
        flow: &Flow,
    ) -> Result<Way, ConnectError> {
        if upstream.settings.http2 {
            self.links.open(upstream, server, flow).await.map(Way::H2)
        } else {
            self.pool.open(upstream, server, flow).await.map(Way::H1)
        }
    }

    /// Sends the head of a request. An error gives the body back.
    pub(crate) fn set_out(
        &self,
        way: Way,
        request: &Prepared,
        body: RequestBody,
        flow: &Flow,
    ) -> Result<Journey, (Failure, RequestBody)> {
        match way {
            Way::H1(connection) => {
                let sending = self.begin(&connection, request, body, flow);
                Ok(Journey::H1(connection, sending))
            }
            Way::H2(slot) => {
                let call = Call::begin(slot, request, body, flow, &mut self.scratch.borrow_mut())?;
                Ok(Journey::H2(Box::new(call)))
            }
        }
    }
}

impl Way {
    /// Whether it has served before: the server may have closed it in the meantime.
    pub(crate) fn reused(&self) -> bool {
        match self {
            Self::H1(connection) => connection.reused(),
            Self::H2(slot) => slot.reused,
        }
    }
}

impl Journey {
    /// Sends and receives, until there is a head.
    pub(crate) fn poll_head(
        &mut self,
        forwarder: &Forwarder,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Failure>> {
        match self {
            Self::H1(connection, sending) => forwarder.poll_head(connection, sending, method, cx),
            Self::H2(call) => call.poll_head(method, cx),
        }
    }

    /// Whether the whole request has been sent.
    pub(crate) fn is_sent(&self) -> bool {
        match self {
            Self::H1(_, sending) => sending.is_done(),
            Self::H2(call) => call.is_sent(),
        }
    }

    /// Whether the server cannot have done anything about the request, which is whole, when it failed so.
    pub(crate) fn is_unseen(&self, failure: Failure) -> bool {
        match self {
            Self::H1(_, sending) => !sending.begun,
            Self::H2(call) => failure == Failure::Unprocessed && call.is_repeatable(),
        }
    }

    /// Nothing came for too long: nobody else is to wait on the same connection.
    pub(crate) fn retire(&self) {
        if let Self::H2(call) = self {
            call.retire();
        }
    }

    /// It failed. Gives the request's body, as far as it can be sent again.
    pub(crate) fn fail(self) -> RequestBody {
        match self {
            Self::H1(_, sending) => sending.into_body(),
            Self::H2(call) => call.into_body(),
        }
    }

    /// The head has come, of a response that is held back: what it comes on, and the request's body.
    pub(crate) fn hold(self) -> Option<(Carrier, RequestBody)> {
        match self {
            Self::H1(connection, sending) => Some((Carrier::H1(connection), sending.into_body())),
            Self::H2(call) => {
                let (receiving, body) = call.hold()?;
                Some((Carrier::H2(Box::new(receiving)), body))
            }
        }
    }

    /// The head has come: what brings the body, and what sends the rest of the request. A server may answer before it has the whole
    /// request: the rest is then sent by a task of its own, because the response is only read as fast as the client takes it.
    pub(crate) fn arrive(self) -> Option<(Carrier, Option<Uploading>)> {
        match self {
            Self::H1(connection, sending) if sending.is_done() => Some((Carrier::H1(connection), None)),
            Self::H1(connection, mut sending) => {
                let (connection, writer) = connection.split();
                let task = tokio::task::spawn_local(async move {
                    let Some(mut writer) = writer else { return };
                    // An upstream that has answered may take the rest or leave it.
                    let _ = std::future::poll_fn(|cx| sending.poll(cx, &mut writer)).await;
                });
                Some((Carrier::H1(connection), Some(Uploading(task))))
            }
            Self::H2(call) => {
                let (receiving, upload) = call.into_parts()?;
                let upload = upload.map(|mut upload| {
                    Uploading(tokio::task::spawn_local(async move {
                        let _ = std::future::poll_fn(|cx| upload.poll(cx)).await;
                    }))
                });
                Some((Carrier::H2(Box::new(receiving)), upload))
            }
        }
    }
}
