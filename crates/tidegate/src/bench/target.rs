use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};

use anyhow::{Context as _, bail};
use tidegate_transport::Transport;
use tokio::net::TcpSocket;

use super::tls::Tls;

/// Where the load goes.
#[derive(Clone, Debug)]
pub struct Target {
    /// The resolved address.
    pub address: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// As the user wrote it, for the summary.
    pub url: String,
    /// For `https` and `wss`.
    pub tls: Option<Tls>,
}

/// Ports that one source address gives on a usual Linux (`ip_local_port_range` 32768–60999), with some to spare.
const CONNECTIONS_PER_SOURCE: usize = 25_000;

impl Target {
    /// Parses `http://`, `ws://`, `https://` and `wss://` URLs and resolves the host once.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) =
            url.split_once("://").with_context(|| format!("`{url}` is not a URL; write http://host:port/path"))?;
        let (tls, port) = match scheme {
            "http" | "ws" => (None, 80),
            "https" | "wss" => (Some(Tls::new()?), 443),
            other => bail!("`{other}` is not a scheme that can be measured; use http, https, ws or wss"),
        };
        let split = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(split).context("bad URL")?;
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let with_port = match authority.rsplit_once(':') {
            Some((_, port)) if port.parse::<u16>().is_ok() => authority.to_owned(),
            _ => format!("{authority}:{port}"),
        };
        let address = with_port
            .to_socket_addrs()
            .with_context(|| format!("`{authority}` does not resolve"))?
            .next()
            .with_context(|| format!("`{authority}` has no address"))?;
        Ok(Self { address, host: authority.to_owned(), path, url: url.to_owned(), tls })
    }

    /// The source address of the `index`th of `count` connections: the system's choice as long as one address has
    /// ports enough, else 127.0.0.2, 127.0.0.3, … for a loopback target.
    pub fn source(&self, index: usize, count: usize) -> anyhow::Result<Option<Ipv4Addr>> {
        if count <= CONNECTIONS_PER_SOURCE {
            return Ok(None);
        }
        if !matches!(self.address.ip(), IpAddr::V4(ip) if ip.is_loopback()) {
            bail!(
                "{count} connections to {} need more ports than one source address has (about {CONNECTIONS_PER_SOURCE}); \
                 spread them over several machines, or measure over 127.0.0.1",
                self.address
            );
        }
        let block = u8::try_from(index / CONNECTIONS_PER_SOURCE + 2)
            .context("more connections than 127.0.0.2–255 can carry")?;
        Ok(Some(Ipv4Addr::new(127, 0, 0, block)))
    }

    /// Opens one connection, without Nagle's delay, and shakes hands if it is one with TLS.
    pub async fn connect(&self, source: Option<Ipv4Addr>) -> anyhow::Result<Transport> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
            .context("no socket; is the limit of open files (ulimit -n) high enough?")?;
        if let Some(source) = source {
            socket.bind(SocketAddr::from((source, 0))).with_context(|| format!("no free port at {source}"))?;
        }
        let stream =
            socket.connect(self.address).await.with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => Ok(stream.into()),
            Some(tls) => Ok(tls.shake_hands(stream, &self.host).await?.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_gives_address_host_and_path() {
        let target = Target::parse("ws://127.0.0.1:8080/socket.io/?x=1").unwrap();
        assert_eq!(target.address, "127.0.0.1:8080".parse().unwrap());
        assert_eq!((target.host.as_str(), target.path.as_str()), ("127.0.0.1:8080", "/socket.io/?x=1"));
        assert_eq!(Target::parse("http://127.0.0.1").unwrap().path, "/");
        assert_eq!(Target::parse("http://127.0.0.1?a").unwrap().path, "/?a");
        let secure = Target::parse("https://127.0.0.1/").unwrap();
        assert!(secure.tls.is_some() && secure.address.port() == 443);
    }

    #[test]
    fn what_cannot_be_measured_is_said() {
        for (url, word) in [("127.0.0.1:80", "not a URL"), ("ftp://x", "scheme")] {
            assert!(Target::parse(url).unwrap_err().to_string().contains(word), "{url}");
        }
    }

    #[test]
    fn many_loopback_connections_come_from_several_addresses() {
        let target = Target::parse("ws://127.0.0.1:1/").unwrap();
        assert_eq!(target.source(24_999, 25_000).unwrap(), None);
        assert_eq!(target.source(0, 60_000).unwrap(), Some(Ipv4Addr::new(127, 0, 0, 2)));
        assert_eq!(target.source(59_999, 60_000).unwrap(), Some(Ipv4Addr::new(127, 0, 0, 4)));
    }
}
