//! The Redis that Socket.IO servers in Node talk through: listening to its channels and streams, and writing to them.
//!
//! What the bytes mean is not known here (`tidegate_wire::node_adapter` knows it, `tidegate_realtime` acts on it). The
//! promise is that of Redis pub/sub: at most once, in order, nothing while the connection is broken. Everything is
//! bounded: what arrives faster than it is taken, or cannot be written soon, is dropped and counted.
//!
//! Start reading at [`start`], then `link` (the connection), then `stream` (what is read with XREAD).

mod link;
mod stream;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::LocalSet;
use tokio::time::Instant;

use super::settings::{Address, RedisSettings, SettingsError, Topology};
use super::wire::Tls;

/// Orders that may wait for the connection.
const MOST_ORDERS: usize = 16_384;
/// What arrived and waits to be taken: messages.
const MOST_ARRIVED: usize = 16_384;
/// The same, bytes.
const MOST_BYTES: usize = 64 << 20;

/// Where Redis is, and how it is reached.
struct Server {
    settings: RedisSettings,
    tls: Option<Tls>,
}

impl Server {
    fn new(settings: RedisSettings) -> Result<Self, SettingsError> {
        settings.validate()?;
        let tls = settings.tls.as_ref().map(Tls::new).transpose()?;
        Ok(Self { settings, tls })
    }

    /// Where to look for it, in turn.
    fn addresses(&self) -> &[Address] {
        match &self.settings.topology {
            Topology::Standalone(addresses) | Topology::Cluster(addresses) => addresses,
            Topology::Sentinel { .. } => &[],
        }
    }
}

/// Why there is no wire.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings cannot be used.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// There must be one server, and its address.
    #[error("Node servers are reached by one Redis server: name it in `redis`, without Sentinel or Redis Cluster")]
    Topology,
    /// No thread.
    #[error("no thread for the Redis of the Node servers: {0}")]
    Thread(#[from] io::Error),
}

/// Something to listen to.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// SUBSCRIBE.
    Channel(String),
    /// PSUBSCRIBE.
    Pattern(String),
    /// SSUBSCRIBE.
    Shard(String),
}

/// Something to write.
#[derive(Clone, Debug)]
pub enum Put {
    /// PUBLISH.
    Publish {
        /// The channel.
        channel: String,
        /// The message.
        payload: Bytes,
    },
    /// SPUBLISH.
    ShardPublish {
        /// The channel.
        channel: String,
        /// The message.
        payload: Bytes,
    },
    /// XADD, with the stream trimmed to about so many entries.
    Append {
        /// The stream.
        stream: String,
        /// MAXLEN ~.
        most: u64,
        /// The fields of the entry.
        fields: Vec<(&'static str, Bytes)>,
    },
}

impl Put {
    fn bytes(&self) -> usize {
        match self {
            Self::Publish { payload, .. } | Self::ShardPublish { payload, .. } => payload.len(),
            Self::Append { fields, .. } => fields.iter().map(|(_, value)| value.len()).sum(),
        }
    }
}

/// Something that has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// On a channel.
    Message {
        /// Whether a pattern was listened to.
        pattern: bool,
        /// The channel that it was published on.
        channel: Bytes,
        /// The message.
        payload: Bytes,
    },
    /// At the end of a stream.
    Entry {
        /// Its fields.
        fields: Vec<(Bytes, Bytes)>,
    },
    /// Everything is listened to, again if it was so before: what came in between was missed.
    Connected,
    /// The connection is broken.
    Lost,
}

impl Arrival {
    fn bytes(&self) -> usize {
        match self {
            Self::Message { channel, payload, .. } => channel.len() + payload.len(),
            Self::Entry { fields } => fields.iter().map(|(name, value)| name.len() + value.len()).sum(),
            Self::Connected | Self::Lost => 0,
        }
    }
}

enum Order {
    Listen(Source),
    Ignore(Source),
    Put(Put, Instant),
    Count(Source, oneshot::Sender<Option<u64>>),
}

/// What is counted of a wire.
#[derive(Debug, Default)]
pub struct Counts {
    /// Messages that arrived and were dropped, because too many waited.
    pub dropped_in: AtomicU64,
    /// Messages that were not written: too many waited, or the connection was broken for too long.
    pub dropped_out: AtomicU64,
}

