use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use tidegate_types::TenantId;

/// A label value from the config, escaped for the exposition format.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// Escapes the text once (OpenMetrics 1.0, `escaped-string`), since the encoder writes label values as they are.
    pub fn new(text: &str) -> Self {
        let mut escaped = String::with_capacity(text.len());
        for character in text.chars() {
            match character {
                '\\' => escaped.push_str("\\\\"),
                '"' => escaped.push_str("\\\""),
                '\n' => escaped.push_str("\\n"),
                other => escaped.push(other),
            }
        }
        Self(escaped.into())
    }
}

impl EncodeLabelValue for Name {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(&self.0)
    }
}

/// A tenant as a label. Only [`Metrics::tenant`](crate::Metrics::tenant) makes one, which bounds their number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TenantLabel(Name);

impl TenantLabel {
    pub(crate) fn of(tenant: &TenantId) -> Self {
        Self(Name::new(tenant.as_str()))
    }

    pub(crate) fn other() -> Self {
        Self(Name::new("other"))
    }
}

impl EncodeLabelValue for TenantLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }
}

macro_rules! label_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// How many values there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The label's value; stable.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(self.as_str())
            }
        }
    };
}

label_enum!(
    /// How an active connection takes part.
    ConnectionStatus {
        /// A Socket.IO socket.
        Connected = "connected",
        /// A subscriber of a room's event stream (SSE).
        Listening = "listening",
    }
);

label_enum!(
    /// What became of a call of Redis that failed.
    RedisTrouble {
        /// Too much waited already; it was not sent.
        Behind = "behind",
        /// It was not sent, for there was no connection.
        Unreachable = "unreachable",
        /// It was sent, and no answer came in time.
        Unanswered = "unanswered",
        /// Redis answered with an error.
        Refused = "refused",
    }
);

label_enum!(
    /// Why something found in Redis was not taken.
    ForeignKind {
        /// Another program wrote it, or another version of this one.
        Version = "version",
        /// It is damaged, or not ours.
        Corrupt = "corrupt",
        /// There is something of another type under a key.
        WrongType = "wrong_type",
    }
);

label_enum!(
    /// The first digit of an HTTP status.
    StatusClass {
        /// 1xx, which here means 101: a tunnel.
        Informational = "1xx",
        /// 2xx.
        Success = "2xx",
        /// 3xx.
        Redirection = "3xx",
        /// 4xx, and 499-like ends where the client went away before an answer.
        ClientError = "4xx",
        /// 5xx.
        ServerError = "5xx",
    }
);

impl StatusClass {
    /// The class of a status; what is outside 100..=499 counts as a server error.
    pub fn of(status: u16) -> Self {
        match status {
            100..=199 => Self::Informational,
            200..=299 => Self::Success,
            300..=399 => Self::Redirection,
            400..=499 => Self::ClientError,
            _ => Self::ServerError,
        }
    }
}

label_enum!(
    /// What became of a TLS handshake with a client.
    Handshake {
        /// A new session.
        Full = "full",
        /// A session that the client had before.
        Resumed = "resumed",
        /// It took too long.
        Timeout = "timeout",
        /// The client went away.
        Closed = "closed",
        /// More handshakes than the listener allows.
        Limited = "limited",
        /// A request without TLS.
        PlainHttp = "plain_http",
        /// The client has no certificate, or none that is trusted.
        ClientCertificate = "client_certificate",
        /// The client refused: it does not trust our certificate, or wants what is not spoken.
        Refused = "refused",
        /// No version, cipher suite or protocol in common.
        Incompatible = "incompatible",
        /// What came is not TLS.
        Malformed = "malformed",
    }
);

label_enum!(
    /// Why a member of the cluster is not talked to.
    LeftOut {
        /// It speaks another version of the nodes' protocol.
        Protocol = "protocol",
        /// What it says of itself cannot be read.
        Unreadable = "unreadable",
    }
);

