use super::File;
use crate::{Admin, Client, Listener, ListenerTls};

impl File {
    pub(super) fn client(&mut self, client: &Client) {
        self.section("[client]");
        self.time("header_timeout", client.header_timeout);
        self.time("keepalive_timeout", client.keepalive_timeout);
        self.key("keepalive_requests", client.keepalive_requests);
        self.time("send_timeout", client.send_timeout);
        self.key("body_min_rate", client.body_min_rate);
        self.key("max_header_bytes", client.max_header_bytes);
        self.key("max_headers", client.max_headers);
    }

    pub(super) fn listener(&mut self, listener: &Listener) {
        self.section("[[listener]]");
        self.text("name", &listener.name);
        self.text("address", listener.address);
        self.key("max_connections", listener.max_connections);
        self.key("http2", listener.http2);
        self.key("redirect_https", listener.redirect_https.is_some());
        self.key("redirect_https_port", listener.redirect_https.unwrap_or(443));
        self.texts("trusted_proxies", &listener.trusted_proxies);
        self.text("real_ip", listener.real_ip.as_str());
        self.key("proxy_protocol", listener.proxy_protocol);
        // A listener only names its zones.
        self.texts("limits", &listener.limits.iter().map(|limit| &limit.zone).collect::<Vec<_>>());
        if let Some(tls) = &listener.tls {
            self.listener_tls(tls);
        }
    }

    fn listener_tls(&mut self, tls: &ListenerTls) {
        self.section("[listener.tls]");
        self.text("min_version", tls.min_version.as_str());
        self.optional("client_ca", tls.client_ca.as_ref().map(|path| path.display()));
        self.text("client_auth", tls.client_auth.as_str());
        self.time("handshake_timeout", tls.handshake_timeout);
        self.key("handshakes_per_second", tls.handshakes_per_second);
        self.key("handshake_burst", tls.handshake_burst);
        self.key("session_tickets", tls.session_tickets);
        self.time("reload_interval", tls.reload_interval);
        for pair in &tls.certificates {
            self.section("[[listener.tls.certificates]]");
            self.text("certificate", pair.certificate.display());
            self.text("key", pair.key.display());
        }
    }

    pub(super) fn admin(&mut self, admin: Option<&Admin>) {
        self.section("[admin]");
        self.key("enabled", admin.is_some());
        if let Some(admin) = admin {
            self.text("address", admin.address);
            self.optional("token", admin.token.as_ref());
        }
    }
}
