//! The servers that there are now, and the link to each: kept up, found again, told of.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidegate_metrics::Metrics;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::backoff::{Backoff, Dice};
use super::error::ConnectError;
use super::link::{Connected, Link, LinkId, connect};
use super::metrics::LinkMetrics;
use super::resp::{ErrorCode, ServerError};
use super::settings::{Address, RedisSettings, SettingsError, Topology};
use super::slot::{Slot, Slots};
use super::slots_map::{Member, Members};
use super::subscription::News;
use super::wire::{Broken, Tls};
use super::{cluster, sentinel};
use crate::Unavailable;

/// A link that lived for as long as this was sound: what ends it is news.
const SOUND: Duration = Duration::from_secs(5);

/// What happens, in the order in which it happens. Of one link: [`LinkEvent::Up`], then what it hears, then
/// [`LinkEvent::Down`], after which nothing comes of it any more.
#[derive(Debug)]
pub enum LinkEvent {
    /// The link is there for these slots. Nothing is subscribed to.
    Up {
        /// The link.
        link: Rc<Link>,
        /// Those that it is there for, beside those that it was before.
        slots: Slots,
    },
    /// The slots have no link now, or another server than until now has them: nothing of theirs is subscribed to any more.
    Down {
        /// The link that they had.
        link: LinkId,
        /// Which.
        slots: Slots,
    },
    /// From here on what is published in the channel is heard.
    Subscribed {
        /// The link.
        link: LinkId,
        /// The channel.
        channel: Bytes,
    },
    /// The server refuses to subscribe to the channels, and would again.
    Refused {
        /// The link.
        link: LinkId,
        /// The channels.
        channels: Vec<Bytes>,
        /// Why.
        error: ServerError,
    },
    /// Somebody published.
    Message {
        /// The link.
        link: LinkId,
        /// The channel.
        channel: Bytes,
        /// What.
        payload: Bytes,
    },
}

/// The links to all servers. Belongs to one thread, whose runtime must be inside of a `LocalSet`. Dropping it ends all
/// connections; what was in flight is answered with [`super::LinkError::Unanswered`].
pub struct Links {
    shared: Rc<Shared>,
    _tasks: JoinSet<()>,
}

pub(super) struct Shared {
    pub(super) settings: RedisSettings,
    pub(super) tls: Option<Tls>,
    pub(super) metrics: LinkMetrics,
    pub(super) members: RefCell<Members>,
    /// Rung when the slots may have moved.
    pub(super) moved: Notify,
    pub(super) dice: Dice,
    next_id: Cell<u64>,
    on_event: Box<dyn Fn(LinkEvent)>,
}

impl Links {
    /// Begins to connect. `on_event` is told what happens; it must not block.
    ///
    /// # Errors
    /// [`SettingsError`]: nothing is tried on settings that cannot work.
    pub fn start(
        settings: RedisSettings,
        metrics: Arc<Metrics>,
        on_event: impl Fn(LinkEvent) + 'static,
    ) -> Result<Self, SettingsError> {
        settings.validate()?;
        let tls = settings.tls.as_ref().map(Tls::new).transpose()?;
        let shared = Rc::new(Shared {
            members: RefCell::new(Members::default()),
            metrics: LinkMetrics::new(metrics),
            moved: Notify::new(),
            dice: Dice::new(),
            next_id: Cell::new(1),
            on_event: Box::new(on_event),
            settings,
            tls,
        });
        let mut tasks = JoinSet::new();
        if shared.settings.topology.is_cluster() {
            tasks.spawn_local(cluster::follow(Rc::clone(&shared)));
        } else {
            let member = shared.members.borrow_mut().add_only();
            tasks.spawn_local(keep(Rc::clone(&shared), member, None, Rc::default()));
        }
        Ok(Self { shared, _tasks: tasks })
    }

    /// The link for a slot.
    ///
    /// # Errors
    /// There is none now. [`LinkEvent::Up`] comes when there is.
    pub fn link(&self, slot: Slot) -> Result<Rc<Link>, Unavailable> {
        self.shared.members.borrow().link(slot).ok_or(Unavailable)
    }

    /// Whether every slot has its link.
    pub fn is_connected(&self) -> bool {
        self.shared.members.borrow().all_up()
    }
}

/// Keeps the link to one server up. `address`: a node of a cluster; otherwise the topology says where the server is.
pub(super) async fn keep(shared: Rc<Shared>, member: Member, address: Option<Address>, leave: Rc<Notify>) {
    let mut backoff = Backoff::default();
    let mut trouble = None;
    let mut tries: usize = 0;
    loop {
        let reached = tokio::select! {
            reached = Box::pin(reach(&shared, address.as_ref(), tries)) => reached,
            () = leave.notified() => return,
        };
        tries = tries.wrapping_add(1);
        match reached {
            Ok((connected, epoch)) => {
                let server = connected.link.address().clone();
                let run = Rc::clone(connected.link.run_id());
                info!(%server, %run, "connected to Redis");
                trouble = None;
                let begin = Instant::now();
                let broken = Box::pin(live(&shared, member, connected, epoch, &leave)).await;
                if begin.elapsed() >= SOUND {
                    backoff = Backoff::default();
                }
                let Some(broken) = broken else { return };
                warn!(%server, %run, "the connection to Redis has ended: {broken}");
            }
            Err((server, error)) => {
                let state = error.state();
                if trouble.as_ref() != Some(&state) {
                    warn!(server = %server.map(|it| it.to_string()).unwrap_or_default(), "Redis cannot be used: {error}");
                    trouble = Some(state);
                }
            }
        }
        shared.moved.notify_one();
        tokio::select! {
            () = sleep(backoff.next(&shared.dice)) => {}
            () = leave.notified() => return,
        }
    }
}