label_enum!(
    /// What became of a request whose session another node has.
    Forwarded {
        /// Passed on, and answered.
        Passed = "passed",
        /// The session's node is dead or unknown.
        NoOwner = "no_owner",
        /// The session's node could not be reached, or broke off.
        Failed = "failed",
    }
);

label_enum!(
    /// What became of a server, or of the breaker of its upstream.
    StateChange {
        /// Enough good probes in a row.
        ProbeUp = "probe_up",
        /// Enough bad probes in a row.
        ProbeDown = "probe_down",
        /// `max_fails` requests failed: skipped for `fail_timeout`.
        Failing = "failing",
        /// The trial after `fail_timeout` went well.
        Recovered = "recovered",
        /// Taken out as an outlier.
        Ejected = "ejected",
        /// The ejection is over.
        Returned = "returned",
        /// The breaker refuses requests.
        BreakerOpened = "breaker_opened",
        /// The breaker makes its trials.
        BreakerHalfOpen = "breaker_half_open",
        /// The breaker lets requests through again.
        BreakerClosed = "breaker_closed",
        /// An operator wants the server used.
        SetUp = "set_up",
        /// An operator wants the server unused.
        SetDown = "set_down",
        /// An operator wants the server to become empty.
        SetDrain = "set_drain",
        /// An operator gave the server another weight.
        SetWeight = "set_weight",
    }
);

label_enum!(
    /// How one attempt to pass a request to a server ended.
    Outcome {
        /// A complete response head, whatever its status.
        Response = "response",
        /// No connection.
        ConnectFailed = "connect_failed",
        /// The server broke off before a response head.
        Reset = "reset",
        /// No response head in time.
        Timeout = "timeout",
        /// A response that breaks the protocol, or a 101 that does not validate.
        Invalid = "invalid",
        /// The client went away first.
        Cancelled = "cancelled",
    }
);

label_enum!(
    /// What became of a span of a trace.
    SpanOutcome {
        /// The collector took it.
        Exported = "exported",
        /// Too many waited to be sent.
        Dropped = "dropped",
        /// The collector did not take it.
        Failed = "failed",
    }
);

label_enum!(
    /// What became of a call of a webhook.
    WebhookResult {
        /// A status of success came.
        Ok = "ok",
        /// Another status came that says that trying again is of no use.
        Rejected = "rejected",
        /// A status came that says that the receiver is not well.
        Failed = "failed",
        /// Nothing came in time.
        Timeout = "timeout",
        /// No connection, or it broke off.
        Unreachable = "unreachable",
        /// The breaker was open: no call was made.
        BreakerOpen = "breaker_open",
        /// Too many calls were under way for too long: no call was made.
        Busy = "busy",
    }
);

label_enum!(
    /// Why an event that a webhook was to be told of is lost to it.
    WebhookDrop {
        /// Too many waited; it was the oldest.
        QueueFull = "queue_full",
        /// The receiver did not take it, however often it was tried.
        NotTaken = "not_taken",
    }
);

label_enum!(
    /// Why a connection to a server failed.
    ConnectError {
        /// Nobody listens.
        Refused = "refused",
        /// No answer in time.
        Timeout = "timeout",
        /// The host or network cannot be reached.
        Unreachable = "unreachable",
        /// The name does not resolve.
        Resolve = "resolve",
        /// The TLS handshake failed: no trusted certificate for the name, or no TLS at all.
        Tls = "tls",
        /// Anything else, such as a lack of descriptors or ports.
        Other = "other",
    }
);

label_enum!(
    /// Which way bytes go.
    Direction {
        /// From the client.
        ToUpstream = "to_upstream",
        /// To the client.
        ToClient = "to_client",
    }
);

label_enum!(
    /// An end of a stream.
    StreamPeer {
        /// Whoever connected to the gateway.
        Client = "client",
        /// The server that the gateway connected to.
        Upstream = "upstream",
    }
);

label_enum!(
    /// Who closed a WebSocket first.
    CloseBy {
        /// The client.
        Client = "client",
        /// The server.
        Upstream = "upstream",
        /// The gateway: a drain, an order, a limit, a timeout.
        Gateway = "gateway",
    }
);

