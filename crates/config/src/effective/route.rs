use super::File;
use super::operation::{access, look};
use crate::{
    Action, Cors, HeaderChanges, PathChange, Patience, Route, SecurityHeaders, WebSocketPolicy, Zone, ZoneKind, ZoneUse,
};

impl File {
    pub(super) fn route(&mut self, route: &Route, zones: &[Zone]) {
        self.section("[[route]]");
        self.text("name", &route.name);
        self.texts("listeners", &route.listeners);
        self.texts("hosts", &route.hosts);
        self.text("path", &route.path);
        self.texts("methods", &route.methods);
        self.texts("headers", &route.headers);
        // Keys stand before the sections, or they would belong to those.
        match &route.action {
            Action::Upstream { name, path, patience } => {
                self.text("upstream", name);
                self.path_change(path);
                self.patience(patience);
            }
            Action::Redirect { to, status } => {
                self.text("redirect", to);
                self.key("redirect_status", status);
            }
            Action::StubStatus => self.key("stub_status", true),
            Action::Respond { .. } => {}
        }
        self.key("max_body", route.max_body);
        if let Some(limits) = &route.limits
            && limits.is_empty()
        {
            self.texts::<&str>("limits", &[]);
        }
        self.texts("access", &route.access);
        self.text("jwt", route.jwt.as_str());
        self.key("security_headers", route.security.is_some());
        self.optional("log", route.log.as_ref().map(access));
        self.optional("log_format", route.log_format.as_ref().map(look));
        if let Action::Respond { status, body, content_type } = &route.action {
            self.section("[route.respond]");
            self.key("status", status);
            self.text("body", body);
            self.text("content_type", content_type);
        }
        for limit in route.limits.iter().flatten() {
            self.zone_use(limit, zones);
        }
        if let Some(security) = &route.security {
            self.security(security);
        }
        if let Some(cors) = &route.cors {
            self.cors(cors);
        }
        self.header_changes("request_headers", &route.request_headers);
        self.header_changes("response_headers", &route.response_headers);
        self.websocket(&route.websocket);
        self.section("[route.sse]");
        self.time("heartbeat", route.sse.heartbeat);
        self.time("max_life", route.sse.max_life);
        self.time("retry", route.sse.retry);
    }

    fn path_change(&mut self, change: &PathChange) {
        match change {
            PathChange::Keep => {}
            PathChange::Strip => self.key("strip_prefix", true),
            PathChange::Replace(with) => self.text("replace_prefix", with),
        }
    }

    fn patience(&mut self, patience: &Patience) {
        let times = [
            ("read_timeout", patience.read_timeout),
            ("send_timeout", patience.send_timeout),
            ("stream_timeout", patience.stream_timeout),
            ("tunnel_idle_timeout", patience.tunnel_idle_timeout),
            ("handshake_timeout", patience.handshake_timeout),
        ];
        for (key, time) in times {
            if let Some(time) = time {
                self.time(key, time);
            }
        }
    }

    fn zone_use(&mut self, limit: &ZoneUse, zones: &[Zone]) {
        self.section("[[route.limit]]");
        self.text("zone", &limit.zone);
        let zone = zones.iter().find(|zone| zone.name == limit.zone);
        if zone.is_some_and(|zone| matches!(zone.kind, ZoneKind::Rate(_))) {
            self.key("burst", limit.burst);
            self.key("nodelay", limit.nodelay);
            self.key("delay", limit.delay);
        }
        self.key("dry_run", limit.dry_run);
        self.key("status", limit.status);
    }

    fn security(&mut self, security: &SecurityHeaders) {
        self.section("[route.security]");
        self.optional("hsts", security.hsts.as_ref());
        self.optional("csp", security.csp.as_ref());
        self.optional("frame", security.frame.as_ref());
        self.key("nosniff", security.nosniff);
        self.optional("referrer", security.referrer.as_ref());
        self.optional("xss", security.xss.as_ref());
    }

    fn cors(&mut self, cors: &Cors) {
        self.section("[route.cors]");
        self.texts("origins", &cors.origins);
        self.texts("methods", &cors.methods);
        self.texts("headers", &cors.headers);
        self.texts("expose", &cors.expose);
        self.key("credentials", cors.credentials);
        self.time("max_age", cors.max_age);
    }

    fn header_changes(&mut self, key: &str, changes: &HeaderChanges) {
        self.section(format!("[route.{key}]"));
        self.texts("set", &changes.set);
        self.texts("add", &changes.add);
        self.texts("remove", &changes.remove);
    }

    fn websocket(&mut self, policy: &WebSocketPolicy) {
        self.section("[route.websocket]");
        self.text("inspect", policy.inspect.as_str());
        self.key("max_message", policy.max_message);
        self.key("messages_per_second", policy.messages_per_second);
        self.key("message_burst", policy.message_burst);
        self.key("bytes_per_second", policy.bytes_per_second);
        self.optional("key", policy.key.as_ref());
        self.time("ping_interval", policy.ping_interval);
        self.time("ping_timeout", policy.ping_timeout);
        if let Some(idle) = policy.idle_timeout {
            self.time("idle_timeout", idle);
        }
    }
}
