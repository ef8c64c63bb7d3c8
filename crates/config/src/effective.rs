use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::{AccessLog, Action, Config, Fsync, Realtime, Store, StoreKind, Upstream};

impl Config {
    /// The whole config as a file with every default written out. Secrets are `***`.
    pub fn effective(&self) -> String {
        let mut file = File::default();
        file.key("workers", self.workers);
        for listener in &self.listeners {
            file.section("[[listener]]");
            file.text("name", &listener.name);
            file.text("address", listener.address);
        }
        file.section("[admin]");
        match &self.admin {
            Some(admin) => file.text("address", admin.address),
            None => file.key("enabled", false),
        }
        self.upstreams.iter().for_each(|upstream| file.upstream(upstream));
        for route in &self.routes {
            file.section("[[route]]");
            file.text("name", &route.name);
            if let Some(listener) = route.listeners.first() {
                file.text("listener", listener);
            }
            if let Some(host) = route.hosts.first() {
                file.text("host", host);
            }
            file.text("path", &route.path);
            if let Action::Upstream { name, .. } = &route.action {
                file.text("upstream", name);
            }
        }
        if let Some(realtime) = &self.realtime {
            file.realtime(realtime);
        }
        file.store(&self.store);
        file.section("[log]");
        file.text("level", self.log.level.as_str());
        file.text("format", self.log.format.as_str());
        match &self.log.access {
            AccessLog::Off => file.text("access", "off"),
            AccessLog::Stdout => file.text("access", "stdout"),
            AccessLog::Stderr => file.text("access", "stderr"),
            AccessLog::File(path) => file.text("access", path.display()),
        }
        file.section("[drain]");
        file.time("timeout", self.drain.timeout);
        file.time("reconnect_in", self.drain.reconnect_in);
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

    fn upstream(&mut self, upstream: &Upstream) {
        // A key knows no variables.
        let name = toml::Value::String(upstream.name.to_string());
        self.section(format!("[upstream.{name}]"));
        self.time("connect_timeout", upstream.connect_timeout);
        self.time("handshake_timeout", upstream.handshake_timeout);
        self.time("read_timeout", upstream.read_timeout);
        self.time("send_timeout", upstream.send_timeout);
        self.time("stream_timeout", upstream.stream_timeout);
        self.time("tunnel_idle_timeout", upstream.tunnel_idle_timeout);
        self.key("keepalive", upstream.keepalive);
        self.time("keepalive_timeout", upstream.keepalive_timeout);
        self.key("keepalive_requests", upstream.keepalive_requests);
        self.key("max_fails", upstream.max_fails);
        self.time("fail_timeout", upstream.fail_timeout);
        for server in &upstream.servers {
            self.section(format!("[[upstream.{name}.server]]"));
            self.text("address", &server.address);
            self.key("weight", server.weight);
        }
    }

    fn realtime(&mut self, realtime: &Realtime) {
        self.section("[realtime]");
        self.texts("listeners", &realtime.listeners);
        self.text("path", &realtime.path);
        self.text("api_path", &realtime.api_path);
        self.time("ping_interval", realtime.ping_interval);
        self.time("ping_timeout", realtime.ping_timeout);
        self.time("connect_timeout", realtime.connect_timeout);
        self.time("upgrade_timeout", realtime.upgrade_timeout);
        self.key("max_payload", realtime.max_payload);
        self.key("max_connections", realtime.max_connections);
        self.time("recovery_window", realtime.recovery_window);
        self.key("recovery_bytes", realtime.recovery_bytes);
        self.key("outbox_bytes", realtime.outbox_bytes);
        self.key("rooms_per_connection", realtime.rooms_per_connection);
        self.texts("cors_origins", &realtime.cors_origins);
        self.time("sse_heartbeat", realtime.sse_heartbeat);
        self.key("messages_per_second", realtime.messages_per_second);
        self.key("message_burst", realtime.message_burst);
        self.section("[realtime.auth]");
        self.text("jwt_secret", &realtime.auth.jwt_secret);
        for key in &realtime.auth.api_keys {
            self.section("[[realtime.auth.api_keys]]");
            self.text("id", key.id());
            self.text("secret", "***");
            if let Some(tenant) = key.tenant() {
                self.text("tenant", tenant);
            }
        }
    }

    fn store(&mut self, store: &Store) {
        self.section("[store]");
        match &store.kind {
            StoreKind::Memory => self.text("kind", "memory"),
            StoreKind::Embedded { path, fsync } => {
                self.text("kind", "embedded");
                self.text("path", path.display());
                match fsync {
                    Fsync::Always => self.text("fsync", "always"),
                    Fsync::Interval(interval) => {
                        self.text("fsync", "interval");
                        self.time("fsync_interval", *interval);
                    }
                    Fsync::Never => self.text("fsync", "never"),
                }
            }
        }
        self.time("ttl", store.ttl);
        self.key("max_messages_per_room", store.max_messages_per_room);
        self.key("queue_bytes", store.queue_bytes);
    }
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