label_enum!(
    /// A limit inside a WebSocket.
    StreamLimit {
        /// One message was too large.
        MessageSize = "message_size",
        /// Messages per second of the connection.
        Messages = "messages",
        /// Bytes per second of the connection.
        Bytes = "bytes",
        /// Messages per second of all connections with the same key.
        KeyMessages = "key_messages",
        /// Bytes per second of all connections with the same key.
        KeyBytes = "key_bytes",
    }
);

label_enum!(
    /// What kind of stream lived.
    StreamKind {
        /// A WebSocket.
        WebSocket = "websocket",
        /// An event stream.
        Sse = "sse",
    }
);

label_enum!(
    /// Why a message did not reach a connection.
    DropReason {
        /// The outbox was full, and the message volatile.
        OutboxFull = "outbox_full",
        /// The connection was closed as too slow, with what waited for it.
        SlowConsumer = "slow_consumer",
        /// The store could not take it.
        StoreFailed = "store_failed",
        /// A worker's mailbox was full.
        MailboxFull = "mailbox_full",
        /// The process was closing.
        Shutdown = "shutdown",
    }
);

label_enum!(
    /// Why a credential was refused.
    AuthFailure {
        /// None was given.
        Missing = "missing",
        /// Its time is over.
        Expired = "expired",
        /// It is malformed, or its signature does not match.
        Invalid = "invalid",
        /// It is right, but it or its user was shut out since.
        Revoked = "revoked",
        /// It was refused for another reason, such as that no key is known yet.
        Failed = "failed",
    }
);

label_enum!(
    /// What came of fetching keys.
    KeyFetch {
        /// A document with keys.
        Ok = "ok",
        /// None; the keys of before stay.
        Failed = "failed",
    }
);

label_enum!(
    /// Which limit was met.
    RateLimit {
        /// Connections in all, or per tenant or user.
        Connection = "connection",
        /// Messages per second.
        Message = "message",
        /// Rooms per connection.
        Room = "room",
    }
);

label_enum!(
    /// Why the realtime server did not take a connection.
    TurnedAway {
        /// It has as many as it may have.
        Full = "full",
        /// The client's address has as many as it may have.
        Address = "address",
        /// The client's address came too fast.
        Pace = "pace",
    }
);

label_enum!(
    /// What was asked of the history store.
    StoreOperation {
        /// Appending a batch, up to its acknowledgement.
        Append = "append",
        /// Reading history.
        Read = "read",
        /// Flushing to disk.
        Sync = "sync",
    }
);

label_enum!(
    /// How an attempt to recover a connection's state ended.
    Recovery {
        /// State and missed messages were restored.
        Recovered = "recovered",
        /// The session is not known.
        UnknownSession = "unknown_session",
        /// It belongs to somebody else.
        OtherSubject = "other_subject",
        /// The history it refers to was lost.
        OtherEpoch = "other_epoch",
        /// It missed more than is kept.
        TooOld = "too_old",
        /// Its time is over.
        Expired = "expired",
    }
);

label_enum!(
    /// What became of something said between this server and Node servers on the same Redis.
    Interop {
        /// Another server said it, and it was done.
        Received = "received",
        /// Said to the others.
        Sent = "sent",
        /// Not a message of the adapter, or an event that clients do not take.
        Invalid = "invalid",
        /// Cannot be written in the adapter's way.
        Unwritten = "unwritten",
        /// Came faster than the workers could take it.
        DroppedIn = "dropped_in",
        /// The connection to Redis was broken, or too slow.
        DroppedOut = "dropped_out",
    }
);

