use std::sync::Arc;

use crate::check::listener::pair;
use crate::check::secret::{MIN_HMAC_BYTES, long_enough};
use crate::check::{count, delay, flag, given, health, name, number, path, period, small, template};
use crate::file::{self, BalanceKind};
use crate::reader::{At, Named, Reader};
use crate::{
    Balance, Discover, ProxyProtocol, SameSite, Sticky, StickyCookie, Upstream, UpstreamProtocol, UpstreamServer,
    UpstreamTls,
};

pub(super) fn upstreams(
    reader: &Reader<'_>,
    found: Option<At<Named<file::Upstream>>>,
    has_jwt: bool,
    has_cluster: bool,
) -> Vec<At<Upstream>> {
    let found = found.map(|found| found.value.0).unwrap_or_default();
    found.into_iter().map(|(key, found)| upstream(reader, &key, found, has_jwt, has_cluster)).collect()
}

fn upstream(
    reader: &Reader<'_>,
    key: &At<String>,
    mut found: file::Upstream,
    has_jwt: bool,
    has_cluster: bool,
) -> At<Upstream> {
    let name = name(reader, &key.value, key.place, "an upstream");
    let default = Upstream::new(&name, &[]);
    let plain = UpstreamServer {
        max_fails: small(reader, found.max_fails.take(), "max_fails", default.max_fails, 0),
        fail_timeout: period(reader, found.fail_timeout.take(), "fail_timeout", default.fail_timeout),
        ..UpstreamServer::new("")
    };
    let balance = balance(reader, &mut found, key.place, has_jwt);
    let discover = discover(reader, &found, has_cluster);
    let servers = servers(reader, key, &mut found, &plain, &balance);
    let patience = |found, key, default| period(reader, found, key, default);
    if let (Some(protocol), Some(header)) = (&found.protocol, &found.proxy_protocol)
        && protocol.value == UpstreamProtocol::Http2
        && header.value != ProxyProtocol::Off
    {
        reader.problem(
            header.place,
            "a PROXY header names one client, and protocol = \"http2\" lets many share a connection; leave one of them out",
        );
    }
    let tls = found.tls.map(|tls| upstream_tls(reader, tls, &servers));
    let upstream = Upstream {
        servers: super::values(servers),
        discover,
        balance,
        sticky: found.sticky.and_then(|sticky| self::sticky(reader, sticky)),
        connect_timeout: patience(found.connect_timeout, "connect_timeout", default.connect_timeout),
        handshake_timeout: patience(found.handshake_timeout, "handshake_timeout", default.handshake_timeout),
        read_timeout: patience(found.read_timeout, "read_timeout", default.read_timeout),
        send_timeout: patience(found.send_timeout, "send_timeout", default.send_timeout),
        stream_timeout: patience(found.stream_timeout, "stream_timeout", default.stream_timeout),
        tunnel_idle_timeout: patience(found.tunnel_idle_timeout, "tunnel_idle_timeout", default.tunnel_idle_timeout),
        keepalive: count(reader, found.keepalive, "keepalive", default.keepalive, 0),
        keepalive_timeout: patience(found.keepalive_timeout, "keepalive_timeout", default.keepalive_timeout),
        keepalive_requests: number(
            reader,
            found.keepalive_requests,
            "keepalive_requests",
            default.keepalive_requests,
            1..=u64::MAX,
        ),
        max_fails: plain.max_fails,
        fail_timeout: plain.fail_timeout,
        dns_refresh: patience(found.dns_refresh, "dns_refresh", default.dns_refresh),
        protocol: found.protocol.map_or(default.protocol, |given| given.value),
        proxy_protocol: found.proxy_protocol.map_or(default.proxy_protocol, |given| given.value),
        close_rate: small(reader, found.close_rate, "close_rate", default.close_rate, 0),
        rebalance_rate: small(reader, found.rebalance_rate, "rebalance_rate", default.rebalance_rate, 0),
        tls,
        health: found.health.map(|found| health::probes(reader, found)),
        outlier: found.outlier.map(|found| health::outlier(reader, found.value)),
        breaker: found.breaker.map(|found| health::breaker(reader, found.value)),
        retry: found.retry.map_or(default.retry, |found| health::retry(reader, found.value)),
        name,
    };
    At::new(upstream, key.place)
}

