//! HTTP forwarding, SSE pass-through, WebSocket tunnels, upstream pools: the data path.
//!
//! One [`Forwarder`] per worker thread owns everything that the worker's exchanges need, so that nothing on the way of a
//! request is locked or crosses threads; an [`Upstream`] is shared by the process and holds what servers are up.
//!
//! Invariants:
//! - What is forwarded is parsed and written anew, with one unambiguous framing; what is ambiguous is refused
//!   ([`check_framing`]), never repaired.
//! - No tunnel before a 101 whose `Sec-WebSocket-Accept` was checked.
//! - An idle tunnel owns no buffer.
//! - A body that broke off breaks off at the other side too.
//! - [`Exchange::on_end`] is called exactly once.
//!
//! Start reading at [`Forwarder::forward`].

mod body;
mod carrier;
mod changes;
mod choice;
mod chronicle;
mod circuit;
mod clock;
mod exchange;
mod extensions;
mod flow;
mod forward;
mod framing;
mod guard;
mod h1;
mod h2;
mod headers;
mod inspect;
mod live;
mod meter;
mod parting;
mod policy;
mod pool;
mod probe;
mod rebalance;
mod refuse;
mod resolve;
mod retry;
mod server;
mod settings;
mod sticky;
mod stream;
mod tally;
mod tls;
mod trace;
mod tunnel;
mod upstream;
mod watch;
mod websocket;

pub use body::{Body, BodyError};
pub use changes::{Patience, RequestChanges, UpstreamSeen};
pub use chronicle::{ServerState, StateEvent, Unavailable};
pub use circuit::CircuitSettings;
pub use exchange::{BodyLimits, Exchange, ExchangeKind, ExchangeSummary, OnEnd};
pub use forward::Forwarder;
pub use framing::{Ambiguity, check_framing};
pub use guard::Guarded;
pub use headers::is_event_stream;
pub use live::{Leave, LeavePace, LiveCount, LiveFilter, LiveInbox, LiveStream, LiveStreams};
pub use policy::{EventPolicy, Inspect, WebSocketPolicy, WebSocketSettings, WebSocketTerms};
pub use probe::{ProbeKind, ProbeSettings};
pub use refuse::error_response;
pub use retry::{RetryReasons, RetrySettings};
pub use settings::{ForwarderSettings, ServerSettings, UpstreamSettings};
pub use sticky::{CookieKey, Sticky, StickyCookie};
pub use tidegate_metrics::RouteMetrics;
pub use tls::{BadTls, TlsFiles, UpstreamTls};
pub use trace::{Attempt, SpanContext, Trace, splitmix};
pub use upstream::Upstream;
pub use watch::ServerOrder;
pub use websocket::{Taken, is_wanted as wants_websocket, take_back};