label_enum!(
    /// An event's name as a label. Clients choose the names of events, so only those of the API are told apart.
    EventLabel {
        /// `presence:heartbeat`
        PresenceHeartbeat = "presence:heartbeat",
        /// `presence:status`
        PresenceStatus = "presence:status",
        /// `presence:update`
        PresenceUpdate = "presence:update",
        /// `presence:join`
        PresenceJoin = "presence:join",
        /// `presence:leave`
        PresenceLeave = "presence:leave",
        /// `room:join`
        RoomJoin = "room:join",
        /// `room:leave`
        RoomLeave = "room:leave",
        /// `room:send`
        RoomSend = "room:send",
        /// `room:history`
        RoomHistory = "room:history",
        /// `room:joined`
        RoomJoined = "room:joined",
        /// `room:left`
        RoomLeft = "room:left",
        /// `room:message`
        RoomMessage = "room:message",
        /// `query:presence`
        QueryPresence = "query:presence",
        /// `query:rooms`
        QueryRooms = "query:rooms",
        /// `connection:established`
        ConnectionEstablished = "connection:established",
        /// `connection:error`
        ConnectionError = "connection:error",
        /// `system:error`
        SystemError = "system:error",
        /// `system:restart`
        SystemRestart = "system:restart",
        /// `broadcast`
        Broadcast = "broadcast",
        /// An acknowledgement, either way.
        Ack = "ack",
        /// Any other name.
        Other = "other",
    }
);

impl EventLabel {
    /// The label of an event's name.
    pub fn of(name: &str) -> Self {
        Self::ALL.iter().copied().find(|label| label.as_str() == name).unwrap_or(Self::Other)
    }
}

label_enum!(
    /// What a limit did to a request.
    LimitOutcome {
        /// It was refused.
        Rejected = "rejected",
        /// It was served later.
        Delayed = "delayed",
        /// It was served, though it would have been refused or delayed without `dry_run`.
        DryRun = "dry_run",
    }
);

label_enum!(
    /// Why a connection was closed before its first request.
    RefusedConnection {
        /// The process had `max_connections` open.
        Process = "max_connections",
        /// The listener had.
        Listener = "listener_max_connections",
        /// It came from nobody whose PROXY header is taken.
        Untrusted = "untrusted_proxy",
        /// It did not begin with a valid PROXY header.
        BadHeader = "bad_proxy_header",
        /// The PROXY header did not come in time.
        LateHeader = "late_proxy_header",
    }
);

/// The label keys of a label set, for the catalogue.
pub trait LabelKeys {
    /// The keys, in the order in which they are written.
    const KEYS: &'static [&'static str];
}

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident $key:literal: $type:ty,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
        pub struct $name { $($(#[$field_doc])* pub $field: $type,)+ }

        impl LabelKeys for $name {
            const KEYS: &'static [&'static str] = &[$($key,)+];
        }
    )+};
}

