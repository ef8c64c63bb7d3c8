//! What a case switches on beyond the plain gateway, for Tidegate and for nginx alike.

use std::fmt::Write as _;

/// How the peers are set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setup {
    /// A reverse proxy with an access log.
    Plain,
    /// `tidegate dev`, with everything that it switches on.
    Dev,
    /// With a rate zone and a connection zone by client address and security headers. Nothing is refused.
    Limited,
    /// A rate zone that refuses.
    Refusing,
    /// A rate zone with 100,000 keys.
    ManyKeys,
    /// A thousand routes; the one that is asked for is the last.
    ManyRoutes,
    /// Tunnels are looked into.
    Metered,
    /// TLS, and HTTP/2 on it.
    Tls,
    /// Sessions can be recovered: by Tidegate as always, by Node from its memory.
    Recovering,
    /// Sessions can be recovered: by Node from Redis.
    RecoveringByRedis,
    /// Persistent messages are flushed to the disk before they are acknowledged.
    SyncAlways,
    /// Three nodes through one Redis; Node with its pub/sub adapter.
    Cluster,
    /// Three nodes through one Redis; Node with its streams adapter, which can recover sessions.
    ClusterStreams,
}

/// How many routes [`Setup::ManyRoutes`] has.
const ROUTES: usize = 1_000;

/// What stands in for the marks of a peer's config.
pub struct Marks(pub Vec<(&'static str, String)>);

impl Setup {
    /// For `nginx.conf`.
    pub fn nginx(self) -> Marks {
        let (mut http, mut server, mut listen) = (String::new(), String::new(), String::new());
        match self {
            Self::Plain | Self::Dev | Self::Metered | Self::ManyRoutes | Self::SyncAlways => {}
            Self::Recovering | Self::RecoveringByRedis | Self::Cluster | Self::ClusterStreams => {}
            Self::Limited => {
                http.push_str(
                    "limit_req_zone $binary_remote_addr zone=api:10m rate=1000000r/s; \
                     limit_conn_zone $binary_remote_addr zone=perip:10m;",
                );
                server.push_str(
                    "limit_req zone=api burst=1000000 nodelay; limit_conn perip 20000; \
                     add_header X-Frame-Options SAMEORIGIN; add_header X-Content-Type-Options nosniff; \
                     add_header Referrer-Policy strict-origin-when-cross-origin; \
                     add_header Content-Security-Policy \"default-src 'self'\";",
                );
            }
            Self::Refusing => {
                http.push_str("limit_req_zone $binary_remote_addr zone=api:10m rate=1r/m;");
                server.push_str("limit_req zone=api; limit_req_status 429; limit_req_log_level info;");
            }
            Self::ManyKeys => {
                http.push_str("limit_req_zone $http_x_key zone=api:16m rate=1000000r/s;");
                server.push_str("limit_req zone=api burst=1000000 nodelay;");
            }
            Self::Tls => {
                listen.push_str("ssl http2");
                server.push_str(
                    "ssl_certificate @DIR@/cert.pem; ssl_certificate_key @DIR@/key.pem; \
                     ssl_session_cache shared:tls:10m;",
                );
            }
        }
        Marks(vec![("@IN_HTTP@", http), ("@IN_SERVER@", server), ("@LISTEN_OPTIONS@", listen)])
    }

    /// For `tidegate.toml`.
    pub fn tidegate(self) -> Marks {
        let (mut listener, mut route, mut more) = (String::new(), String::new(), String::new());
        let fsync = if self == Self::SyncAlways { "always" } else { "interval" };
        match self {
            Self::Plain | Self::Dev | Self::SyncAlways | Self::Recovering | Self::RecoveringByRedis => {}
            Self::Cluster | Self::ClusterStreams => {}
            Self::Limited => {
                route.push_str("limits = [\"api\", \"perip\"]\nsecurity_headers = true\n");
                more.push_str(
                    "[limit.api]\nkey = \"{client_ip}\"\nrate = \"1000000r/s\"\nburst = 1000000\nnodelay = true\n\
                     [limit.perip]\nkey = \"{client_ip}\"\nconnections = 20000\n",
                );
            }
            Self::Refusing => {
                route.push_str("limits = [\"api\"]\n");
                more.push_str("[limit.api]\nkey = \"{client_ip}\"\nrate = \"1r/m\"\n");
            }
            Self::ManyKeys => {
                route.push_str("limits = [\"api\"]\n");
                more.push_str(
                    "[limit.api]\nkey = \"{header.x-key}\"\nrate = \"1000000r/s\"\nburst = 1000000\nnodelay = true\n",
                );
            }
            Self::ManyRoutes => {
                for number in 1..ROUTES {
                    let _ = writeln!(more, "[[route]]\npath = \"/route/{number}/\"\nupstream = \"backend\"");
                }
            }
            Self::Metered => route.push_str("websocket = { inspect = \"meter\" }\n"),
            Self::Tls => {
                listener.push_str("tls = { certificate = \"@DIR@/cert.pem\", key = \"@DIR@/key.pem\" }\n");
            }
        }
        let fsync = ("@FSYNC@", fsync.to_owned());
        Marks(vec![("@IN_LISTENER@", listener), ("@IN_ROUTE@", route), ("@MORE@", more), fsync])
    }
}

impl Marks {
    /// The text with its marks filled in.
    pub fn fill(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, (mark, value)| text.replace(mark, value))
    }
}
