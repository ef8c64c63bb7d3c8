//! The worker's idle upstream connections. Nothing here is locked or crosses threads.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tidegate_metrics::{ConnectError, UpstreamMetrics};

use crate::Upstream;
use crate::clock::{Clock, Ticks};
use crate::flow::Flow;
use crate::h1::{Connection, Place};
use crate::server::Server;

#[derive(Debug)]
struct Stack {
    upstream: Arc<Upstream>,
    /// The most recently used last: those at the front age and go.
    idle: Vec<Idle>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
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
    pub(crate) fn take(&self, upstream: &Upstream, server: &Server) -> Option<Connection> {
        let place = Place { upstream: upstream.id, server: server.id };
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks.get_mut(&place)?;
        while let Some(Idle { mut connection, .. }) = stack.idle.pop() {
            self.clock.parked(false, 1);
            upstream.metrics.connections_idle.dec();
            if connection.is_quiet() {
                connection.served += 1;
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose exchange has ended, if it may carry another one.
    pub(crate) fn park(&self, upstream: &Arc<Upstream>, connection: Connection) {
        let settings = &upstream.settings;
        // A PROXY header holds for all that a connection carries, which is one client's.
        let personal = settings.proxy_protocol.is_some();
        if personal || connection.served >= settings.keepalive_requests || connection.has_rest() {
            return;
        }
        let mut stacks = self.stacks.borrow_mut();
        let stack =
            stacks.entry(connection.place).or_insert_with(|| Stack { upstream: upstream.clone(), idle: Vec::new() });
        if stack.idle.len() >= settings.keepalive_idle {
            return;
        }
        stack.idle.push(Idle { connection, since: self.clock.now() });
        upstream.metrics.connections_idle.inc();
        self.clock.parked(true, 1);
    }

    /// Closes what has been idle for too long or was closed by the upstream. An upstream that left the config goes with its last connection.
    pub(crate) fn sweep(&self) {
        let now = self.clock.now();
        self.stacks.borrow_mut().retain(|_, stack| {
            let timeout = u64::try_from(stack.upstream.settings.keepalive_timeout.as_millis()).unwrap_or(u64::MAX);
            let before = stack.idle.len();
            stack.idle.retain(|idle| now.saturating_sub(idle.since) <= timeout && idle.connection.is_quiet());
            let gone = before - stack.idle.len();
            self.clock.parked(false, gone);
            stack.upstream.metrics.connections_idle.dec_by(i64::try_from(gone).unwrap_or(0));
            !stack.idle.is_empty()
        });
    }

    /// A new connection.
    pub(crate) async fn open(
        &self,
        upstream: &Arc<Upstream>,
        server: &Server,
        flow: &Flow,
    ) -> Result<Connection, ConnectError> {
        let stream = upstream.connect(server, flow).await?;
        let place = Place { upstream: upstream.id, server: server.id };
        Ok(Connection::new(stream, place, Open::new(&upstream.metrics)))
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
