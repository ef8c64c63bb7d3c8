use tidegate_auth::Scope;

use super::File;
use crate::{Fsync, Realtime, Store, StoreKind, Tokens};

impl File {
    pub(super) fn realtime(&mut self, realtime: &Realtime) {
        self.section("[realtime]");
        self.texts("listeners", &realtime.listeners);
        self.text("path", &realtime.path);
        self.text("api_path", &realtime.api_path);
        self.text("broker", realtime.broker.as_str());
        self.time("ping_interval", realtime.ping_interval);
        self.time("ping_timeout", realtime.ping_timeout);
        self.time("connect_timeout", realtime.connect_timeout);
        self.time("upgrade_timeout", realtime.upgrade_timeout);
        self.key("max_payload", realtime.max_payload);
        self.key("max_connections", realtime.max_connections);
        self.key("connections_per_ip", realtime.connections_per_ip);
        self.key("connects_per_second", realtime.connects_per_second);
        self.key("connect_burst", realtime.connect_burst);
        self.key("connections_per_user", realtime.connections_per_user);
        self.key("connections_per_tenant", realtime.connections_per_tenant);
        self.time("recovery_window", realtime.recovery_window);
        self.key("recovery_bytes", realtime.recovery_bytes);
        self.time("away_after", realtime.away_after);
        self.time("idempotency_window", realtime.idempotency_window);
        self.key("outbox_bytes", realtime.outbox_bytes);
        self.key("compression", realtime.compression);
        self.key("compression_threshold", realtime.compression_threshold);
        self.key("rooms_per_connection", realtime.rooms_per_connection);
        self.key("rooms_per_user", realtime.rooms_per_user);
        self.texts("cors_origins", &realtime.cors_origins);
        self.time("sse_heartbeat", realtime.sse_heartbeat);
        self.key("messages_per_second", realtime.messages_per_second);
        self.key("message_burst", realtime.message_burst);
        self.key("events_per_minute", realtime.events_per_minute);
        self.key("tenant_messages_per_second", realtime.tenant_messages_per_second);
        self.key("tenant_message_burst", realtime.tenant_message_burst);
        self.section("[realtime.auth]");
        self.tokens(&realtime.auth.tokens, "jwt_secret");
        self.optional("cookie", realtime.auth.cookie.as_deref());
        self.time("expiry_notice", realtime.auth.expiry_notice);
        for key in &realtime.auth.api_keys {
            self.section("[[realtime.auth.api_keys]]");
            self.text("id", key.id());
            self.text("secret", "***");
            if let Some(tenant) = key.tenant() {
                self.text("tenant", tenant);
            }
            let scopes: Vec<&str> = key.scopes().iter().map(Scope::as_str).collect();
            self.texts("scopes", &scopes);
            if let Some(rooms) = key.rooms() {
                self.texts("rooms", rooms);
            }
            if let Some(namespaces) = key.namespaces() {
                self.texts("namespaces", namespaces);
            }
            if let Some(rate) = key.rate() {
                self.key("requests_per_second", rate.per_second);
                self.key("request_burst", rate.burst);
            }
        }
        if let Some(interop) = &realtime.interop {
            self.interop(interop);
        }
        realtime.webhooks.iter().for_each(|webhook| self.webhook(webhook));
    }

    /// What [jwt] and [realtime.auth] have in common.
    pub(super) fn tokens(&mut self, tokens: &Tokens, secret: &str) {
        if let Some(text) = &tokens.secret {
            self.text(secret, text);
        }
        self.texts("algorithms", &tokens.algorithms);
        let files: Vec<_> = tokens.public_keys.iter().map(|file| file.path.display()).collect();
        self.texts("public_keys", &files);
        self.optional("jwks_url", tokens.jwks_url.as_deref());
        self.optional("jwks_file", tokens.jwks_file.as_deref().map(std::path::Path::display));
        self.time("jwks_refresh", tokens.jwks_refresh);
        self.texts("audience", &tokens.audience);
        self.texts("issuer", &tokens.issuer);
        self.time("leeway", tokens.leeway);
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
        self.key("max_bytes_per_room", store.max_bytes_per_room);
        self.key("queue_bytes", store.queue_bytes);
    }
}
