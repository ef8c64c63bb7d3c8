use super::File;
use crate::{Interop, NodeAdapter};

impl File {
    pub(super) fn interop(&mut self, interop: &Interop) {
        let redis = &interop.redis;
        self.section("[realtime.interop]");
        let scheme = if redis.tls.is_some() { "rediss" } else { "redis" };
        let login = match (&redis.user, &redis.password) {
            (None, None) => String::new(),
            (user, password) => {
                let password = if password.is_some() { ":***" } else { "" };
                format!("{}{password}@", user.as_deref().unwrap_or_default())
            }
        };
        for server in &redis.servers {
            let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.to_string() };
            self.text("redis", format!("{scheme}://{login}{host}:{}/{}", server.port, redis.database));
        }
        if let Some(tls) = &redis.tls {
            self.section("[realtime.interop.redis_tls]");
            self.redis_tls(tls);
        }
        for bridge in &interop.bridges {
            match &bridge.adapter {
                NodeAdapter::Redis { key } => {
                    self.section("[realtime.interop.redis_adapter]");
                    self.text("key", key);
                }
                NodeAdapter::Sharded { prefix } => {
                    self.section("[realtime.interop.sharded_adapter]");
                    self.text("prefix", prefix);
                }
                NodeAdapter::Streams { stream, prefix, max_length } => {
                    self.section("[realtime.interop.streams_adapter]");
                    self.text("stream", stream);
                    self.text("prefix", prefix);
                    self.key("max_length", max_length);
                }
            }
            let namespaces: Vec<&str> = bridge.namespaces.iter().map(|name| name.as_str()).collect();
            self.texts("namespaces", &namespaces);
            self.text("tenant", &bridge.tenant);
        }
    }
}