#[derive(Default)]
struct Load {
    bytes: AtomicUsize,
    counts: Arc<Counts>,
}

/// The way to Redis: cheap to clone. When the last one is dropped, the connection ends.
#[derive(Clone)]
pub struct Tap {
    orders: mpsc::Sender<Order>,
    /// Bytes on their way out.
    leaving: Arc<Load>,
    woken: Arc<Notify>,
}

impl Tap {
    /// Listens to a channel from now on, and after every reconnect.
    pub fn listen(&self, source: Source) {
        self.order(Order::Listen(source));
    }

    /// Listens to it no longer.
    pub fn ignore(&self, source: Source) {
        self.order(Order::Ignore(source));
    }

    /// Writes something, in the order of the calls. Returns at once; false if it is dropped.
    pub fn put(&self, put: Put) -> bool {
        let bytes = put.bytes();
        if self.leaving.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_BYTES
            && self.orders.try_send(Order::Put(put, Instant::now())).is_ok()
        {
            self.woken.notify_one();
            return true;
        }
        self.leaving.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.leaving.counts.dropped_out.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// How many connections listen to the channel; `None` if that cannot be found out now.
    pub fn count(&self, source: Source) -> oneshot::Receiver<Option<u64>> {
        let (answer, answered) = oneshot::channel();
        self.order(Order::Count(source, answer));
        answered
    }

    fn order(&self, order: Order) {
        if self.orders.try_send(order).is_ok() {
            self.woken.notify_one();
        } else {
            tracing::warn!("too much waits for the Redis of the Node servers; something is not listened to");
        }
    }
}

/// What has come, in order.
pub struct Arrivals {
    arrived: mpsc::Receiver<Arrival>,
    load: Arc<Load>,
}

impl Arrivals {
    /// The next; `None` when the wire has ended.
    pub async fn next(&mut self) -> Option<Arrival> {
        let arrival = self.arrived.recv().await?;
        self.load.bytes.fetch_sub(arrival.bytes(), Ordering::Relaxed);
        Some(arrival)
    }
}

/// The other end of [`Arrivals`].
#[derive(Clone)]
struct Arriving {
    arrived: mpsc::Sender<Arrival>,
    load: Arc<Load>,
}

impl Arriving {
    fn push(&self, arrival: Arrival) {
        let bytes = arrival.bytes();
        if self.load.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes <= MOST_BYTES
            && self.arrived.try_send(arrival).is_ok()
        {
            return;
        }
        self.load.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.load.counts.dropped_in.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        // The last one's end is to be seen.
        self.woken.notify_one();
    }
}

/// Connects on a thread of its own, and there runs what `attend` makes of what comes. `streams` are read from their end on.
///
/// # Errors
/// [`StartError`].
pub fn start<F>(
    settings: RedisSettings,
    streams: Vec<String>,
    counts: Arc<Counts>,
    attend: impl FnOnce(Arrivals) -> F + Send + 'static,
) -> Result<Tap, StartError>
where
    F: Future<Output = ()> + 'static,
{
    if !matches!(settings.topology, Topology::Standalone(_)) {
        return Err(StartError::Topology);
    }
    let server = Arc::new(Server::new(settings)?);
    let (orders, received) = mpsc::channel(MOST_ORDERS);
    let (arrived, arrivals) = mpsc::channel(MOST_ARRIVED);
    let leaving = Arc::new(Load { counts: counts.clone(), ..Load::default() });
    let coming = Arc::new(Load { counts, ..Load::default() });
    let woken = Arc::new(Notify::new());
    let tap = Tap { orders, leaving: leaving.clone(), woken: woken.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        let arriving = Arriving { arrived, load: coming.clone() };
        let local = LocalSet::new();
        local.block_on(&runtime, async move {
            for stream in streams {
                tokio::task::spawn_local(stream::read(server.clone(), stream, arriving.clone()));
            }
            let arrivals = Arrivals { arrived: arrivals, load: coming };
            let link = Box::pin(link::run(server, received, arriving, leaving, woken));
            tokio::join!(link, attend(arrivals));
        });
    };
    std::thread::Builder::new().name("tidegate-interop".to_owned()).spawn(run)?;
    Ok(tap)
}
