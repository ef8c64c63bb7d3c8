//! The upstreams of a config, as the proxy takes them.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;

use http::HeaderName;
use tidegate_balance::{Algorithm, Duty};
use tidegate_config as config;
use tidegate_proxy::{
    CookieKey, Exchange, ServerSettings, Sticky, StickyCookie, TlsFiles, Upstream, UpstreamSettings, UpstreamTls,
};
use tidegate_rules::proxy_protocol::ProxyVersion;
use tidegate_rules::{Facts, Place, Template};

use crate::StartError;

/// What an upstream is to be.
pub(crate) fn settings(upstream: &config::Upstream) -> UpstreamSettings {
    UpstreamSettings {
        name: upstream.name.to_string(),
        servers: upstream.servers.iter().map(server).collect(),
        connect_timeout: upstream.connect_timeout,
        read_timeout: upstream.read_timeout,
        send_timeout: upstream.send_timeout,
        handshake_timeout: upstream.handshake_timeout,
        stream_timeout: upstream.stream_timeout,
        tunnel_idle_timeout: upstream.tunnel_idle_timeout,
        keepalive_idle: upstream.keepalive,
        keepalive_timeout: upstream.keepalive_timeout,
        keepalive_requests: upstream.keepalive_requests,
        max_fails: upstream.max_fails,
        fail_timeout: upstream.fail_timeout,
        balance: algorithm(&upstream.balance),
        hash_key: hash_key(&upstream.balance),
        sticky: upstream.sticky.as_ref().and_then(sticky),
        proxy_protocol: match upstream.proxy_protocol {
            config::ProxyProtocol::Off => None,
            config::ProxyProtocol::V1 => Some(ProxyVersion::V1),
            config::ProxyProtocol::V2 => Some(ProxyVersion::V2),
        },
        http2: upstream.protocol == config::UpstreamProtocol::Http2,
        dns_refresh: upstream.dns_refresh,
        rebalance_rate: upstream.rebalance_rate,
        ..crate::health::settings(upstream)
    }
}

/// The upstream's TLS, with its files read.
///
/// # Errors
/// A file cannot be read or used.
pub(crate) fn tls(upstream: &config::Upstream) -> Result<Option<UpstreamTls>, StartError> {
    let fault = |what: &dyn Display| StartError::Config(format!("upstream {:?}: {what}", upstream.name));
    let Some(tls) = &upstream.tls else { return Ok(None) };
    let read = |file: &Path| std::fs::read(file).map_err(|error| fault(&format!("{}: {error}", file.display())));
    let pair = tls.certificate.as_ref().map(|files| Ok((read(&files.certificate)?, read(&files.key)?)));
    let files = TlsFiles {
        server_name: tls.server_name.clone(),
        unverified: !tls.verify,
        ca: tls.ca.as_deref().map(read).transpose()?,
        certificate: pair.transpose()?,
        http2: upstream.protocol == config::UpstreamProtocol::Http2,
    };
    UpstreamTls::new(files).map(Some).map_err(|error| fault(&error))
}

/// Tells the proxy what this upstream wants to know of a request beside the request. The usual one wants nothing.
pub(crate) fn brief<'a>(
    exchange: &mut Exchange,
    upstream: &Upstream,
    listener: SocketAddr,
    facts: impl FnOnce() -> Facts<'a>,
) {
    let settings = upstream.settings();
    if let Some(key) = &settings.hash_key {
        exchange.hash_key = Some(key.text(&facts()).into());
    }
    if settings.proxy_protocol.is_some() && !listener.ip().is_unspecified() {
        exchange.local = Some(listener);
    }
}

fn server(server: &config::UpstreamServer) -> ServerSettings {
    ServerSettings {
        weight: server.weight,
        max_conns: server.max_conns,
        backup: server.backup,
        duty: match (server.down, server.drain) {
            (true, _) => Duty::Down,
            (false, true) => Duty::Drain,
            (false, false) => Duty::Serve,
        },
        slow_start: server.slow_start,
        max_fails: Some(server.max_fails),
        fail_timeout: Some(server.fail_timeout),
        ..ServerSettings::at(server.address.to_string())
    }
}

