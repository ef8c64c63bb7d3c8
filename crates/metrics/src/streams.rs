use std::sync::Arc;

use tidegate_types::CloseReason;

use crate::handles::{at, each};
use crate::labels::*;
use crate::{ByteBuckets, Counter, Family, Histogram, Metrics, SecondsBuckets};

/// The counters of what happens inside the WebSockets of one route. Made when the first one opens: most routes have none.
#[derive(Debug)]
pub struct WebSocketMetrics {
    route: Name,
    messages: [Counter; Direction::COUNT],
    message_bytes: [Histogram<ByteBuckets>; Direction::COUNT],
    ping_rtt: [Histogram<SecondsBuckets>; StreamPeer::COUNT],
    close_codes: Family<CloseCodeLabels, Counter>,
    limited: Family<StreamLimitLabels, Counter>,
}

impl WebSocketMetrics {
    pub(crate) fn new(families: &WebSocketFamilies, route: Name) -> Arc<Self> {
        let of = |direction| RouteDirectionLabels { route: route.clone(), direction };
        Arc::new(Self {
            messages: each(Direction::ALL, |direction| families.messages.get_or_create_owned(&of(direction))),
            message_bytes: each(Direction::ALL, |direction| families.message_bytes.get_or_create_owned(&of(direction))),
            ping_rtt: each(StreamPeer::ALL, |peer| {
                families.ping_rtt.get_or_create_owned(&RoutePeerLabels { route: route.clone(), peer })
            }),
            close_codes: families.close_codes.clone(),
            limited: families.limited.clone(),
            route,
        })
    }

    /// Messages that went that way.
    pub fn messages(&self, direction: Direction) -> &Counter {
        at(&self.messages, direction as usize)
    }

    /// Bytes of the messages that went that way, as sent: compressed ones if they are compressed.
    pub fn message_bytes(&self, direction: Direction) -> &Histogram<ByteBuckets> {
        at(&self.message_bytes, direction as usize)
    }

    /// Seconds from the gateway's ping to that peer's pong.
    pub fn ping_rtt(&self, peer: StreamPeer) -> &Histogram<SecondsBuckets> {
        at(&self.ping_rtt, peer as usize)
    }

    /// Counts a WebSocket that ended. Looks the series up: once per connection.
    pub fn closed(&self, code: u16, by: CloseBy) {
        let labels = CloseCodeLabels { route: self.route.clone(), code: close_code_label(code), by };
        self.close_codes.get_or_create(&labels).inc();
    }

    /// Counts a WebSocket that was closed because of a limit. Looks the series up: once per connection.
    pub fn limited(&self, limit: StreamLimit) {
        self.limited.get_or_create(&StreamLimitLabels { route: self.route.clone(), limit }).inc();
    }
}

/// Where [`WebSocketMetrics`] come from.
#[derive(Clone, Debug)]
pub(crate) struct WebSocketFamilies {
    messages: Family<RouteDirectionLabels, Counter>,
    message_bytes: Family<RouteDirectionLabels, Histogram<ByteBuckets>>,
    ping_rtt: Family<RoutePeerLabels, Histogram<SecondsBuckets>>,
    close_codes: Family<CloseCodeLabels, Counter>,
    limited: Family<StreamLimitLabels, Counter>,
}

impl WebSocketFamilies {
    pub(crate) fn of(metrics: &Metrics) -> Self {
        Self {
            messages: metrics.websocket_messages.clone(),
            message_bytes: metrics.websocket_message_bytes.clone(),
            ping_rtt: metrics.websocket_ping_rtt_seconds.clone(),
            close_codes: metrics.websocket_close_codes.clone(),
            limited: metrics.websocket_limited.clone(),
        }
    }
}

/// The label of a close code. Applications choose theirs, so those have one label together, as have the registered ones.
fn close_code_label(code: u16) -> &'static str {
    match code {
        1000 => "1000",
        1001 => "1001",
        1002 => "1002",
        1003 => "1003",
        1005 => "1005",
        1006 => "1006",
        1007 => "1007",
        1008 => "1008",
        1009 => "1009",
        1010 => "1010",
        1011 => "1011",
        1012 => "1012",
        1013 => "1013",
        1014 => "1014",
        3000..=3999 => "3xxx",
        4000..=4999 => "4xxx",
        _ => "other",
    }
}

impl StreamLimit {
    /// What the connection's end is called in logs.
    pub fn reason(self) -> CloseReason {
        match self {
            Self::MessageSize => CloseReason::MessageTooLarge,
            Self::Messages | Self::Bytes | Self::KeyMessages | Self::KeyBytes => CloseReason::RateLimited,
        }
    }
}
