//! The realtime server as a part of this process: opened from the config, served to requests.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use tidegate_auth::{ApiKeys, LiveKeys};
use tidegate_balance::BucketSettings;
use tidegate_cluster::redis::{BrokerSettings, RedisBroker};
use tidegate_cluster::{Broker, EmbeddedHistory, Fsync, History, HistoryError, HistorySettings, MemoryHistory};
use tidegate_config::{BrokerKind, Config, RealtimeBehaviour, StoreKind};
use tidegate_dialect::Dialect;
use tidegate_metrics::Metrics;
use tidegate_realtime::app::App;
use tidegate_realtime::{
    Behaviour, Body, Client, DoorSettings, Entrance, Limits, NamespaceSettings, Namespaces, Node, Settings, Shard,
    StreamSummary, Streams,
};
use tidegate_transport::Transport;
use tidegate_types::{Phase, ShardId};
use tokio::sync::watch;

use crate::StartError;
use crate::access_log::Entry;
use crate::admission::{Admitted, Places};
use crate::cluster::{self, Cluster};
use crate::interop;
use crate::line::Line;
use crate::request_id::X_REQUEST_ID;
use crate::slots::Held;
use crate::token_keys;
use crate::webhooks;
use crate::worker::Worker;

/// A drain closes its streams over at most so long, ms; longer makes no reconnect wave gentler.
const MOST_SPREAD_MS: u64 = 10_000;

/// The namespaces that are served: the application's, if there is one, else the config's. What a dialect says of limits wins over what is said for all.
fn namespaces(realtime: &tidegate_config::Realtime, app: Option<&App>) -> Namespaces {
    let limits = Limits {
        connections_per_tenant: realtime.connections_per_tenant,
        connections_per_user: realtime.connections_per_user,
        rooms_per_user: realtime.rooms_per_user,
        messages_per_second: realtime.messages_per_second,
        message_burst: realtime.message_burst,
        events_per_minute: realtime.events_per_minute,
        ..Limits::default()
    };
    if let Some(app) = app {
        return app.namespaces(limits);
    }
    realtime.namespaces.iter().fold(Namespaces::none(), |served, namespace| {
        let entrance = if namespace.needs_token { Entrance::Token } else { Entrance::Open };
        let settings = match &namespace.behaviour {
            RealtimeBehaviour::Rooms => {
                NamespaceSettings { entrance, limits, ..NamespaceSettings::new(Behaviour::Rooms) }
            }
            RealtimeBehaviour::Dialect(dialect) => NamespaceSettings {
                entrance,
                limits: limits_of(dialect, limits),
                token_in_query: dialect.token_in_query(),
                ..NamespaceSettings::new(Behaviour::Dialect(dialect.clone()))
            },
        };
        served.with(namespace.name.clone(), settings)
    })
}

fn limits_of(dialect: &Dialect, general: Limits) -> Limits {
    let own = dialect.limits();
    // Rooms that every client is put into on connect are not the user's doing.
    let by_itself = u32::try_from(dialect.rooms_on_connect()).unwrap_or(u32::MAX);
    Limits {
        connections_per_tenant: own.connections.unwrap_or(general.connections_per_tenant),
        connections_per_user: own.connections_per_user.unwrap_or(general.connections_per_user),
        rooms_per_user: own.rooms_per_user.map_or(general.rooms_per_user, |most| most.saturating_add(by_itself)),
        events_per_minute: own.events_per_minute.unwrap_or(general.events_per_minute),
        message_bytes: own.message_bytes.map_or(0, |most| usize::try_from(most).unwrap_or(usize::MAX)),
        ..general
    }
}

