//! Where Redis is and how it is spoken to. Data only: nothing here opens a connection.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use tidegate_transport::Credentials;

/// How Redis is reached.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Which servers there are.
    pub topology: Topology,
    /// The number of the database; 0 in a cluster. Channels of subscriptions are common to all databases of a server: two
    /// deployments on one server need two prefixes.
    pub database: u32,
    /// Who this is to the servers.
    pub login: Login,
    /// TLS to the servers.
    pub tls: Option<TlsSettings>,
    /// What every key and channel begins with.
    pub prefix: Box<str>,
    /// How long a connection may take until it can be used, name resolution, TLS and login included.
    pub connect_timeout: Duration,
    /// How long an answer may take, and how long a server may be silent when it should answer.
    pub response_timeout: Duration,
    /// How many calls may wait for an answer on one connection; more are refused.
    pub max_in_flight: usize,
    /// How many bytes of calls may wait for an answer on one connection, for a call is kept until it is answered; more are
    /// refused.
    pub max_in_flight_bytes: usize,
    /// The largest answer that is taken, as bytes in memory. A larger one ends the connection.
    pub max_answer_bytes: usize,
}

/// Which servers there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    /// One server. Several addresses are tried in turn: they are names of the same server.
    Standalone(Vec<Address>),
    /// A primary that Sentinels watch.
    Sentinel {
        /// The Sentinels.
        sentinels: Vec<Address>,
        /// What they call the primary.
        service: Box<str>,
        /// Who this is to the Sentinels.
        login: Login,
        /// Whether the Sentinels are spoken to by TLS, on the same terms as the servers.
        tls: bool,
    },
    /// A Redis Cluster, and some nodes that are asked for the others.
    Cluster(Vec<Address>),
}

impl Topology {
    pub(super) fn is_cluster(&self) -> bool {
        match self {
            Self::Cluster(_) => true,
            Self::Standalone(_) | Self::Sentinel { .. } => false,
        }
    }
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name, or an IP address without brackets.
    pub host: Box<str>,
    /// A TCP port.
    pub port: u16,
}

/// A user and a password. Without a user it is Redis' `default`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Login {
    /// The user of the ACL.
    pub user: Option<Box<str>>,
    /// The password.
    pub password: Option<Password>,
}

/// A password: it does not show in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Box<str>);

/// TLS to the servers. The certificates are checked always.
#[derive(Clone, Debug, Default)]
pub struct TlsSettings {
    /// Whom to believe, PEM. The system's roots if it is not set.
    pub ca: Option<Box<[u8]>>,
    /// What is shown if the server asks for it.
    pub certificate: Option<Credentials>,
    /// What the server's certificate must be for; the host of its address if it is not set.
    pub server_name: Option<Box<str>>,
}

/// Why settings cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// Not an address.
    #[error("{0:?} is no address: write host:port, such as redis.internal:6379 or [::1]:6379")]
    Address(String),
    /// Not a URL of Redis.
    #[error("{0} is no URL of Redis: write redis://[user[:password]@]host[:port][/database], or rediss:// for TLS")]
    Url(String),
    /// No server at all.
    #[error("there is no address: name at least one server")]
    NoAddress,
    /// A Sentinel without a service.
    #[error(
        "`service` is missing: what the Sentinels call the primary (`sentinel monitor NAME …`, often \"mymaster\")"
    )]
    NoService,
    /// A cluster has one database.
    #[error("database {0} cannot be used with a Redis Cluster: it has only database 0")]
    Database(u32),
    /// Not a prefix.
    #[error(
        "{0:?} is no prefix: write 1 to 64 of a-z, A-Z, 0-9, '.', '_', '-' and ':' (no braces: they choose the slot)"
    )]
    Prefix(String),
    /// A user who has no password.
    #[error("there is a user without a password: set `password` too")]
    NoPassword,
    /// Nothing can happen in no time.
    #[error("{0} must be longer than 0")]
    Zero(&'static str),
    /// TLS.
    #[error("tls: {0}")]
    Tls(String),
}

