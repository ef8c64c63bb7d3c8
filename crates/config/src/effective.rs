//! A config as a file again, with every default written out.

mod cluster;
mod dialect;
mod interop;
mod listener;
mod operation;
mod realtime;
mod route;
mod upstream;
mod webhook;

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::{Config, Zone, ZoneKind};

impl Config {
    /// The whole config as a file with every default written out. What `[defaults]` said stands in the routes. Secrets are
    /// `***`.
    pub fn effective(&self) -> String {
        let mut file = File::default();
        file.key("workers", self.workers);
        file.key("production", self.production);
        file.key("max_connections", self.max_connections);
        file.client(&self.client);
        self.listeners.iter().for_each(|listener| file.listener(listener));
        file.admin(self.admin.as_ref());
        self.upstreams.iter().for_each(|upstream| file.upstream(upstream));
        self.zones.iter().for_each(|zone| file.zone(zone));
        file.section("[admission]");
        file.key("streams_per_second", self.admission.streams_per_second);
        file.key("burst", self.admission.burst);
        file.time("retry_after", self.admission.retry_after);
        if let Some(jwt) = &self.jwt {
            file.section("[jwt]");
            file.tokens(&jwt.tokens, "secret");
            file.text("header", jwt.header.as_deref().unwrap_or_default());
            file.text("cookie", jwt.cookie.as_deref().unwrap_or_default());
            file.text("query", jwt.query.as_deref().unwrap_or_default());
        }
        self.routes.iter().for_each(|route| file.route(route, &self.zones));
        if let Some(realtime) = &self.realtime {
            file.realtime(realtime);
            file.namespaces(realtime);
        }
        self.dialects.iter().for_each(|dialect| file.dialect(dialect.definition()));
        if let Some(cluster) = &self.cluster {
            file.cluster(cluster);
        }
        file.store(&self.store);
        file.operation(self);
        file.0
    }
}

/// The text of a file. Writing into a String cannot fail.
#[derive(Default)]
struct File(String);

impl File {
    fn section(&mut self, header: impl Display) {
        let _ = writeln!(self.0, "\n{header}");
    }

    fn key(&mut self, key: &str, value: impl Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn text(&mut self, key: &str, value: impl Display) {
        self.key(key, quoted(value));
    }

    fn texts<T: Display>(&mut self, key: &str, values: &[T]) {
        let values: Vec<String> = values.iter().map(quoted).collect();
        self.key(key, format!("[{}]", values.join(", ")));
    }

    fn time(&mut self, key: &str, value: Duration) {
        self.key(key, format!("\"{}\"", span(value)));
    }

    /// A text that may be missing; then it is `""`, which is the same.
    fn optional(&mut self, key: &str, value: Option<impl Display>) {
        match value {
            Some(value) => self.text(key, value),
            None => self.text(key, ""),
        }
    }

    fn zone(&mut self, zone: &Zone) {
        self.section(format!("[limit.{}]", name(&zone.name)));
        self.text("key", &zone.key);
        match &zone.kind {
            ZoneKind::Rate(rate) => {
                self.text("rate", rate);
                self.key("burst", zone.burst);
                self.key("nodelay", zone.nodelay);
                self.key("delay", zone.delay);
            }
            ZoneKind::Connections(connections) => self.key("connections", connections),
        }
        self.key("status", zone.status);
        self.key("dry_run", zone.dry_run);
        self.key("max_keys", zone.max_keys);
        if let ZoneKind::Rate(_) = zone.kind {
            self.key("shared", zone.shared);
        }
    }
}

/// The name of a table. A key knows no variables.
fn name(name: &str) -> toml::Value {
    toml::Value::String(name.to_owned())
}

/// A TOML string; `$` is doubled, since it would begin a variable.
fn quoted(value: impl Display) -> String {
    toml::Value::String(value.to_string().replace('$', "$$")).to_string()
}

/// As few digits as it takes: `2m`, `90s`, `1500ms`.
fn span(value: Duration) -> String {
    let millis = value.as_millis();
    let unit = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")]
        .into_iter()
        .find(|(length, _)| millis != 0 && millis.is_multiple_of(*length));
    match unit {
        Some((length, unit)) => format!("{}{unit}", millis / length),
        None => format!("{millis}ms"),
    }
}
