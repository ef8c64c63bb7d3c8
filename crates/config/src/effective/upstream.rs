use super::{File, name};
use crate::{Balance, Health, Probe, Retry, Sticky, Upstream, UpstreamServer, UpstreamTls};

impl File {
    pub(super) fn upstream(&mut self, upstream: &Upstream) {
        let name = name(&upstream.name);
        self.section(format!("[upstream.{name}]"));
        if let Some(discover) = upstream.discover {
            self.text("discover", discover.as_str());
        }
        self.balance(&upstream.balance);
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
        self.time("dns_refresh", upstream.dns_refresh);
        self.text("protocol", upstream.protocol.as_str());
        self.text("proxy_protocol", upstream.proxy_protocol.as_str());
        self.key("close_rate", upstream.close_rate);
        self.key("rebalance_rate", upstream.rebalance_rate);
        if let Some(sticky) = &upstream.sticky {
            self.section(format!("[upstream.{name}.sticky]"));
            self.sticky(sticky);
        }
        if let Some(tls) = &upstream.tls {
            self.section(format!("[upstream.{name}.tls]"));
            self.upstream_tls(tls);
        }
        if let Some(health) = &upstream.health {
            self.section(format!("[upstream.{name}.health]"));
            self.health(health);
        }
        if let Some(outlier) = &upstream.outlier {
            self.section(format!("[upstream.{name}.outlier]"));
            self.time("interval", outlier.interval);
            self.key("min_requests", outlier.min_requests);
            self.key("error_rate", outlier.error_rate);
            self.key("latency_factor", outlier.latency_factor);
            self.time("ejection_time", outlier.ejection_time);
            self.key("max_ejected", outlier.max_ejected);
        }
        if let Some(breaker) = &upstream.breaker {
            self.section(format!("[upstream.{name}.breaker]"));
            self.key("error_rate", breaker.error_rate);
            self.key("min_requests", breaker.min_requests);
            self.time("interval", breaker.interval);
            self.time("open_for", breaker.open_for);
            self.key("half_open_requests", breaker.half_open_requests);
            self.key("max_requests", breaker.max_requests);
        }
        self.section(format!("[upstream.{name}.retry]"));
        self.retry(&upstream.retry);
        for server in &upstream.servers {
            self.section(format!("[[upstream.{name}.server]]"));
            self.server(server);
        }
    }

    fn balance(&mut self, balance: &Balance) {
        self.text("balance", crate::summary::word(balance));
        if let Balance::Hash { key, consistent, load_factor } = balance {
            self.text("hash_key", key);
            self.key("consistent", consistent);
            self.key("load_factor", load_factor);
        }
    }

    fn server(&mut self, server: &UpstreamServer) {
        self.text("address", &server.address);
        self.key("weight", server.weight);
        self.key("max_conns", server.max_conns);
        self.key("backup", server.backup);
        self.key("down", server.down);
        self.key("drain", server.drain);
        self.time("slow_start", server.slow_start);
        self.key("max_fails", server.max_fails);
        self.time("fail_timeout", server.fail_timeout);
    }

    fn sticky(&mut self, sticky: &Sticky) {
        match sticky {
            Sticky::Cookie(cookie) => {
                self.text("cookie", &cookie.name);
                self.optional("secret", cookie.secret.as_ref());
                self.time("ttl", cookie.ttl);
                self.text("path", &cookie.path);
                self.optional("domain", cookie.domain.as_ref());
                self.key("secure", cookie.secure);
                self.text("same_site", cookie.same_site.as_str());
            }
            Sticky::Header(name) => self.text("header", name),
            Sticky::Query(name) => self.text("query", name),
        }
    }

    fn upstream_tls(&mut self, tls: &UpstreamTls) {
        self.optional("server_name", tls.server_name.as_ref());
        self.key("verify", tls.verify);
        self.optional("ca", tls.ca.as_ref().map(|path| path.display()));
        self.optional("certificate", tls.certificate.as_ref().map(|pair| pair.certificate.display()));
        self.optional("key", tls.certificate.as_ref().map(|pair| pair.key.display()));
    }

    fn health(&mut self, health: &Health) {
        let (word, target, host) = match &health.probe {
            Probe::Http { path, host, .. } => ("http", Some(path), host.as_ref()),
            Probe::Tcp => ("tcp", None, None),
            Probe::WebSocket { path, host } => ("websocket", Some(path), host.as_ref()),
        };
        self.text("type", word);
        if let Some(target) = target {
            self.text("path", target);
            self.optional("host", host);
        }
        if let Probe::Http { status, .. } = &health.probe {
            self.text("status", status);
        }
        self.key("port", health.port.unwrap_or(0));
        self.time("interval", health.interval);
        self.key("jitter", health.jitter);
        self.time("timeout", health.timeout);
        self.key("rise", health.rise);
        self.key("fall", health.fall);
        self.text("initially", health.initially.as_str());
    }

    fn retry(&mut self, retry: &Retry) {
        self.texts("on", &retry.on.iter().map(|on| on.as_str()).collect::<Vec<_>>());
        self.key("tries", retry.tries);
        self.time("timeout", retry.timeout);
        self.key("budget", retry.budget);
        self.key("non_idempotent", retry.non_idempotent);
    }
}
