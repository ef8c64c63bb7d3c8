use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_types::{NodeId, PresenceInfo, Publication, RoomName, SpaceKey, UserId};

use super::{Limits, RunId, state::State};
use crate::Audience;

/// One subscription connection. A node that comes back is another subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subscriber(pub u64);

/// What can be subscribed to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// Messages, signals and leases of a room.
    Room(Arc<SpaceKey>, RoomName),
    /// Signals for every node, and which nodes have died.
    Nodes,
    /// Signals for one node.
    Node(NodeId),
    /// One node's marks in the stream of a space.
    Marks(Arc<SpaceKey>, NodeId),
}

/// What a subscriber is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Push {
    /// A message.
    Published(Arc<Publication>),
    /// A lease began, changed or ended.
    Leased {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
        /// The room.
        room: RoomName,
        /// Who holds it.
        node: NodeId,
        /// The user.
        user: UserId,
        /// How present; `None`: no more.
        info: Option<PresenceInfo>,
        /// Counts the changes of the room's leases; a hole is a loss.
        version: u64,
    },
    /// Here a look at one of the space's rooms was taken ([`Server::look`]).
    Mark {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
        /// Which look.
        mark: u64,
    },
    /// A node's signal.
    Signal {
        /// Who sent it.
        from: NodeId,
        /// To whom.
        to: Audience,
        /// What.
        body: Bytes,
    },
    /// A dead node's leases in a room have been taken back.
    LeasesEnded {
        /// Tenant and namespace.
        space: Arc<SpaceKey>,
        /// The room.
        room: RoomName,
        /// The node.
        node: NodeId,
        /// As in [`Push::Leased`].
        version: u64,
    },
    /// A node is dead, and its leases have ended.
    Gone(NodeId),
}

/// What a call publishes, in order; each to the subscribers that its channel had at that moment.
pub type Pushes = Vec<(Subscriber, Push)>;

/// The server: what it keeps, and who listens now.
pub struct Server {
    pub(super) limits: Limits,
    pub(super) run: RunId,
    pub(super) state: State,
    /// The states before each of the last writes, oldest first.
    pub(super) before: VecDeque<State>,
    pub(super) remembered_writes: usize,
    subscribers: BTreeMap<Channel, BTreeSet<Subscriber>>,
    /// How many writes `state` consists of.
    pub(super) writes: u64,
}

impl Server {
    /// An empty server. It remembers its last `remembered_writes` writes, so that a restart can lose some of them.
    pub fn new(run: RunId, limits: Limits, remembered_writes: usize) -> Self {
        Self {
            limits,
            run,
            state: State::default(),
            before: VecDeque::new(),
            remembered_writes,
            subscribers: BTreeMap::new(),
            writes: 0,
        }
    }

    /// This life of the server.
    pub fn run(&self) -> RunId {
        self.run
    }

    /// How many writes what is kept consists of.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// From now on the subscriber is sent what the channel carries.
    pub fn subscribe(&mut self, who: Subscriber, channel: Channel) {
        self.subscribers.entry(channel).or_default().insert(who);
    }

    /// Ends [`Server::subscribe`].
    pub fn unsubscribe(&mut self, who: Subscriber, channel: &Channel) {
        if let Some(of) = self.subscribers.get_mut(channel) {
            of.remove(&who);
            if of.is_empty() {
                self.subscribers.remove(channel);
            }
        }
    }

    /// The connection has ended, and all its subscriptions with it.
    pub fn hang_up(&mut self, who: Subscriber) {
        self.subscribers.retain(|_, of| {
            of.remove(&who);
            !of.is_empty()
        });
    }

    /// All connections have ended.
    pub(super) fn hang_up_all(&mut self) {
        self.subscribers.clear();
    }

    /// How many channels somebody is subscribed to, and how many subscriptions there are.
    pub fn subscriptions(&self) -> (usize, usize) {
        (self.subscribers.len(), self.subscribers.values().map(BTreeSet::len).sum())
    }

    /// Sends a signal, to all but the connection that it came by.
    pub fn signal(&self, by: Subscriber, from: NodeId, to: Audience, body: Bytes, out: &mut Pushes) {
        let channel = match &to {
            Audience::Room(space, room) => Channel::Room(Arc::clone(space), room.clone()),
            Audience::Nodes => Channel::Nodes,
            Audience::Node(node) => Channel::Node(*node),
        };
        let first = out.len();
        self.push(&channel, &Push::Signal { from, to, body }, out);
        let mut index = 0;
        out.retain(|(who, _)| {
            index += 1;
            index <= first || *who != by
        });
    }

    pub(super) fn push(&self, channel: &Channel, push: &Push, out: &mut Pushes) {
        let who = self.subscribers.get(channel).into_iter().flatten();
        out.extend(who.map(|who| (*who, push.clone())));
    }

    /// To be called before anything is written: what a restart may take back begins here.
    pub(super) fn about_to_write(&mut self) {
        self.writes += 1;
        if self.remembered_writes == 0 {
            return;
        }
        if self.before.len() >= self.remembered_writes {
            self.before.pop_front();
        }
        self.before.push_back(self.state.clone());
    }
}