/// Discovered servers are nodes, spoken to in one way only.
fn discover(reader: &Reader<'_>, found: &file::Upstream, has_cluster: bool) -> Option<Discover> {
    let At { value, place } = found.discover.as_ref()?;
    if !has_cluster {
        reader.problem(*place, "\"discover\" needs a [cluster] section: its nodes are the servers");
    }
    let servers = found.servers.as_ref().map(|list| list.place).or(found.server.as_ref().map(|list| list.place));
    if let Some(place) = servers {
        reader.problem(place, "an upstream has servers or discovers them; take one of both out");
    }
    let contradictions = [
        ("tls", found.tls.as_ref().map(|tls| tls.place)),
        ("sticky", found.sticky.as_ref().map(|sticky| sticky.place)),
        ("health", found.health.as_ref().map(|health| health.place)),
        ("protocol", found.protocol.as_ref().filter(|it| it.value == UpstreamProtocol::Http2).map(|it| it.place)),
        (
            "proxy_protocol",
            found.proxy_protocol.as_ref().filter(|it| it.value != ProxyProtocol::Off).map(|it| it.place),
        ),
    ];
    for (key, place) in contradictions {
        if let Some(place) = place {
            let message = format!("{key:?} has no effect with \"discover\": nodes are reached as [cluster] says");
            reader.problem(place, message);
        }
    }
    Some(*value)
}

fn servers(
    reader: &Reader<'_>,
    key: &At<String>,
    found: &mut file::Upstream,
    plain: &UpstreamServer,
    balance: &Balance,
) -> Vec<At<UpstreamServer>> {
    let name = &key.value;
    let has_servers = ["servers", "server", "discover"].iter().any(|key| !found.lacks(key));
    let mut servers: Vec<At<UpstreamServer>> = Vec::new();
    let mut add = |server: At<UpstreamServer>| {
        if let Some(first) = servers.iter().find(|known| known.value.address == server.value.address) {
            let (address, line) = (&server.value.address, reader.line(first.place));
            reader.problem(server.place, format!("the server {address:?} is in this upstream already, at line {line}"));
        }
        servers.push(server);
    };
    for address in found.servers.take().map(|list| list.value.0).unwrap_or_default() {
        add(At::new(UpstreamServer { address: normal(&address.value.0), ..plain.clone() }, address.place));
    }
    for At { value: server, place } in found.server.take().map(|list| list.value.0).unwrap_or_default() {
        if let Some(At { value: 0, place }) = &server.weight {
            reader.problem(*place, "\"weight\" must be at least 1; to take a server out, write down = true");
            continue;
        }
        let Some(address) = &server.address else {
            if server.lacks("address") {
                reader.problem(place, format!("[[upstream.{name}.server]] needs an \"address\""));
            }
            continue;
        };
        let kind = match balance {
            Balance::Hash { .. } => "hash",
            Balance::IpHash => "ip_hash",
            Balance::Random => "random",
            Balance::RoundRobin | Balance::LeastConn | Balance::LeastTime => "",
        };
        if let (Some(At { value: true, place }), false) = (&server.backup, kind.is_empty()) {
            let message = format!(
                "a \"backup\" server cannot be with balance = {kind:?}, as in nginx; take it out or choose another balance"
            );
            reader.problem(*place, message);
        }
        let address = At::new(normal(&address.value.0), address.place);
        let weight = u32::try_from(number(reader, server.weight, "weight", 1, 1..=65_535)).unwrap_or(1);
        let server = UpstreamServer {
            address: address.value,
            weight,
            max_conns: small(reader, server.max_conns, "max_conns", 0, 0),
            backup: flag(server.backup, false),
            down: flag(server.down, false),
            drain: flag(server.drain, false),
            slow_start: delay(reader, server.slow_start, "slow_start", plain.slow_start),
            max_fails: small(reader, server.max_fails, "max_fails", plain.max_fails, 0),
            fail_timeout: period(reader, server.fail_timeout, "fail_timeout", plain.fail_timeout),
        };
        add(At::new(server, address.place));
    }
    // A list that is there but held only wrong entries has its problems already.
    if servers.is_empty() && !has_servers {
        let hint = "write for example servers = [\"127.0.0.1:3000\"]";
        reader.problem(key.place, format!("the upstream {name:?} has no server; {hint}"));
    } else if !servers.is_empty() && servers.iter().all(|server| server.value.backup) {
        reader.problem(
            key.place,
            format!("all servers of the upstream {name:?} are backups: there is nothing they back up"),
        );
    }
    servers
}

/// Host names have no case; paths of sockets do.
fn normal(address: &str) -> Arc<str> {
    if address.starts_with("unix:") { address.into() } else { address.to_ascii_lowercase().into() }
}