impl RedisSettings {
    /// The usual settings for these servers.
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            database: 0,
            login: Login::default(),
            tls: None,
            prefix: "tidegate".into(),
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            max_in_flight: 10_000,
            max_in_flight_bytes: 16 << 20,
            max_answer_bytes: 64 << 20,
        }
    }

    /// One server by its URL: `redis://[user[:password]@]host[:port][/database]`, `rediss://` for TLS.
    ///
    /// # Errors
    /// [`SettingsError::Url`]. The error does not hold the password.
    pub fn from_url(url: &str) -> Result<Self, SettingsError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| bad_url(url))?;
        let tls = match scheme {
            "redis" => None,
            "rediss" => Some(TlsSettings::default()),
            _ => return Err(bad_url(url)),
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Login::from_url(login).ok_or_else(|| bad_url(url))?, rest),
            None => (Login::default(), rest),
        };
        let (address, database) = rest.split_once('/').unwrap_or((rest, ""));
        let address = address.parse().map_err(|_| bad_url(url))?;
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| bad_url(url))? };
        Ok(Self { database, login, tls, ..Self::new(Topology::Standalone(vec![address])) })
    }

    /// Whether they can be used together.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn validate(&self) -> Result<(), SettingsError> {
        let (addresses, other_login) = match &self.topology {
            Topology::Standalone(addresses) => (addresses, None),
            Topology::Sentinel { service, .. } if service.is_empty() => return Err(SettingsError::NoService),
            Topology::Sentinel { sentinels, login, .. } => (sentinels, Some(login)),
            Topology::Cluster(_) if self.database != 0 => return Err(SettingsError::Database(self.database)),
            Topology::Cluster(seeds) => (seeds, None),
        };
        if addresses.is_empty() {
            return Err(SettingsError::NoAddress);
        }
        if [Some(&self.login), other_login].into_iter().flatten().any(|it| it.user.is_some() && it.password.is_none()) {
            return Err(SettingsError::NoPassword);
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte);
        if self.prefix.is_empty() || self.prefix.len() > 64 || !self.prefix.bytes().all(allowed) {
            return Err(SettingsError::Prefix(self.prefix.to_string()));
        }
        for (name, time) in [("connect_timeout", self.connect_timeout), ("response_timeout", self.response_timeout)] {
            if time.is_zero() {
                return Err(SettingsError::Zero(name));
            }
        }
        for (name, size) in [("max_in_flight", self.max_in_flight), ("max_in_flight_bytes", self.max_in_flight_bytes)] {
            if size == 0 {
                return Err(SettingsError::Zero(name));
            }
        }
        Ok(())
    }
}

/// The URL as an error may show it.
fn bad_url(url: &str) -> SettingsError {
    let shown = match url.split_once("://").zip(url.rsplit_once('@')) {
        Some(((scheme, _), (_, rest))) => format!("{scheme}://***@{rest}"),
        None if url.contains('@') => "***".to_owned(),
        None => url.to_owned(),
    };
    SettingsError::Url(format!("{shown:?}"))
}

impl Login {
    /// `user:password`, `:password` or `user`, percent-encoded.
    fn from_url(text: &str) -> Option<Self> {
        let (user, password) = match text.split_once(':') {
            Some((user, password)) => (user, Some(Password::new(decode(password)?))),
            None => (text, None),
        };
        let user = decode(user)?;
        Some(Self { user: (!user.is_empty()).then(|| user.into()), password })
    }
}

/// Without its percent-encoding (RFC 3986 section 2.1).
fn decode(text: &str) -> Option<String> {
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        decoded.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(decoded).ok()
}