type Unreached = (Option<Address>, ConnectError);

/// One try to connect. With Sentinels also the epoch of their decision.
async fn reach(shared: &Rc<Shared>, address: Option<&Address>, tries: usize) -> Result<(Connected, u64), Unreached> {
    let (address, epoch) = match (address, &shared.settings.topology) {
        (Some(address), _) => (address.clone(), 0),
        (None, Topology::Standalone(addresses) | Topology::Cluster(addresses)) => {
            let address = addresses.iter().cycle().nth(tries.checked_rem(addresses.len()).unwrap_or(0));
            (address.cloned().ok_or((None, ConnectError::Unexpected("nobody")))?, 0)
        }
        (None, Topology::Sentinel { .. }) => {
            let decision = Box::pin(sentinel::primary(shared)).await.map_err(|error| (None, error))?;
            (decision.primary, decision.epoch)
        }
    };
    let id = LinkId(shared.next_id.replace(shared.next_id.get() + 1));
    let tried = connect(&address, &shared.settings, shared.tls.as_ref(), shared.metrics.clone(), id).await;
    tried.map(|connected| (connected, epoch)).map_err(|error| (Some(address), error))
}

/// Works on a link until it ends. `None` if it was left on purpose.
async fn live(shared: &Rc<Shared>, member: Member, connected: Connected, epoch: u64, leave: &Notify) -> Option<Broken> {
    let Connected { link, calls, heard } = connected;
    let link = Rc::new(link);
    let _counted = shared.metrics.up();
    let mut calls = Box::pin(link.pipeline.run(calls, &shared.moved));
    let mut heard = Box::pin(link.subscription.run(heard, |news| shared.news(member, &link, news)));
    shared.up(member, &link);
    let broken = tokio::select! {
        broken = &mut calls => {
            link.subscription.close();
            shared.down(member);
            return Some(broken);
        }
        broken = &mut heard => Some(broken),
        () = sentinel::overruled(shared, link.address(), epoch) => Some(Broken::Left),
        () = leave.notified() => None,
    };
    // Nothing is heard of it from here on; what was asked before may still be answered.
    link.subscription.close();
    link.pipeline.close();
    shared.down(member);
    let _ = timeout(shared.settings.response_timeout, calls).await;
    broken
}

impl Shared {
    pub(super) fn tell(&self, event: LinkEvent) {
        (self.on_event)(event);
    }

    fn up(&self, member: Member, link: &Rc<Link>) {
        let slots = self.members.borrow_mut().put(member, Rc::clone(link));
        if !slots.is_empty() {
            self.tell(LinkEvent::Up { link: Rc::clone(link), slots });
        }
    }

    fn down(&self, member: Member) {
        let gone = self.members.borrow_mut().take(member);
        if let Some((link, slots)) = gone.filter(|(_, slots)| !slots.is_empty()) {
            self.tell(LinkEvent::Down { link: link.id(), slots });
        }
    }

    /// The server does not have the slot any more, or cannot serve it.
    fn lost(&self, member: Member, link: &Rc<Link>, slot: Slot) {
        if !self.settings.topology.is_cluster() {
            // There is nobody else who could have it: begin anew.
            link.subscription.close();
            return;
        }
        if self.members.borrow_mut().disown(member, slot) {
            self.tell(LinkEvent::Down { link: link.id(), slots: slot.into() });
        }
        self.moved.notify_one();
    }

    /// Whether the channel's slot is the member's still. Without a cluster nothing else can be.
    fn owns(&self, member: Member, channel: &[u8]) -> bool {
        !self.settings.topology.is_cluster() || self.members.borrow().owner(Slot::of(channel)) == Some(member)
    }

    fn news(&self, member: Member, link: &Rc<Link>, news: News) {
        let id = link.id();
        match news {
            // The server has not noticed yet that the slot went elsewhere, or that it is to tell nothing more of it.
            News::Message(channel, _) | News::Subscribed(channel) if !self.owns(member, &channel) => {}
            News::Message(channel, payload) => self.tell(LinkEvent::Message { link: id, channel, payload }),
            News::Subscribed(channel) => self.tell(LinkEvent::Subscribed { link: id, channel }),
            News::Ended(channel) => self.lost(member, link, Slot::of(&channel)),
            News::Refused(channels, error) => match error.code {
                ErrorCode::Moved | ErrorCode::Ask | ErrorCode::TryAgain | ErrorCode::ClusterDown => {
                    for channel in channels {
                        self.lost(member, link, Slot::of(&channel));
                    }
                }
                ErrorCode::CrossSlot
                | ErrorCode::ReadOnly
                | ErrorCode::Loading
                | ErrorCode::MasterDown
                | ErrorCode::NoReplicas
                | ErrorCode::Misconf
                | ErrorCode::OutOfMemory
                | ErrorCode::Busy
                | ErrorCode::NoPerm
                | ErrorCode::NoAuth
                | ErrorCode::WrongPass
                | ErrorCode::NoProto
                | ErrorCode::NoScript
                | ErrorCode::WrongType
                | ErrorCode::Other => {
                    warn!(server = %link.address(), "Redis refuses a subscription: {}", ConnectError::Answered(error.clone()));
                    self.tell(LinkEvent::Refused { link: id, channels, error });
                }
            },
        }
    }
}
