use super::File;
use crate::{AccessFormat, AccessLog, Config};

impl File {
    pub(super) fn operation(&mut self, config: &Config) {
        self.section("[log]");
        self.text("level", config.log.level.as_str());
        self.text("format", config.log.format.as_str());
        self.text("access", access(&config.log.access));
        self.text("access_format", look(&config.log.access_format));
        self.key("queue_lines", config.log.queue_lines);
        if let Some(trace) = &config.trace {
            self.section("[trace]");
            self.text("endpoint", &trace.endpoint);
            self.text("sample", format!("{}.{:04}", trace.sample / 10_000, trace.sample % 10_000));
            self.text("service_name", &trace.service_name);
        }
        self.section("[reload]");
        self.key("watch", config.reload.watch);
        self.section("[drain]");
        self.time("timeout", config.drain.timeout);
        self.time("reconnect_in", config.drain.reconnect_in);
        self.time("delay", config.drain.delay);
        self.key("rate", config.drain.rate);
        self.key("jitter", config.drain.jitter);
    }
}

/// Where an access log goes, as a word or a path.
pub(super) fn access(log: &AccessLog) -> std::borrow::Cow<'_, str> {
    match log {
        AccessLog::Off => "off".into(),
        AccessLog::Stdout => "stdout".into(),
        AccessLog::Stderr => "stderr".into(),
        AccessLog::File(path) => path.to_string_lossy(),
    }
}

/// How its lines look, as a word or a template.
pub(super) fn look(format: &AccessFormat) -> &str {
    match format {
        AccessFormat::Json => "json",
        AccessFormat::Combined => "combined",
        AccessFormat::Template(template) => template,
    }
}
