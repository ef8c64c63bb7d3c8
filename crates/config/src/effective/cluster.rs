use super::File;
use crate::{Cluster, Redis, RedisTls};

impl File {
    pub(super) fn cluster(&mut self, cluster: &Cluster) {
        self.section("[cluster]");
        self.redis(&cluster.redis);
        self.text("secret", "***");
        self.optional("name", cluster.name.as_ref());
        self.optional("zone", cluster.zone.as_ref());
        self.text("internal_listen", cluster.internal_listen);
        let advertised = cluster.internal_address.map(|address| match address.port {
            Some(port) => std::net::SocketAddr::new(address.ip, port).to_string(),
            None => address.ip.to_string(),
        });
        self.optional("internal_address", advertised);
        self.time("heartbeat", cluster.heartbeat);
        self.time("node_timeout", cluster.node_timeout);
        if let Some(tls) = &cluster.redis.tls {
            self.section("[cluster.redis_tls]");
            self.redis_tls(tls);
        }
        if let Some(tls) = &cluster.internal_tls {
            self.section("[cluster.internal_tls]");
            self.text("ca", tls.ca.display());
            self.text("certificate", tls.certificate.certificate.display());
            self.text("key", tls.certificate.key.display());
            self.text("server_name", &tls.server_name);
        }
    }

    pub(super) fn redis_tls(&mut self, tls: &RedisTls) {
        self.optional("server_name", tls.server_name.as_ref());
        self.optional("ca", tls.ca.as_ref().map(|path| path.display()));
        self.optional("certificate", tls.certificate.as_ref().map(|pair| pair.certificate.display()));
        self.optional("key", tls.certificate.as_ref().map(|pair| pair.key.display()));
    }

    fn redis(&mut self, redis: &Redis) {
        let scheme = if redis.tls.is_some() { "rediss" } else { "redis" };
        let urls = redis.servers.iter().map(|server| {
            let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.to_string() };
            format!("{scheme}://{host}:{}/{}", server.port, redis.database)
        });
        self.texts("redis", &urls.collect::<Vec<_>>());
        self.text("mode", redis.mode.as_str());
        self.text("service", &redis.service);
        self.optional("user", redis.user.as_ref());
        self.optional("password", redis.password.as_ref());
        self.optional("sentinel_user", redis.sentinel_user.as_ref());
        self.optional("sentinel_password", redis.sentinel_password.as_ref());
        self.text("prefix", &redis.prefix);
    }
}