fn algorithm(balance: &config::Balance) -> Algorithm {
    match balance {
        config::Balance::RoundRobin => Algorithm::RoundRobin,
        config::Balance::LeastConn => Algorithm::LeastConn,
        config::Balance::IpHash => Algorithm::IpHash,
        config::Balance::Hash { consistent: false, .. } => Algorithm::Hash,
        config::Balance::Hash { consistent: true, load_factor, .. } => {
            Algorithm::ConsistentHash { load_factor: *load_factor }
        }
        config::Balance::Random => Algorithm::RandomTwo,
        config::Balance::LeastTime => Algorithm::LeastTime,
    }
}

/// The config has tried the template; one that is none hashes nothing.
fn hash_key(balance: &config::Balance) -> Option<Template> {
    match balance {
        config::Balance::Hash { key, .. } => Template::parse(key, Place::Key).ok(),
        config::Balance::RoundRobin
        | config::Balance::LeastConn
        | config::Balance::IpHash
        | config::Balance::Random
        | config::Balance::LeastTime => None,
    }
}

/// The config has checked the header's name; a name that is none sticks to nothing.
fn sticky(sticky: &config::Sticky) -> Option<Sticky> {
    Some(match sticky {
        config::Sticky::Header(name) => Sticky::Header(HeaderName::try_from(&**name).ok()?),
        config::Sticky::Query(name) => Sticky::Query((&**name).into()),
        config::Sticky::Cookie(cookie) => Sticky::Cookie(Box::new(StickyCookie {
            name: (&*cookie.name).into(),
            key: cookie.secret.as_ref().map(|secret| CookieKey::from(secret.expose().as_bytes())),
            ttl: cookie.ttl,
            path: (&*cookie.path).into(),
            domain: cookie.domain.as_deref().map(Into::into),
            secure: cookie.secure,
            same_site: match cookie.same_site {
                config::SameSite::Lax => "Lax",
                config::SameSite::Strict => "Strict",
                config::SameSite::None => "None",
            },
        })),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_config_says_of_servers_and_their_choice_reaches_the_proxy() {
        let mut upstream = config::Upstream::new("app", &["10.0.0.1:80", "unix:/run/app"]);
        upstream.balance = config::Balance::Hash { key: "{query.room}".into(), consistent: true, load_factor: 125 };
        upstream.proxy_protocol = config::ProxyProtocol::V2;
        upstream.servers[0].drain = true;
        upstream.servers[1].down = true;
        upstream.servers[1].max_conns = 5;
        upstream.servers[1].backup = true;
        upstream.servers[1].max_fails = 7;
        upstream.sticky = Some(config::Sticky::Cookie(config::StickyCookie {
            same_site: config::SameSite::Strict,
            domain: Some("example.org".into()),
            ..config::StickyCookie::new("tg_route")
        }));
        let settings = settings(&upstream);
        assert_eq!(settings.balance, Algorithm::ConsistentHash { load_factor: 125 });
        assert_eq!(settings.hash_key, Template::parse("{query.room}", Place::Key).ok());
        assert_eq!(settings.proxy_protocol, Some(ProxyVersion::V2));
        let duties: Vec<_> = settings.servers.iter().map(|server| server.duty).collect();
        assert_eq!(duties, [Duty::Drain, Duty::Down]);
        let second = &settings.servers[1];
        assert_eq!((second.max_conns, second.backup, second.max_fails), (5, true, Some(7)));
        let Some(Sticky::Cookie(cookie)) = &settings.sticky else { panic!("{:?}", settings.sticky) };
        assert_eq!((cookie.same_site, cookie.domain.as_deref(), &cookie.key), ("Strict", Some("example.org"), &None));
        upstream.sticky = Some(config::Sticky::Header("x-session-id".into()));
        let header = HeaderName::from_static("x-session-id");
        assert_eq!(super::settings(&upstream).sticky, Some(Sticky::Header(header)));
    }
}
