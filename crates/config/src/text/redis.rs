//! Where a Redis is: the URLs of redis-cli and of all clients.

use std::net::IpAddr;
use std::sync::Arc;

use tidegate_auth::Secret;

use super::server_address;
use crate::{NodeAddress, RedisServer};

/// What a URL of Redis says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RedisLocation {
    pub server: RedisServer,
    pub tls: bool,
    pub user: Option<Arc<str>>,
    pub password: Option<Secret>,
    pub database: Option<u32>,
}

/// The port that Redis has by itself.
const PORT: u16 = 6379;

/// `redis://[user[:password]@]host[:port][/database]`, or `rediss://` for TLS. What is wrong is told without quoting the text,
/// which may hold a password.
pub(crate) fn redis_url(text: &str) -> Result<RedisLocation, &'static str> {
    let (tls, rest) = match text.split_once("://") {
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        Some(_) | None => return Err("must begin with \"redis://\", or \"rediss://\" for TLS"),
    };
    if rest.contains(['?', '#']) || rest.contains(char::is_whitespace) || rest.contains(char::is_control) {
        return Err("must have neither a query nor spaces; a password is percent-encoded");
    }
    // A password that is not encoded may hold a slash or an @.
    let (credentials, rest) =
        rest.rsplit_once('@').map_or((None, rest), |(credentials, rest)| (Some(credentials), rest));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let database = match path {
        "" => None,
        path => Some(path.parse().map_err(|_| "must have a number behind the \"/\": the database")?),
    };
    let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.contains(']'));
    let with_port = if port.is_some() { authority.to_owned() } else { format!("{authority}:{PORT}") };
    let address = server_address(&with_port).map_err(|_| "must name a host, and a port if it is not 6379")?;
    let (host, port) = address.rsplit_once(':').ok_or("must name a host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
    let server = RedisServer { host: host.into(), port: port.parse().map_err(|_| "must have a port from 1 to 65535")? };
    let (user, password) = match credentials.map(|text| text.split_once(':').unwrap_or((text, ""))) {
        None => (None, None),
        Some((user, password)) => (filled(user)?, filled(password)?),
    };
    let password = password.map(Secret::from);
    Ok(RedisLocation { server, tls, user: user.map(Arc::from), password, database })
}

fn filled(text: &str) -> Result<Option<String>, &'static str> {
    if text.is_empty() {
        return Ok(None);
    }
    let bad = "must have its user and password percent-encoded (RFC 3986 section 2.1)";
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad) };
        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(out).map(Some).map_err(|_| bad)
}

/// An IP address that others can reach, with or without a port.
pub(crate) fn node_address(text: &str) -> Result<NodeAddress, String> {
    let ip: Option<IpAddr> = text.parse().ok();
    let with_port: Option<std::net::SocketAddr> = text.parse().ok();
    let found = match (ip, with_port) {
        (Some(ip), _) => NodeAddress { ip, port: None },
        (None, Some(address)) if address.port() == 0 => NodeAddress { ip: address.ip(), port: None },
        (None, Some(address)) => NodeAddress { ip: address.ip(), port: Some(address.port()) },
        (None, None) => {
            return Err(
                "must be an IP address, such as \"10.0.0.5\", \"10.0.0.5:7946\" or \"[fd00::5]:7946\"".to_owned()
            );
        }
    };
    if found.ip.is_unspecified() {
        return Err("is no address that others can reach: write the machine's own".to_owned());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_those_of_redis_cli() {
        let plain = redis_url("redis://localhost").unwrap();
        assert_eq!(
            (&*plain.server.host, plain.server.port, plain.tls, plain.database),
            ("localhost", 6379, false, None)
        );
        let full = redis_url("rediss://tide:p%40ss/w@[::1]:7000/2").unwrap();
        assert_eq!((&*full.server.host, full.server.port, full.tls, full.database), ("::1", 7000, true, Some(2)));
        assert_eq!(full.user.as_deref(), Some("tide"));
        assert_eq!(full.password.unwrap().expose(), "p@ss/w");
        let password = redis_url("redis://:secret@r:1").unwrap();
        assert_eq!((password.user, password.password.unwrap().expose()), (None, "secret"));
        for bad in ["r:6379", "http://r", "redis://", "redis://r:0", "redis://r/x", "redis://r/1?a", "redis://%zz@r"] {
            let fault = redis_url(bad).unwrap_err();
            assert!(!fault.contains(bad), "{fault}");
        }
    }
}