/// Opens the realtime server and its history, if the config has one.
pub(crate) fn open(
    config: &Config,
    shards: u16,
    metrics: &Arc<Metrics>,
    phase: &watch::Receiver<Phase>,
    app: Option<App>,
    cluster: Option<&Cluster>,
) -> Result<Option<Arc<Node>>, StartError> {
    let Some(realtime) = &config.realtime else {
        let needs = "the application needs the realtime server: the config has no [realtime]";
        return if app.is_some() { Err(StartError::Config(needs.to_owned())) } else { Ok(None) };
    };
    if let Some(problem) = app.as_ref().and_then(App::problem) {
        return Err(StartError::Config(format!("the application cannot be served: {problem}")));
    }
    let cluster = cluster.filter(|_| realtime.broker == BrokerKind::Redis);
    let mut node_secret = [0; 32];
    match cluster {
        // Any node has to know whose session it is.
        Some(cluster) => node_secret = *cluster.sid_secret(),
        // Session ids are as unguessable as this is. They need not outlive the process: sessions are recovered by other means.
        None => getrandom::fill(&mut node_secret).map_err(|error| StartError::Store(error.to_string()))?,
    }
    let settings = Settings {
        path: realtime.path.to_string(),
        api_path: realtime.api_path.to_string(),
        session: tidegate_session::Settings {
            ping_interval_ms: millis(realtime.ping_interval),
            ping_timeout_ms: millis(realtime.ping_timeout),
            connect_timeout_ms: millis(realtime.connect_timeout),
            upgrade_timeout_ms: millis(realtime.upgrade_timeout),
            max_payload_bytes: realtime.max_payload,
            ..tidegate_session::Settings::default()
        },
        door: DoorSettings {
            connections: realtime.max_connections,
            connections_per_address: realtime.connections_per_ip,
            connects_per_second: realtime.connects_per_second,
            connect_burst: realtime.connect_burst,
        },
        max_rooms_per_connection: realtime.rooms_per_connection,
        outbox_bytes: realtime.outbox_bytes,
        compression_threshold: realtime.compression.then_some(realtime.compression_threshold),
        recovery_window_ms: millis(realtime.recovery_window),
        ring_bytes: realtime.recovery_bytes,
        away_after_ms: millis(realtime.away_after),
        idempotency_window_ms: millis(realtime.idempotency_window),
        history_messages: config.store.max_messages_per_room,
        sse_heartbeat_ms: millis(realtime.sse_heartbeat),
        tenant_messages: BucketSettings {
            rate: realtime.tenant_messages_per_second,
            burst: realtime.tenant_message_burst,
        },
        cors_origins: realtime.cors_origins.clone(),
        token_cookie: realtime.auth.cookie.as_deref().map(str::to_owned),
        expiry_notice_ms: millis(realtime.auth.expiry_notice),
        webhooks: realtime.webhooks.iter().map(webhooks::settings).collect::<Result<_, _>>()?,
        api_keys: ApiKeys::new(realtime.auth.api_keys.iter().cloned()),
        interop: realtime
            .interop
            .as_ref()
            .map(|interop| interop::settings(interop, config.cluster.as_ref()))
            .transpose()?,
        node_secret: Arc::from(node_secret),
        node: cluster.map_or(0, |cluster| cluster.number().0),
        shards,
        reconnect_in_ms: millis(config.drain.reconnect_in),
        // A third of the deadline: what is slow to close still has the rest of it.
        drain_spread_ms: millis(config.drain.timeout / 3).min(MOST_SPREAD_MS),
        namespaces: namespaces(realtime, app.as_ref()),
        app: app.map(Arc::new),
    };
    let store = &config.store;
    let mut history = HistorySettings {
        ttl_ms: millis(store.ttl),
        max_messages_per_room: store.max_messages_per_room,
        max_bytes_per_room: store.max_bytes_per_room as u64,
        queue_bytes: store.queue_bytes,
        session_grace_ms: millis(realtime.recovery_window),
        ..HistorySettings::default()
    };
    let keys = token_keys::open(&realtime.auth.tokens);
    let (metrics, phase) = (metrics.clone(), phase.clone());
    if let Some(cluster) = cluster {
        let broker = BrokerSettings {
            ttl_ms: history.ttl_ms,
            max_messages_per_room: history.max_messages_per_room,
            max_bytes_per_room: history.max_bytes_per_room,
            recovery_window_ms: settings.recovery_window_ms,
            session_grace_ms: history.session_grace_ms,
            ..BrokerSettings::default()
        };
        return open_in_cluster(settings, broker, cluster, keys, metrics, phase).map(Some);
    }
    let node = match &store.kind {
        StoreKind::Memory => Node::open(
            settings,
            |on_written| Ok(Arc::new(MemoryHistory::open(history, on_written)?) as Arc<dyn History>),
            false,
            keys,
            metrics,
            phase,
        ),
        StoreKind::Embedded { path, fsync } => {
            history.fsync = match fsync {
                tidegate_config::Fsync::Always => Fsync::Always,
                tidegate_config::Fsync::Interval(every) => Fsync::Interval(millis(*every)),
                tidegate_config::Fsync::Never => Fsync::Never,
            };
            Node::open(
                settings,
                |on_written| Ok(Arc::new(EmbeddedHistory::open(path, history, on_written)?) as Arc<dyn History>),
                true,
                keys,
                metrics,
                phase,
            )
        }
    };
    node.map(Some).map_err(|error| StartError::Store(error.to_string()))
}

