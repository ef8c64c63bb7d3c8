//! The worker's idle upstream connections. Nothing here is locked or crosses threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustc_hash::FxHashMap;
use tidegate_metrics::{ConnectError, UpstreamMetrics};
use tokio::net::TcpStream;

use crate::Upstream;
use crate::body::RequestBody;
use crate::clock::{Clock, Ticks};
use crate::upstream::Server;

/// The largest response head taken from an upstream; also bounds hyper's buffers for the connection.
const MAX_HEAD: usize = 64 * 1024;

/// A connection in use. Dropping it closes it; [`Pool::park`] keeps it.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<RequestBody>,
    /// Requests that it has carried, this one included.
    served: u64,
    place: Place,
}

impl Connection {
    /// Whether it was idle in the pool before: the upstream may have closed it in the meantime.
    pub(crate) fn reused(&self) -> bool {
        self.served > 1
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Place {
    upstream: u64,
    server: usize,
}

#[derive(Debug)]
struct Stack {
    upstream: Arc<Upstream>,
    /// The most recently used last: those at the front age and go.
    idle: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    served: u64,
    since: Ticks,
}

#[derive(Debug)]
pub(crate) struct Pool {
    clock: Rc<Clock>,
    stacks: RefCell<FxHashMap<Place, Stack>>,
}

impl Pool {
    pub(crate) fn new(clock: Rc<Clock>) -> Self {
        Self { clock, stacks: RefCell::default() }
    }

    /// The most recently used idle connection that still lives.
    pub(crate) fn take(&self, upstream: &Upstream, server: usize) -> Option<Connection> {
        let place = Place { upstream: upstream.id, server };
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks.get_mut(&place)?;
        while let Some(idle) = stack.idle.pop() {
            self.clock.parked(false, 1);
            upstream.metrics.connections_idle.dec();
            if idle.sender.is_ready() {
                return Some(Connection { sender: idle.sender, served: idle.served + 1, place });
            }
        }
        None
    }

    /// Keeps a connection whose exchange has ended, if it may carry another one.
    pub(crate) fn park(&self, upstream: &Arc<Upstream>, connection: Connection) {
        let settings = &upstream.settings;
        if connection.served >= settings.keepalive_requests || connection.sender.is_closed() {
            return;
        }
        let mut stacks = self.stacks.borrow_mut();
        let stack =
            stacks.entry(connection.place).or_insert_with(|| Stack { upstream: upstream.clone(), idle: Vec::new() });
        if stack.idle.len() >= settings.keepalive_idle {
            return;
        }
        let since = self.clock.now();
        stack.idle.push(Idle { sender: connection.sender, served: connection.served, since });
        upstream.metrics.connections_idle.inc();
        self.clock.parked(true, 1);
    }

    /// Closes what has been idle for too long. An upstream that left the config goes with its last connection.
    pub(crate) fn sweep(&self) {
        let now = self.clock.now();
        self.stacks.borrow_mut().retain(|_, stack| {
            let timeout = u64::try_from(stack.upstream.settings.keepalive_timeout.as_millis()).unwrap_or(u64::MAX);
            let before = stack.idle.len();
            stack.idle.retain(|idle| now.saturating_sub(idle.since) <= timeout && !idle.sender.is_closed());
            let gone = before - stack.idle.len();
            self.clock.parked(false, gone);
            stack.upstream.metrics.connections_idle.dec_by(i64::try_from(gone).unwrap_or(0));
            !stack.idle.is_empty()
        });
    }

    /// A new connection, driven by a task of its own on this thread.
    pub(crate) async fn open(
        &self,
        upstream: &Arc<Upstream>,
        index: usize,
        server: &Server,
    ) -> Result<Connection, ConnectError> {
        let (sender, connection) = handshake(upstream, server).await?;
        let open = Open::new(&upstream.metrics);
        tokio::task::spawn_local(async move {
            let _open = open;
            // Its error is told to the sender, or it was idle and nobody needs to know.
            let _ = connection.await;
        });
        Ok(Connection { sender, served: 1, place: Place { upstream: upstream.id, server: index } })
    }

    /// As [`Pool::open`], for a connection that may be switched to another protocol. The caller counts it as open.
    pub(crate) async fn open_upgradable(
        &self,
        upstream: &Upstream,
        index: usize,
        server: &Server,
    ) -> Result<Connection, ConnectError> {
        let (sender, connection) = handshake(upstream, server).await?;
        tokio::task::spawn_local(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Connection { sender, served: 1, place: Place { upstream: upstream.id, server: index } })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for stack in self.stacks.get_mut().values() {
            self.clock.parked(false, stack.idle.len());
            stack.upstream.metrics.connections_idle.dec_by(i64::try_from(stack.idle.len()).unwrap_or(0));
        }
    }
}

/// hyper's client, set up so that a response head beyond [`MAX_HEAD`] is an error. Obsolete line folding is one anyway.
async fn handshake(
    upstream: &Upstream,
    server: &Server,
) -> Result<(SendRequest<RequestBody>, http1::Connection<TokioIo<TcpStream>, RequestBody>), ConnectError> {
    let stream = server.connect(upstream.settings.connect_timeout).await?;
    let mut builder = http1::Builder::new();
    builder.max_buf_size(MAX_HEAD).max_headers(100);
    builder.handshake(TokioIo::new(stream)).await.map_err(|_| ConnectError::Other)
}

/// Counts an open connection for as long as it lives.
#[derive(Debug)]
pub(crate) struct Open(Arc<UpstreamMetrics>);

impl Open {
    pub(crate) fn new(metrics: &Arc<UpstreamMetrics>) -> Self {
        metrics.connections_open.inc();
        Self(metrics.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections_open.dec();
    }
}
