//! The worker's connections of HTTP/2. Nothing here is locked or crosses threads.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use tidegate_metrics::ConnectError;
use tokio::sync::Mutex;

use super::link::{Link, Slot};
use crate::Upstream;
use crate::clock::Clock;
use crate::flow::Flow;
use crate::h1::Place;
use crate::server::Server;

#[derive(Debug)]
struct Stack {
    upstream: Arc<Upstream>,
    links: Vec<Rc<Link>>,
    opening: Rc<Opening>,
}

/// Lets one exchange open a connection while the others that want the same wait for it.
#[derive(Debug, Default)]
struct Opening {
    turn: Mutex<()>,
    /// Connections that did not come about, and why the last one did not.
    failures: Cell<u64>,
    error: Cell<Option<ConnectError>>,
}

#[derive(Debug)]
pub(crate) struct Links {
    clock: Rc<Clock>,
    stacks: RefCell<FxHashMap<Place, Stack>>,
}

impl Links {
    pub(crate) fn new(clock: Rc<Clock>) -> Self {
        Self { clock, stacks: RefCell::default() }
    }

    /// A place on a connection that stands: on the oldest that has one, so that those that are not needed become idle.
    pub(crate) fn take(&self, upstream: &Arc<Upstream>, server: &Server) -> Option<Slot> {
        let mut stacks = self.stacks.borrow_mut();
        let stack = stacks.get_mut(&place(upstream, server))?;
        let slot = stack.links.iter().find_map(|link| link.slot(&self.clock, upstream));
        if slot.is_none() {
            stack.links.retain(|link| !link.is_over(upstream));
        }
        slot
    }

    /// A place on a new connection, or on one that somebody else opened while this one was waited for.
    pub(crate) async fn open(
        &self,
        upstream: &Arc<Upstream>,
        server: &Server,
        flow: &Flow,
    ) -> Result<Slot, ConnectError> {
        let place = place(upstream, server);
        let opening = {
            let mut stacks = self.stacks.borrow_mut();
            let stack = stacks.entry(place).or_insert_with(|| Stack {
                upstream: upstream.clone(),
                links: Vec::new(),
                opening: Rc::default(),
            });
            stack.opening.clone()
        };
        let failures = opening.failures.get();
        let turn = match opening.turn.try_lock() {
            Ok(turn) => turn,
            Err(_) => {
                let turn = opening.turn.lock().await;
                if let Some(slot) = self.take(upstream, server) {
                    return Ok(slot);
                }
                // Else all who wait would find out one after the other, each after a whole timeout.
                if opening.failures.get() != failures
                    && let Some(error) = opening.error.get()
                {
                    return Err(error);
                }
                turn
            }
        };
        let result = Link::open(upstream, server, flow).await;
        let result = result.and_then(|link| {
            let slot = link.slot(&self.clock, upstream).ok_or(ConnectError::Other)?;
            if let Some(stack) = self.stacks.borrow_mut().get_mut(&place) {
                stack.links.push(link);
            }
            Ok(slot)
        });
        if let Err(error) = &result {
            opening.failures.set(opening.failures.get() + 1);
            opening.error.set(Some(*error));
        }
        drop(turn);
        result
    }

    /// Closes what has been idle for too long, is one too many, or takes no streams any more. An upstream that left the config
    /// goes with its last connection.
    pub(crate) fn sweep(&self) {
        let now = self.clock.now();
        self.stacks.borrow_mut().retain(|_, stack| {
            let settings = &stack.upstream.settings;
            let timeout = u64::try_from(settings.keepalive_timeout.as_millis()).unwrap_or(u64::MAX);
            let mut idle = 0;
            let upstream = &stack.upstream;
            stack.links.retain(|link| {
                if link.is_over(upstream) {
                    return false;
                }
                let Some(since) = link.idle_since() else { return true };
                idle += 1;
                idle <= settings.keepalive_idle && now.saturating_sub(since) <= timeout
            });
            !stack.links.is_empty() || Rc::strong_count(&stack.opening) > 1
        });
    }
}

fn place(upstream: &Upstream, server: &Server) -> Place {
    Place { upstream: upstream.id, server: server.id }
}
