use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;

use crate::ClientTimeouts;

/// Answers a request from the process itself, or leaves it to the routes. Called on every worker, for every request, so
/// it must be quick and never block.
pub type Local = Arc<dyn Fn(&http::Request<Incoming>) -> Option<http::Response<Bytes>> + Send + Sync>;

/// What the composition root adds to a config.
#[derive(Clone, Default)]
pub struct Extras {
    /// Answers of the process itself, asked before anything else.
    pub local: Option<Local>,
    /// Ends on SIGTERM and SIGINT: the first drains, the second ends the process at once.
    pub signals: bool,
    /// Serves `/health`, `/stats` and `/metrics` on the public listeners too.
    pub admin_everywhere: bool,
    /// How patient to be with clients between exchanges.
    pub timeouts: ClientTimeouts,
    /// How long readiness fails before the listeners close, so that balancers notice.
    pub drain_delay: std::time::Duration,
}
