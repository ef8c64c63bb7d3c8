use super::File;
use crate::{Fsync, Realtime, Store, StoreKind};

impl File {
    pub(super) fn realtime(&mut self, realtime: &Realtime) {
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

    pub(super) fn store(&mut self, store: &Store) {
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
