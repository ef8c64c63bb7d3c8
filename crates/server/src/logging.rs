use std::io;
use std::panic;

use tidegate_config::{Log, LogFormat};
use tracing_subscriber::EnvFilter;

/// Sends the process's own log (not the access log) to standard error, and panics with it. Called once, early.
/// `RUST_LOG` overrules the level.
pub fn start_logging(log: &Log) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(log.level.as_str()));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    // A second call, as in tests, changes nothing.
    let _ = match log.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).try_init(),
        LogFormat::Text => builder.compact().with_target(false).try_init(),
    };
    panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        let payload = info.payload();
        let message =
            payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(|text| &**text));
        let message = message.unwrap_or("panicked");
        tracing::error!(thread = std::thread::current().name(), "panicked at {place}: {message}");
    }));
}
