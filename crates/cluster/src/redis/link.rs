//! Both connections to one server, from their handshakes to the end of either.

use std::fmt;
use std::rc::Rc;

use bytes::Bytes;
use tokio::time::timeout;

use super::call::Call;
use super::error::ConnectError;
use super::metrics::LinkMetrics;
use super::pipeline::{Answer, Limits, Pipeline};
use super::resp::Value;
use super::settings::{Address, RedisSettings};
use super::subscription::Subscription;
use super::wire::{Tls, Wire};

/// Names a [`Link`]: never used twice in one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(super) u64);

/// A server that can be spoken to: one connection for calls, one for what is heard. They live and die together, and all
/// of that time the server is one run of one process. Once it has ended it takes no calls, and never comes back: the
/// next one is another link.
pub struct Link {
    id: LinkId,
    address: Address,
    run_id: Rc<str>,
    pub(super) pipeline: Pipeline,
    pub(super) subscription: Subscription,
}

impl Link {
    /// Which one.
    pub fn id(&self) -> LinkId {
        self.id
    }

    /// Where the server is.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Names the server's process: another one after each restart.
    pub fn run_id(&self) -> &Rc<str> {
        &self.run_id
    }

    /// Sends a call, behind those before it; the future need not be polled for that. It ends within the response timeout.
    pub fn call(&self, call: Call) -> Answer {
        self.pipeline.call(call)
    }

    /// Subscribes to sharded channels (`SSUBSCRIBE`), all of one slot. `LinkEvent::Subscribed` follows for each, or
    /// `LinkEvent::Refused`, or the slot's `LinkEvent::Down`. Nothing happens if the link has ended.
    pub fn subscribe(&self, channels: &[Bytes]) {
        self.subscription.subscribe(channels);
    }

    /// Ends subscriptions, all of one slot. Messages that are on their way may still be heard.
    pub fn unsubscribe(&self, channels: &[Bytes]) {
        self.subscription.unsubscribe(channels);
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} to {} (run {})", self.id.0, self.address, self.run_id)
    }
}

/// A link and the connections that it works on.
pub(super) struct Connected {
    pub(super) link: Link,
    pub(super) calls: Wire,
    pub(super) heard: Wire,
}

/// What a server says of itself (`INFO`).
struct Facts {
    run_id: Rc<str>,
    version: String,
    mode: String,
}

/// Opens both connections, and makes sure that the server is what is needed.
pub(super) async fn connect(
    address: &Address,
    settings: &RedisSettings,
    tls: Option<&Tls>,
    metrics: LinkMetrics,
    id: LinkId,
) -> Result<Connected, ConnectError> {
    let both = async {
        let (mut calls, facts) = open(address, settings, tls).await?;
        let replication = calls.ask(&Call::new("INFO").arg("replication")).await?;
        if field(&replication, "role").is_some_and(|role| role == "slave") {
            return Err(ConnectError::Replica);
        }
        // Refused while the server reads its data from disk, unlike all that was asked before.
        calls.ask(&Call::new("PING")).await?;
        let (heard, others) = open(address, settings, tls).await?;
        if facts.run_id != others.run_id {
            return Err(ConnectError::TwoServers);
        }
        Ok((calls, heard, facts))
    };
    let (calls, heard, facts) =
        timeout(settings.connect_timeout, Box::pin(both)).await.map_err(|_| ConnectError::Late)??;
    let limits = Limits {
        in_flight: settings.max_in_flight,
        bytes: settings.max_in_flight_bytes,
        timeout: settings.response_timeout,
    };
    let link = Link {
        id,
        address: address.clone(),
        run_id: facts.run_id,
        pipeline: Pipeline::new(limits, metrics),
        subscription: Subscription::new(settings.response_timeout),
    };
    Ok(Connected { link, calls, heard })
}

async fn open(address: &Address, settings: &RedisSettings, tls: Option<&Tls>) -> Result<(Wire, Facts), ConnectError> {
    let mut wire = Wire::connect(address, tls, settings.max_answer_bytes).await?;
    wire.greet(&settings.login).await?;
    let info = wire.ask(&Call::new("INFO").arg("server")).await?;
    let facts = Facts::read(&info)?;
    facts.check(settings)?;
    if settings.database != 0 {
        wire.ask(&Call::new("SELECT").int(settings.database)).await?;
    }
    Ok((wire, facts))
}

impl Facts {
    fn read(info: &Value) -> Result<Self, ConnectError> {
        Ok(Self {
            run_id: field(info, "run_id").ok_or(ConnectError::NoInfo("run_id"))?.into(),
            version: field(info, "redis_version").ok_or(ConnectError::NoInfo("redis_version"))?.to_owned(),
            mode: field(info, "redis_mode").or(field(info, "server_mode")).unwrap_or_default().to_owned(),
        })
    }

    fn check(&self, settings: &RedisSettings) -> Result<(), ConnectError> {
        let major = self.version.split('.').next().and_then(|major| major.parse::<u32>().ok());
        if major.is_none_or(|major| major < 7) {
            return Err(ConnectError::TooOld(self.version.clone()));
        }
        match (settings.topology.is_cluster(), self.mode.as_str()) {
            (_, "sentinel") => Err(ConnectError::Sentinel),
            (false, "cluster") => Err(ConnectError::InCluster),
            _ => Ok(()),
        }
    }
}

/// A line of `INFO`.
fn field<'a>(info: &'a Value, name: &str) -> Option<&'a str> {
    let of_name = |line: &'a str| line.strip_prefix(name)?.strip_prefix(':');
    info.text()?.lines().find_map(of_name).map(str::trim_end)
}