/// Opens the realtime server as one of many.
fn open_in_cluster(
    settings: Settings,
    broker: BrokerSettings,
    cluster: &Cluster,
    keys: LiveKeys,
    metrics: Arc<Metrics>,
    phase: watch::Receiver<Phase>,
) -> Result<Arc<Node>, StartError> {
    let (redis, id, of_broker) = (cluster.redis.clone(), cluster.id, metrics.clone());
    let mut started = None;
    let start = |on_written, on_heard| {
        let broker = RedisBroker::start(redis, broker, id, of_broker, on_heard, on_written);
        let broker = Arc::new(broker.map_err(|error| HistoryError::Store(error.to_string()))?);
        started = Some(broker.clone());
        Ok((broker.clone() as Arc<dyn History>, broker as Arc<dyn Broker>))
    };
    let node = Node::open_in_cluster(settings, start, keys, metrics, phase);
    let node = node.map_err(|error| StartError::Store(error.to_string()))?;
    if let (Some(members), Some(broker)) = (cluster.members(), started) {
        let of_this_node = broker.clone();
        cluster.when_back(Box::new(move || of_this_node.come_back()));
        members.bury_from_start(Arc::new(move |dead| broker.end_leases_of(dead)));
    }
    Ok(node)
}

/// The worker's part of the realtime server.
pub(crate) fn shard(node: Option<Arc<Node>>, id: ShardId) -> Option<Rc<Shard>> {
    node.map(|node| node.shard(id))
}

/// What is said about a request at its end, or at the end of the stream that it opened.
struct Report {
    worker: Rc<Worker>,
    line: Line,
    request_id: Rc<str>,
    started: Instant,
    status: Cell<u16>,
    ttfb: Cell<Option<Duration>>,
    /// Keeps the client's connection counted as open while a stream is on it.
    held: RefCell<Option<Rc<Held>>>,
    told: Cell<bool>,
    /// Held as long as the stream.
    _places: Places,
}

impl Report {
    fn entry<'a>(&'a self, kind: &'static str) -> Entry<'a> {
        Entry {
            duration: self.started.elapsed(),
            ttfb: self.ttfb.get(),
            ..self.line.entry(&self.request_id, kind, self.status.get())
        }
    }

    fn request_ended(&self, bytes_out: u64) {
        self.told.set(true);
        self.worker.realtime.answered(self.status.get());
        self.line.write(&self.worker, &Entry { bytes_out, ..self.entry("http") });
    }

    /// A stream's end; the polling session's too, whose opening request has had its own line.
    fn stream_ended(&self, summary: &StreamSummary) {
        if !self.told.replace(true) {
            self.worker.realtime.answered(self.status.get());
        }
        let entry = Entry {
            bytes_in: summary.bytes_in,
            bytes_out: summary.bytes_out,
            events: summary.messages_in.saturating_add(summary.messages_out),
            messages_in: summary.messages_in,
            messages_out: summary.messages_out,
            reason: Some(summary.reason.as_str()),
            transport: Some(summary.transport),
            tenant: summary.tenant.as_ref().map(AsRef::as_ref),
            user: summary.user.as_ref().map(AsRef::as_ref),
            ..self.entry(summary.kind)
        };
        self.line.write(&self.worker, &entry);
        if let Some(held) = self.held.take() {
            held.idle();
        }
    }
}

/// A WebSocket that joins a session which exists already ends with that session, and is not reported again.
impl Drop for Report {
    fn drop(&mut self) {
        if !self.told.get() {
            self.worker.realtime.answered(self.status.get());
            self.line.write(&self.worker, &self.entry("socketio"));
        }
    }
}

/// Serves a request of the realtime server. `is_internal`: it came in where only nodes of the cluster come in.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    held: &Rc<Held>,
    admitted: Admitted,
    shard: Rc<Shard>,
    request: Request<Incoming>,
    mut line: Line,
    is_internal: bool,
) -> Response<Body> {
    let request_id = worker.ids.of(request.headers());
    let address = line.client().ip();
    let is_peer = is_internal && !cluster::is_forwarded(&request);
    line.route = Some("realtime".into());
    let report = Rc::new(Report {
        worker: worker.clone(),
        line,
        request_id: request_id.clone(),
        started: Instant::now(),
        status: Cell::new(499),
        ttfb: Cell::new(None),
        held: RefCell::new(None),
        told: Cell::new(false),
        _places: admitted.places,
    });
    if let Some(delay) = admitted.delay {
        tokio::time::sleep(delay).await;
    }
    let at_end = report.clone();
    let client = Client {
        address,
        request_id: Box::from(&*request_id),
        is_peer,
        take_back,
        on_end: Box::new(move |summary: StreamSummary| at_end.stream_ended(&summary)),
    };
    let mut response = shard.serve(request, client).await;
    report.status.set(response.status().as_u16());
    report.ttfb.set(Some(report.started.elapsed()));
    if response.extensions().get::<Streams>().is_some() {
        report.held.replace(Some(held.clone()));
    } else {
        report.request_ended(http_body::Body::size_hint(response.body()).exact().unwrap_or(0));
        held.idle();
    }
    if let Ok(id) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    response
}

fn take_back(upgraded: Upgraded) -> (Transport, Bytes) {
    let taken = tidegate_proxy::take_back(upgraded);
    (taken.stream, taken.read)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
