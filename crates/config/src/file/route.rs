//! Which requests are treated how.

use crate::reader::{
    AccessLine, BodyTemplate, FieldName, FieldValue, HeaderCondition, Host, KeyTemplate, List, LocationTemplate,
    LogLook, Method, Optional, OriginPattern, PathPattern, RequestField, RequestLine, ResponseField, ResponseLine,
    Size, Span, UrlPath,
};
use crate::{Inspect, JwtMode};

sections! {
    /// What holds for routes that do not have the same key themselves.
    Defaults {
        /// Names of zones; without this key those of the listener.
        limits: List<String> = [],
        /// Rules such as "allow 10.0.0.0/8" and "deny all"; the first that fits counts, nothing is allow.
        access: List<AccessLine> = [],
        /// Whether routes have the preset of security headers.
        security_headers: bool = false,
        /// Values of that preset; switches it on.
        security: Security,
        /// Whether a token is wanted.
        jwt: JwtMode = "off",
        /// As [log] access.
        log: Optional<String> = "",
        /// As [log] access_format.
        log_format: Optional<LogLook> = "",
        /// Changes of requests, as a whole.
        request_headers: RequestHeaders,
        /// Changes of responses, as a whole.
        response_headers: ResponseHeaders,
        /// Cross-origin requests, as a whole.
        cors: Cors,
    }

    /// Requests that are treated alike.
    Route {
        /// Name in logs and metrics; by default host and path.
        name: String,
        /// Only requests of this listener; by default those of all.
        listener: Optional<String>,
        /// Only requests of these listeners.
        listeners: List<String> = [],
        /// Only requests for this host, without a port: exact, "*.example.org" or "example.*". By default those for any host that no route names.
        host: Optional<Host> = "",
        /// Several of them.
        hosts: List<Host> = [],
        /// Paths that begin so; "= /x" this one alone; "^~ /x" a beginning that stops regexes; "~ regex" and "~* regex" (nginx location).
        path: PathPattern = "/",
        /// Only these methods; others get 405 if no other route of the path takes them.
        methods: List<Method> = [],
        /// Only requests with these headers, all of them: "x-beta", "x-version: 2", "x-client: ~ ^ios".
        headers: List<HeaderCondition> = [],
        /// Action: the upstream's name.
        upstream: Optional<String> = "",
        /// Action: where the client is sent, a template.
        redirect: Optional<LocationTemplate> = "",
        /// The redirect's status: 301, 302, 303, 307 or 308.
        redirect_status: u64 = 308,
        /// Action: a fixed response.
        respond: Respond,
        /// Action: nginx's stub_status page.
        stub_status: bool = false,
        /// The matched prefix is removed: "/api/x" becomes "/x".
        strip_prefix: bool = false,
        /// The matched prefix is replaced by this (nginx proxy_pass with a URI).
        replace_prefix: Optional<UrlPath> = "",
        /// In place of the upstream's.
        read_timeout: Span,
        /// In place of the upstream's.
        send_timeout: Span,
        /// In place of the upstream's.
        stream_timeout: Span,
        /// In place of the upstream's.
        tunnel_idle_timeout: Span,
        /// In place of the upstream's.
        handshake_timeout: Span,
        /// The largest request body, else 413; "0" is no limit.
        max_body: Size = "0",
        /// Names of zones; [] for none. Without this key those of [defaults], or else of the listener.
        limits: List<String>,
        /// Zones with values of their own here: [[route.limit]]. Together with limits.
        limit: List<RouteLimit>,
        /// Rules such as "allow 10.0.0.0/8" and "deny all"; the first that fits counts, nothing is allow.
        access: List<AccessLine> = [],
        /// Whether a token is wanted: "optional" (claims are known if there is a good one) or "required" (else 401).
        jwt: JwtMode = "off",
        /// The preset of security headers, for responses that do not have them yet.
        security_headers: bool = false,
        /// Values of that preset; switches it on.
        security: Security,
        /// Cross-origin requests. Switched on by this section.
        cors: Cors,
        /// Changes of the request on its way to the upstream.
        request_headers: RequestHeaders,
        /// Changes of the response, also of the gateway's own (nginx add_header always).
        response_headers: ResponseHeaders,
        /// What happens inside WebSockets.
        websocket: WebSocket,
        /// What happens inside event streams.
        sse: EventStream,
        /// Its own access log: "off", "stdout", "stderr" or a path. By default [log] access.
        log: Optional<String> = "",
        /// Its own format: "json", "combined" or a template. By default [log] access_format.
        log_format: Optional<LogLook> = "",
    }

    /// A fixed response.
    Respond {
        /// The status, from 200 to 599.
        status: u64 = 200,
        /// The body, a template.
        body: BodyTemplate = "",
        /// Its Content-Type.
        content_type: FieldValue = "text/plain; charset=utf-8",
    }

    /// A zone with values of its own for this route; what is left out is the zone's.
    RouteLimit {
        /// The zone's name.
        zone: String,
        /// Requests beyond the rate that are let in.
        burst: u64,
        /// Whether none of those is delayed.
        nodelay: bool,
        /// How many of those are not delayed.
        delay: u64,
        /// Whether is only counted what would be refused or delayed.
        dry_run: bool,
        /// The answer beyond the limit, from 400 to 599.
        status: u64,
    }

    /// Values of the preset of security headers; "" leaves one out.
    Security {
        /// Strict-Transport-Security, only sent over https.
        hsts: FieldValue = "max-age=31536000; includeSubDomains",
        /// Content-Security-Policy.
        csp: FieldValue = "default-src 'self'",
        /// X-Frame-Options.
        frame: FieldValue = "SAMEORIGIN",
        /// X-Content-Type-Options: nosniff.
        nosniff: bool = true,
        /// Referrer-Policy.
        referrer: FieldValue = "strict-origin-when-cross-origin",
        /// X-XSS-Protection, such as "1; mode=block".
        xss: FieldValue = "",
    }

    /// Cross-origin requests; preflights are answered by the gateway.
    Cors {
        /// Whose pages may: "https://app.example.org", "https://*.example.org", or "*" for all.
        origins: List<OriginPattern> = [],
        /// Methods that a page may use.
        methods: List<Method> = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
        /// Request headers that a page may set; none here are those it asks for.
        headers: List<FieldName> = [],
        /// Response headers that a page may read.
        expose: List<FieldName> = [],
        /// Whether cookies may go along; not with "*".
        credentials: bool = false,
        /// How long the answer to a preflight holds.
        max_age: Span = "10m",
    }

    /// Changes of the request on its way to the upstream.
    RequestHeaders {
        /// "Name: template", in place of what was there; with an empty value it is removed (nginx proxy_set_header).
        set: List<RequestLine> = [],
        /// "Name: template", beside what was there.
        add: List<RequestLine> = [],
        /// Names.
        remove: List<RequestField> = [],
    }

    /// Changes of the response.
    ResponseHeaders {
        /// "Name: template", in place of what was there; with an empty value it is removed.
        set: List<ResponseLine> = [],
        /// "Name: template", beside what was there.
        add: List<ResponseLine> = [],
        /// Names.
        remove: List<ResponseField> = [],
    }

    /// What happens inside WebSockets.
    WebSocket {
        /// "meter" counts and limits messages, "strict" also validates them (1002, 1007).
        inspect: Inspect = "off",
        /// The largest message from the client, else 1009; "0" is no limit.
        max_message: Size = "0",
        /// Messages per second from the client, else 1008; 0 is no limit.
        messages_per_second: u64 = 0,
        /// Messages at once; 0 is as many as per second.
        message_burst: u64 = 0,
        /// Bytes per second from the client, else 1008; "0" is no limit.
        bytes_per_second: Size = "0",
        /// A template; the two rates also hold for all connections of one value together.
        key: Optional<KeyTemplate> = "",
        /// How often the gateway pings both ends; 0s is never.
        ping_interval: Span = "0s",
        /// How long the answer may take, then 1011.
        ping_timeout: Span = "20s",
        /// The longest silence; by default tunnel_idle_timeout.
        idle_timeout: Optional<Span> = "",
    }

    /// What happens inside event streams.
    EventStream {
        /// A comment between events when the upstream was silent for so long; 0s is never.
        heartbeat: Span = "30s",
        /// Then the stream is ended between events; 0s is never.
        max_life: Span = "0s",
        /// When clients are told to come back, then and at a drain: after a random time between this and twice this.
        retry: Span = "2s",
    }
}