impl Password {
    /// Any text.
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl FromStr for Address {
    type Err = SettingsError;

    /// `host:port` or `host`, then the port is 6379. An IPv6 address stands in brackets.
    fn from_str(text: &str) -> Result<Self, SettingsError> {
        let bad = || SettingsError::Address(text.to_owned());
        let (host, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (host, rest) = rest.split_once(']').ok_or_else(bad)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
                (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or_else(bad)?) })
            }
            None => match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            },
        };
        let of_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if host.is_empty() || !(text.starts_with('[') || host.bytes().all(of_name)) {
            return Err(bad());
        }
        let port = port.map_or(Ok(6379), |port| port.parse().map_err(|_| bad()))?;
        if port == 0 {
            return Err(bad());
        }
        Ok(Self { host: host.into(), port })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().expect("an address")
    }

    #[test]
    fn addresses_are_read_and_shown() {
        for (text, shown) in
            [("redis", "redis:6379"), ("10.0.0.1:7", "10.0.0.1:7"), ("[::1]:7", "[::1]:7"), ("[::1]", "[::1]:6379")]
        {
            assert_eq!(address(text).to_string(), shown);
        }
        for bad in ["", ":7", "a:b", "a:0", "a:70000", "::1", "[::1", "[a]:7", "a b", "redis://a", "[::1]7"] {
            let error = bad.parse::<Address>().expect_err(bad);
            assert!(error.to_string().contains("host:port"), "{error}");
        }
    }

    #[test]
    fn a_url_says_everything() {
        let settings = RedisSettings::from_url("rediss://gate:p%40ss%3A@redis.internal:7000/3").expect("a URL");
        assert_eq!(settings.topology, Topology::Standalone(vec![address("redis.internal:7000")]));
        assert_eq!((settings.database, settings.tls.is_some()), (3, true));
        assert_eq!(settings.login.user.as_deref(), Some("gate"));
        assert_eq!(settings.login.password.as_ref().map(Password::reveal), Some("p@ss:"));
        let plain = RedisSettings::from_url("redis://:secret@[::1]").expect("a URL");
        assert_eq!((plain.login.user, plain.database, plain.tls.is_none()), (None, 0, true));
        assert_eq!(plain.topology, Topology::Standalone(vec![address("[::1]:6379")]));
    }

    #[test]
    fn a_bad_url_does_not_tell_the_password() {
        for url in
            ["http://u:secret@h", "u:secret@h", "redis://u:secret@", "redis://u:secret@h/x", "redis://u:%zzsecret@h"]
        {
            let error = RedisSettings::from_url(url).expect_err(url).to_string();
            assert!(error.contains("redis://[user") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_password_does_not_show() {
        let settings = RedisSettings::from_url("redis://u:secret@h").expect("a URL");
        assert!(!format!("{settings:?}").contains("secret") && format!("{settings:?}").contains("***"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_the_way_out() {
        let good = RedisSettings::new(Topology::Standalone(vec![address("a")]));
        assert_eq!(good.validate(), Ok(()));
        let refused = |change: fn(&mut RedisSettings)| {
            let mut settings = good.clone();
            change(&mut settings);
            settings.validate().expect_err("refused")
        };
        assert_eq!(refused(|it| it.topology = Topology::Standalone(vec![])), SettingsError::NoAddress);
        let cluster = |it: &mut RedisSettings| {
            it.topology = Topology::Cluster(vec![address("a")]);
            it.database = 2;
        };
        assert_eq!(refused(cluster), SettingsError::Database(2));
        let sentinel = |it: &mut RedisSettings| {
            it.topology = Topology::Sentinel {
                sentinels: vec![address("a")],
                service: "".into(),
                login: Login::default(),
                tls: false,
            };
        };
        assert_eq!(refused(sentinel), SettingsError::NoService);
        for prefix in ["", "a{b}", "a b", "é"] {
            let settings = RedisSettings { prefix: prefix.into(), ..good.clone() };
            assert_eq!(settings.validate(), Err(SettingsError::Prefix(prefix.into())));
        }
        assert_eq!(refused(|it| it.login.user = Some("u".into())), SettingsError::NoPassword);
        assert_eq!(refused(|it| it.response_timeout = Duration::ZERO), SettingsError::Zero("response_timeout"));
        assert_eq!(refused(|it| it.max_in_flight = 0), SettingsError::Zero("max_in_flight"));
    }
}