fn balance(reader: &Reader<'_>, found: &mut file::Upstream, place: usize, has_jwt: bool) -> Balance {
    let kind_place = found.balance.as_ref().map_or(place, |given| given.place);
    let lacks_key = found.lacks("hash_key");
    let consistent = found.consistent.take();
    let load_factor = found.load_factor.take();
    let key = given(found.hash_key.take());
    let kind = match found.balance.take().map(|given| given.value) {
        Some(BalanceKind::Hash) => {
            if let Some(At { value: 1..=100, place }) = &load_factor {
                reader.problem(
                    *place,
                    "\"load_factor\" must be above 100 percent, such as 125, or no server could have its share",
                );
            }
            if let (Some(At { value: 1.., place }), false) = (&load_factor, flag(consistent.clone(), false)) {
                reader.problem(*place, "\"load_factor\" has no effect without consistent = true");
            }
            if key.is_none() && (lacks_key || found.hash_key.is_some()) {
                let message = "balance = \"hash\" needs a \"hash_key\", such as \"{query.room}\" or \"{client_ip}\"";
                reader.problem(kind_place, message);
            }
            return Balance::Hash {
                key: key.map_or_else(|| Arc::from(""), |key| template(reader, key, has_jwt)),
                consistent: flag(consistent, false),
                load_factor: small(reader, load_factor, "load_factor", 0, 0),
            };
        }
        Some(BalanceKind::LeastConn) => Balance::LeastConn,
        Some(BalanceKind::IpHash) => Balance::IpHash,
        Some(BalanceKind::Random) => Balance::Random,
        Some(BalanceKind::LeastTime) => Balance::LeastTime,
        // A kind that cannot be read contradicts nothing.
        None if !found.lacks("balance") => return Balance::RoundRobin,
        Some(BalanceKind::RoundRobin) | None => Balance::RoundRobin,
    };
    let only_hash = [
        ("hash_key", key.map(|key| key.place)),
        ("consistent", consistent.filter(|given| given.value).map(|given| given.place)),
        ("load_factor", load_factor.filter(|given| given.value > 0).map(|given| given.place)),
    ];
    for (key, place) in only_hash {
        if let Some(place) = place {
            reader.problem(place, format!("{key:?} has no effect without balance = \"hash\""));
        }
    }
    kind
}

fn sticky(reader: &Reader<'_>, At { value: found, place }: At<file::Sticky>) -> Option<Sticky> {
    let unread = ["cookie", "header", "query"].into_iter().any(|key| !found.lacks(key))
        && found.cookie.is_none()
        && found.header.is_none()
        && found.query.is_none();
    let (cookie, header, query) = (given(found.cookie), given(found.header), given(found.query));
    let places = [
        cookie.as_ref().map(|given| given.place),
        header.as_ref().map(|given| given.place),
        query.as_ref().map(|given| given.place),
    ];
    let mut places: Vec<usize> = places.into_iter().flatten().collect();
    places.sort_unstable();
    if let Some(second) = places.get(1) {
        reader.problem(*second, "a client is kept by one of \"cookie\", \"header\" and \"query\"; take the others out");
    } else if places.is_empty() && !unread {
        reader.problem(place, "this section needs one of \"cookie\", \"header\" and \"query\"");
    }
    let secret = given(found.secret).map(|secret| At::new(secret.value.0, secret.place));
    if let Some(secret) = &secret {
        long_enough(reader, secret, "the cookie's secret", MIN_HMAC_BYTES);
    }
    let domain = given(found.domain);
    let secure = flag(found.secure, false);
    let same_site = found.same_site.as_ref().map_or(SameSite::Lax, |given| given.value);
    if let (Some(given), SameSite::None, false) = (&found.same_site, same_site, secure) {
        reader.problem(given.place, "browsers refuse a cookie with same_site = \"none\" that is not secure = true");
    }
    if let Some(name) = cookie {
        return Some(Sticky::Cookie(StickyCookie {
            name: name.value.0,
            secret: secret.map(|secret| secret.value),
            ttl: delay(reader, found.ttl, "ttl", std::time::Duration::ZERO),
            path: found.path.map_or_else(|| Arc::from("/"), |path| path.value.0.into()),
            domain: domain.map(|domain| domain.value.0),
            secure,
            same_site,
        }));
    }
    let only_cookies = [("secret", secret.map(|secret| secret.place)), ("domain", domain.map(|domain| domain.place))];
    for (key, place) in only_cookies {
        if let (Some(place), false) = (place, unread) {
            reader.problem(place, format!("{key:?} has no effect without a \"cookie\""));
        }
    }
    header.map(|name| Sticky::Header(name.value.0)).or_else(|| query.map(|name| Sticky::Query(name.value.0)))
}

fn upstream_tls(
    reader: &Reader<'_>,
    At { value: found, place }: At<file::UpstreamTls>,
    servers: &[At<UpstreamServer>],
) -> UpstreamTls {
    let default = UpstreamTls::default();
    let lacks_name = found.lacks("server_name");
    let server_name = given(found.server_name);
    let verify = flag(found.verify, default.verify);
    let socket = servers.iter().find(|server| server.value.address.starts_with("unix:"));
    if let (Some(socket), None, true) = (socket, &server_name, lacks_name && verify) {
        let address = &socket.value.address;
        reader.problem(place, format!("the server {address:?} has no host name to check; set \"server_name\""));
    }
    UpstreamTls {
        server_name: server_name.map(|name| name.value.0),
        verify,
        ca: given(found.ca).map(|ca| path(reader, &ca, "ca")),
        certificate: pair(reader, given(found.certificate), given(found.key)),
    }
}
