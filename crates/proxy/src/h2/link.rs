//! One connection of HTTP/2 to a server, and the right to a stream on it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection, SendRequest};
use tidegate_metrics::ConnectError;
use tokio::sync::oneshot;

use super::frames::{Seen, Watched};
use crate::Upstream;
use crate::clock::{Clock, Ticks};
use crate::flow::Flow;
use crate::pool::Open;
use crate::server::Server;

/// Streams that we open on one connection, whatever the server allows.
const MOST_STREAMS: u32 = 128;
/// What a server may send of one response before its client takes it.
const STREAM_WINDOW: u32 = 128 * 1024;
/// All streams' windows together: a client that takes nothing must not hold up those that share its connection.
const CONNECTION_WINDOW: u32 = MOST_STREAMS * STREAM_WINDOW;
const MOST_HEADER_BYTES: u32 = 64 * 1024;
const SEND_BUFFER: usize = 64 * 1024;
/// How long a connection that nobody wants any more may take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

/// A connection that exchanges share. Closed when the last holder lets go.
#[derive(Debug)]
pub(super) struct Link {
    send: SendRequest<Bytes>,
    pub(super) seen: Rc<Seen>,
    streams: Cell<u32>,
    served: Cell<u64>,
    /// Takes no new streams, for it may be dead.
    retired: Cell<bool>,
    idle: RefCell<Option<Idle>>,
    #[expect(dead_code, reason = "tells the connection's task that it may end")]
    wanted: oneshot::Sender<()>,
}

/// Counts a connection as idle for as long as it lives.
#[derive(Debug)]
struct Idle {
    clock: Rc<Clock>,
    upstream: Arc<Upstream>,
    since: Ticks,
}

impl Idle {
    fn begin(clock: &Rc<Clock>, upstream: &Arc<Upstream>) -> Self {
        clock.parked(true, 1);
        upstream.metrics.connections_idle.inc();
        Self { clock: clock.clone(), upstream: upstream.clone(), since: clock.now() }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.clock.parked(false, 1);
        self.upstream.metrics.connections_idle.dec();
    }
}

impl Link {
    /// A new connection. It stands when the server's SETTINGS have come: then it is known to speak HTTP/2, and how many streams
    /// it takes.
    pub(super) async fn open(upstream: &Arc<Upstream>, server: &Server, flow: &Flow) -> Result<Rc<Self>, ConnectError> {
        let stream = upstream.connect(server, flow).await?;
        let seen = Rc::new(Seen::default());
        let greeting = async {
            let mut builder = Builder::new();
            builder
                .enable_push(false)
                .initial_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(MOST_HEADER_BYTES)
                .max_send_buffer_size(SEND_BUFFER);
            let watched = Watched::new(stream, seen.clone());
            let (send, connection) = builder.handshake(watched).await.map_err(|_| ConnectError::Other)?;
            let (wanted, unwanted) = oneshot::channel();
            let open = Open::new(&upstream.metrics);
            tokio::task::spawn_local(run(connection, unwanted, seen.clone(), open));
            if !std::future::poll_fn(|cx| seen.poll_settled(cx)).await {
                return Err(ConnectError::Other);
            }
            Ok((send, wanted))
        };
        let greeted = tokio::time::timeout(upstream.settings.connect_timeout, greeting).await;
        let (send, wanted) = greeted.unwrap_or(Err(ConnectError::Timeout)).inspect_err(|error| {
            server.metrics.connect_errors(*error).inc();
            tracing::warn!(
                upstream = upstream.settings.name, server = %server.address,
                "the server does not answer in HTTP/2, which protocol = \"http2\" says that it speaks",
            );
        })?;
        Ok(Rc::new(Self {
            send,
            seen,
            streams: Cell::new(0),
            served: Cell::new(0),
            retired: Cell::new(false),
            idle: RefCell::default(),
            wanted,
        }))
    }

    /// Whether it will take no further stream, ever.
    pub(super) fn is_over(&self, upstream: &Upstream) -> bool {
        let mut send = self.send.clone();
        self.retired.get()
            || self.seen.is_over()
            || self.served.get() >= upstream.settings.keepalive_requests
            || matches!(send.poll_ready(&mut Context::from_waker(Waker::noop())), std::task::Poll::Ready(Err(_)))
    }

    /// Whether it takes a stream now.
    fn has_room(&self) -> bool {
        let allowed = u32::try_from(self.send.current_max_send_streams()).unwrap_or(u32::MAX);
        self.streams.get() < allowed.min(MOST_STREAMS)
    }

    /// Since when it has carried no stream.
    pub(super) fn idle_since(&self) -> Option<Ticks> {
        self.idle.borrow().as_ref().map(|idle| idle.since)
    }

    /// A place on it, if it has one.
    pub(super) fn slot(self: &Rc<Self>, clock: &Rc<Clock>, upstream: &Arc<Upstream>) -> Option<Slot> {
        if self.is_over(upstream) || !self.has_room() {
            return None;
        }
        self.idle.replace(None);
        self.streams.set(self.streams.get() + 1);
        self.served.set(self.served.get() + 1);
        let reused = self.served.get() > 1;
        Some(Slot { link: self.clone(), clock: clock.clone(), upstream: upstream.clone(), reused })
    }
}

/// The right to a stream of a connection, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    link: Rc<Link>,
    clock: Rc<Clock>,
    pub(super) upstream: Arc<Upstream>,
    /// Whether the connection has carried other exchanges.
    pub(crate) reused: bool,
}

impl Slot {
    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.link.send.clone()
    }

    pub(super) fn disowns(&self, stream: u32) -> bool {
        self.link.seen.disowns(stream)
    }

    /// Nothing came on it for too long: others are not to wait for the same.
    pub(crate) fn retire(&self) {
        self.link.retired.set(true);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let left = self.link.streams.get().saturating_sub(1);
        self.link.streams.set(left);
        if left == 0 {
            self.link.idle.replace(Some(Idle::begin(&self.clock, &self.upstream)));
        }
    }
}

/// Moves a connection's frames until it ends.
async fn run(connection: Connection<Watched, Bytes>, unwanted: oneshot::Receiver<()>, seen: Rc<Seen>, open: Open) {
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        result = &mut connection => result,
        _ = unwanted => {
            seen.end();
            tokio::time::timeout(GOODBYE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection of HTTP/2 to a server ended");
    }
    seen.end();
    drop(open);
}
