use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::Incoming;
use tidegate_config::Config;
use tidegate_realtime::app::App;

/// Answers a request from the process itself, or leaves it to the routes. Called on every worker, for every request, so
/// it must be quick and never block.
pub type Local = Arc<dyn Fn(&http::Request<Incoming>) -> Option<http::Response<Bytes>> + Send + Sync>;

/// Where a config comes from, so that it can be read again.
#[derive(Clone)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// Whether a change of the file is taken up without being asked.
    pub watch: bool,
    /// Reads and checks it; the error tells all that is wrong, with places.
    pub read: Arc<dyn Fn() -> Result<Config, String> + Send + Sync>,
}

/// What the composition root adds to a config.
#[derive(Clone, Default)]
pub struct Extras {
    /// Answers of the process itself, asked before anything else.
    pub local: Option<Local>,
    /// Where the config can be read again, on SIGHUP or when its file changes.
    pub source: Option<Source>,
    /// Ends on SIGTERM and SIGINT: the first drains, the second ends the process at once.
    pub signals: bool,
    /// An application in this process: its namespaces and endpoints are served instead of the config's.
    pub app: Option<App>,
    /// Serves `/health`, `/stats` and `/metrics` on the public listeners too.
    pub admin_everywhere: bool,
}