labels! {
    /// `{tenant}`
    TenantLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
    }
    /// `{tenant,status}`
    TenantStatusLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
        /// How the connection takes part.
        status "status": ConnectionStatus,
    }
    /// `{tenant,event}`
    TenantEventLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
        /// The event.
        event "event": EventLabel,
    }
    /// `{tenant,type,code}`
    ErrorLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
        /// What failed.
        r#type "type": &'static str,
        /// The stable code.
        code "code": &'static str,
    }
    /// `{tenant,reason}`: the text of a `CloseReason`.
    DisconnectLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
        /// Why.
        reason "reason": &'static str,
    }
    /// `{tenant,reason}`
    DropLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
        /// Why.
        reason "reason": DropReason,
    }
    /// `{reason}`
    AuthFailureLabels {
        /// Why.
        reason "reason": AuthFailure,
    }
    /// `{result}`
    KeyFetchLabels {
        /// What came of it.
        result "result": KeyFetch,
    }
    /// `{reason}` of a connection turned away.
    TurnedAwayLabels {
        /// Why.
        reason "reason": TurnedAway,
    }
    /// `{tenant,type}`
    RateLimitLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
        /// Which limit.
        r#type "type": RateLimit,
    }
    /// `{operation}` of Redis.
    RedisLabels {
        /// The command.
        operation "operation": &'static str,
    }
    /// `{kind}` of Redis.
    RedisErrorLabels {
        /// What became of the call.
        kind "kind": RedisTrouble,
    }
    /// `{kind}` of what was not taken.
    ForeignLabels {
        /// Why.
        kind "kind": ForeignKind,
    }
    /// `{operation}` of the history store.
    StoreLabels {
        /// What was asked.
        operation "operation": StoreOperation,
    }
    /// `{outcome}`
    InteropLabels {
        /// What became of it.
        outcome "outcome": Interop,
    }
    /// `{tenant,outcome}`
    RecoveryLabels {
        /// The tenant.
        tenant "tenant": TenantLabel,
        /// How it ended.
        outcome "outcome": Recovery,
    }
    /// `{route,status_class}`
    RequestLabels {
        /// The route.
        route "route": Name,
        /// The class of the status.
        status_class "status_class": StatusClass,
    }
    /// `{route,upstream,status_class}`
    LatencyLabels {
        /// The route.
        route "route": Name,
        /// The upstream of the route.
        upstream "upstream": Name,
        /// The class of the status.
        status_class "status_class": StatusClass,
    }
    /// `{route}`
    RouteLabels {
        /// The route.
        route "route": Name,
    }
    /// `{route,direction}`
    RouteDirectionLabels {
        /// The route.
        route "route": Name,
        /// Which way.
        direction "direction": Direction,
    }
    /// `{route,peer}`
    RoutePeerLabels {
        /// The route.
        route "route": Name,
        /// Which end.
        peer "peer": StreamPeer,
    }
    /// `{route,code,by}`
    CloseCodeLabels {
        /// The route.
        route "route": Name,
        /// The close code, or a group of them.
        code "code": &'static str,
        /// Who closed.
        by "by": CloseBy,
    }
    /// `{route,limit}`
    StreamLimitLabels {
        /// The route.
        route "route": Name,
        /// Which limit.
        limit "limit": StreamLimit,
    }
    /// `{route,kind}` of a stream.
    StreamKindLabels {
        /// The route.
        route "route": Name,
        /// Which kind.
        kind "kind": StreamKind,
    }
    /// `{upstream}`
    UpstreamLabels {
        /// The upstream.
        upstream "upstream": Name,
    }
    /// `{upstream,server,outcome}`
    UpstreamRequestLabels {
        /// The upstream.
        upstream "upstream": Name,
        /// The server's address.
        server "server": Name,
        /// How it ended.
        outcome "outcome": Outcome,
    }
    /// `{upstream,server}`
    ServerLabels {
        /// The upstream.
        upstream "upstream": Name,
        /// The server's address.
        server "server": Name,
    }
    /// `{upstream,server,change}`
    StateChangeLabels {
        /// The upstream.
        upstream "upstream": Name,
        /// The server's address.
        server "server": Name,
        /// What changed.
        change "change": StateChange,
    }
    /// `{upstream,server,kind}`
    ConnectErrorLabels {
        /// The upstream.
        upstream "upstream": Name,
        /// The server's address.
        server "server": Name,
        /// Why.
        kind "kind": ConnectError,
    }
    /// `{listener,result}`
    HandshakeLabels {
        /// The listener.
        listener "listener": Name,
        /// How it ended.
        result "result": Handshake,
    }
    /// `{listener,certificate}`
    CertificateLabels {
        /// The listener.
        listener "listener": Name,
        /// The certificate's file.
        certificate "certificate": Name,
    }
    /// `{reason}` of a refused request; a stable text such as `duplicate_content_length`.
    BadRequestLabels {
        /// Why.
        reason "reason": &'static str,
    }
    /// `{outcome}` of a span.
    SpanLabels {
        /// What became of it.
        outcome "outcome": SpanOutcome,
    }
    /// `{route,zone,outcome}`
    LimitedLabels {
        /// The route.
        route "route": Name,
        /// The zone.
        zone "zone": Name,
        /// What became of the request.
        outcome "outcome": LimitOutcome,
    }
    /// `{webhook,result}`
    WebhookCallLabels {
        /// The webhook.
        webhook "webhook": Name,
        /// What became of the call.
        result "result": WebhookResult,
    }
    /// `{webhook}`
    WebhookLabels {
        /// The webhook.
        webhook "webhook": Name,
    }
    /// `{webhook,reason}`
    WebhookDropLabels {
        /// The webhook.
        webhook "webhook": Name,
        /// Why.
        reason "reason": WebhookDrop,
    }
    /// `{zone}`
    ZoneLabels {
        /// The zone.
        zone "zone": Name,
    }
    /// `{listener,reason}`
    RefusedConnectionLabels {
        /// The listener.
        listener "listener": Name,
        /// Why.
        reason "reason": RefusedConnection,
    }
    /// `{reason}` of a member that is left out.
    LeftOutLabels {
        /// Why.
        reason "reason": LeftOut,
    }
    /// `{outcome}` of a request whose session another node has.
    ForwardedLabels {
        /// What became of it.
        outcome "outcome": Forwarded,
    }
    /// `{version}`
    BuildLabels {
        /// The version.
        version "version": &'static str,
    }
}

/// What each label means and holds, for the documentation.
pub(crate) fn label_notes() -> Vec<(&'static str, String)> {
    fn values(all: impl Iterator<Item = &'static str>) -> String {
        all.map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ")
    }
    macro_rules! of {
        ($type:ty) => {
            values(<$type>::ALL.iter().map(|value| value.as_str()))
        };
    }
    vec![
        ("by", format!("Who closed first: {}.", of!(CloseBy))),
        ("code", "Of an error: the stable code, as in `system:error`. Of a close: the WebSocket close code; 1005 is none, 1006 an end without a close frame, `3xxx` and `4xxx` those of applications.".to_owned()),
        ("certificate", "The certificate's file in the config.".to_owned()),
        ("direction", of!(Direction)),
        ("change", format!("{}.", of!(StateChange))),
        ("event", format!("{}.", of!(EventLabel))),
        ("kind", format!("Of a failed connection: {}. Of a stream: {}.", of!(ConnectError), of!(StreamKind))),
        ("limit", format!("{}.", of!(StreamLimit))),
        ("listener", "The listener's name in the config.".to_owned()),
        ("operation", format!("The Redis command, or for the history store {}.", of!(StoreOperation))),
        (
            "outcome",
            format!(
                "Of a request to an upstream: {}. Of a recovery: {}. Of a limit: {}. Of a span: {}. Of a request for another node: {}.",
                of!(Outcome),
                of!(Recovery),
                of!(LimitOutcome),
                of!(SpanOutcome),
                of!(Forwarded)
            ),
        ),
        ("peer", format!("Which end: {}.", of!(StreamPeer))),
        (
            "reason",
            format!(
                "Of a refused credential: {}. Of a dropped message: {}. Of a disconnection: the close reason as in the logs. \
                 Of a bad request: which rule it broke. Of a refused connection: {}. Of an event for a webhook: {}. Of a member left out: {}.",
                of!(AuthFailure),
                of!(DropReason),
                of!(RefusedConnection),
                of!(WebhookDrop),
                of!(LeftOut)
            ),
        ),
        (
            "result",
            format!(
                "Of a handshake: {}. Of a fetch of keys: {}. Of a webhook's call: {}.",
                of!(Handshake),
                of!(KeyFetch),
                of!(WebhookResult)
            ),
        ),
        ("route", "The route's name in the config, or `realtime`.".to_owned()),
        ("server", "The server's address in the config; `all` for the breaker of the upstream.".to_owned()),
        ("status", of!(ConnectionStatus)),
        ("status_class", of!(StatusClass)),
        ("tenant", format!("The token's tenant; after {} distinct ones, `other`.", crate::MAX_TENANTS)),
        ("type", format!("Of a rate limit: {}. Of an error: what failed.", of!(RateLimit))),
        ("upstream", "The upstream's name in the config; `none` for a route without one.".to_owned()),
        ("version", "The version of Tidegate.".to_owned()),
        ("webhook", "The webhook's name in the config.".to_owned()),
        ("zone", "The zone's name in the config.".to_owned()),
    ]
}
