use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::check::secret::{Names, secret};
use crate::check::{burst, bytes, count, flag, given, limit, name, number, path, period, small};
use crate::file;
use crate::reader::{At, List, Reader};
use crate::{Admin, CertificateFiles, Client, ClientAuth, Listener, ListenerTls, RealIp, Zone};

/// 128 bits, so that a token is not guessed.
const MIN_TOKEN_BYTES: usize = 16;

pub(super) fn client(reader: &Reader<'_>, found: Option<At<file::Client>>) -> Client {
    let default = Client::default();
    let Some(At { value: found, .. }) = found else { return default };
    let time = |found, key, default| period(reader, found, key, default);
    Client {
        header_timeout: time(found.header_timeout, "header_timeout", default.header_timeout),
        keepalive_timeout: time(found.keepalive_timeout, "keepalive_timeout", default.keepalive_timeout),
        keepalive_requests: number(
            reader,
            found.keepalive_requests,
            "keepalive_requests",
            default.keepalive_requests,
            1..=u64::MAX,
        ),
        send_timeout: time(found.send_timeout, "send_timeout", default.send_timeout),
        body_min_rate: super::amount(reader, found.body_min_rate, "body_min_rate", default.body_min_rate),
        max_header_bytes: bytes(reader, found.max_header_bytes, "max_header_bytes", default.max_header_bytes).value,
        max_headers: count(reader, found.max_headers, "max_headers", default.max_headers, 1),
    }
}

/// Whether nobody can be told which of the two a connection is for.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 is another port each time.
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip()
            || one.is_ipv4() == other.is_ipv4() && (one.ip().is_unspecified() || other.ip().is_unspecified()))
}

pub(super) fn listeners(
    reader: &Reader<'_>,
    found: Option<At<List<file::Listener>>>,
    zones: &[At<Zone>],
) -> Vec<At<Listener>> {
    let Some(At { value: List(found, _), place }) = found else { return vec![At::new(Listener::default(), 0)] };
    if found.is_empty() {
        reader.problem(place, "there must be at least one [[listener]]");
    }
    let only = found.len() == 1;
    let mut listeners: Vec<At<Listener>> = Vec::new();
    let mut names: HashMap<Arc<str>, usize> = HashMap::new();
    for At { value: found, place } in found {
        let name = match &found.name {
            Some(given) => Some(At::new(name(reader, &given.value, given.place, "a listener"), given.place)),
            None if only => Some(At::new(Listener::default().name, place)),
            None => {
                if found.lacks("name") {
                    reader.problem(place, "[[listener]] needs a \"name\", since there is more than one");
                }
                None
            }
        };
        let bound = match &found.address {
            Some(given) => Some(At::new(given.value.0, given.place)),
            None if only && found.lacks("address") => Some(At::new(Listener::default().address, place)),
            None => {
                if found.lacks("address") {
                    reader.problem(place, "[[listener]] needs an \"address\", such as \"0.0.0.0:8080\"");
                }
                None
            }
        };
        if let Some(name) = &name
            && let Some(first) = names.insert(name.value.clone(), name.place)
        {
            let line = reader.line(first);
            reader.problem(name.place, format!("there is a listener {:?} already, at line {line}", name.value));
        }
        if let Some(bound) = &bound
            && let Some(other) = listeners.iter().find(|other| clash(other.value.address, bound.value))
        {
            let (address, line) = (other.value.address, reader.line(other.place));
            reader.problem(
                bound.place,
                format!("the address {} is taken by the listener at line {line}, {address}", bound.value),
            );
        }
        // Also a listener with a problem is kept, lest routes that name it look wrong too.
        let name = name.map_or_else(|| Arc::from(""), |name| name.value);
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let (address, place) = bound.map_or((unknown, place), |bound| (bound.value, bound.place));
        listeners.push(At::new(listener(reader, found, Listener::new(&name, address), zones), place));
    }
    listeners
}

/// What a listener says beside its name and address.
fn listener(reader: &Reader<'_>, found: file::Listener, plain: Listener, zones: &[At<Zone>]) -> Listener {
    let real_ip = found.real_ip.map_or(plain.real_ip, |given| given.value);
    let proxy_protocol = flag(found.proxy_protocol, false);
    let trusted = found.trusted_proxies.map(|list| At::new(list.value.0, list.place));
    if let Some(trusted) = &trusted
        && !trusted.value.is_empty()
        && real_ip == RealIp::None
        && !proxy_protocol
    {
        let message = "\"trusted_proxies\" has no effect with real_ip = \"none\" and without proxy_protocol = true";
        reader.problem(trusted.place, message);
    }
    let port = number(reader, found.redirect_https_port, "redirect_https_port", 443, 1..=65_535);
    if let (Some(At { value: true, place }), Some(_)) = (&found.redirect_https, &found.tls) {
        reader
            .problem(*place, "\"redirect_https\" on a listener with TLS would redirect for ever; take one of both out");
    }
    Listener {
        max_connections: small(reader, found.max_connections, "max_connections", 0, 0),
        http2: flag(found.http2, plain.http2),
        redirect_https: flag(found.redirect_https, false).then(|| u16::try_from(port).unwrap_or(443)),
        trusted_proxies: trusted.into_iter().flat_map(|list| list.value).map(|network| network.value.0).collect(),
        real_ip,
        proxy_protocol,
        limits: limit::named(reader, found.limits.map(|list| list.value.0).unwrap_or_default(), zones),
        tls: found.tls.map(|tls| listener_tls(reader, tls)),
        ..plain
    }
}

fn listener_tls(reader: &Reader<'_>, At { value: found, place }: At<file::ListenerTls>) -> ListenerTls {
    let default = ListenerTls::new(Vec::new());
    let lacks_pair = found.lacks("certificate") && found.lacks("key") && found.lacks("certificates");
    let mut certificates: Vec<CertificateFiles> =
        pair(reader, given(found.certificate), given(found.key)).into_iter().collect();
    for At { value: more, place } in found.certificates.map(|list| list.value.0).unwrap_or_default() {
        for key in ["certificate", "key"].into_iter().filter(|key| more.lacks(key)) {
            reader.problem(place, format!("[[listener.tls.certificates]] needs a {key:?}"));
        }
        if let (Some(certificate), Some(key)) = (more.certificate, more.key) {
            let certificate = path(reader, &certificate, "certificate");
            certificates.push(CertificateFiles { certificate, key: path(reader, &key, "key") });
        }
    }
    if lacks_pair {
        reader.problem(place, "[listener.tls] needs a \"certificate\" and its \"key\", PEM files");
    }
    let client_auth = found.client_auth.as_ref().map_or(default.client_auth, |given| given.value);
    let client_ca = given(found.client_ca);
    match (&client_ca, client_auth) {
        (None, ClientAuth::Optional | ClientAuth::Required) => reader.problem(
            found.client_auth.map_or(place, |given| given.place),
            "\"client_auth\" needs a \"client_ca\" to check client certificates against",
        ),
        (Some(ca), ClientAuth::Off) => {
            let message = "\"client_ca\" has no effect without client_auth = \"optional\" or \"required\"";
            reader.problem(ca.place, message);
        }
        (None, ClientAuth::Off) | (Some(_), ClientAuth::Optional | ClientAuth::Required) => {}
    }
    let handshakes_per_second = small(reader, found.handshakes_per_second, "handshakes_per_second", 0, 0);
    ListenerTls {
        certificates,
        min_version: found.min_version.map_or(default.min_version, |given| given.value),
        client_ca: client_ca.map(|ca| path(reader, &ca, "client_ca")),
        client_auth,
        handshake_timeout: period(reader, found.handshake_timeout, "handshake_timeout", default.handshake_timeout),
        handshakes_per_second,
        handshake_burst: burst(
            reader,
            found.handshake_burst,
            "handshake_burst",
            handshakes_per_second,
            "handshakes_per_second",
        ),
        session_tickets: flag(found.session_tickets, default.session_tickets),
        reload_interval: period(reader, found.reload_interval, "reload_interval", default.reload_interval),
    }
}

/// A certificate with its key; one without the other is a problem.
pub(super) fn pair(
    reader: &Reader<'_>,
    certificate: Option<At<String>>,
    key: Option<At<String>>,
) -> Option<CertificateFiles> {
    match (certificate, key) {
        (Some(certificate), Some(key)) => Some(CertificateFiles {
            certificate: path(reader, &certificate, "certificate"),
            key: path(reader, &key, "key"),
        }),
        (Some(certificate), None) => {
            reader.problem(certificate.place, "the \"certificate\" needs its private \"key\" beside it");
            None
        }
        (None, Some(key)) => {
            reader.problem(key.place, "the \"key\" needs its \"certificate\" beside it");
            None
        }
        (None, None) => None,
    }
}

pub(super) fn admin(reader: &Reader<'_>, found: Option<At<file::Admin>>, listeners: &[At<Listener>]) -> Option<Admin> {
    let At { value: found, place } = found.unwrap_or_else(|| At::new(file::Admin::default(), 0));
    let enabled = found.enabled.as_ref().is_none_or(|enabled| enabled.value);
    if found.address.is_none() && !found.lacks("address") {
        return None;
    }
    let (bound, place) = match &found.address {
        Some(given) => (given.value.0, given.place),
        None => (Admin::default().address, place),
    };
    let token = given(found.token).map(|token| At::new(token.value.0, token.place));
    let names = Names { text: "token", file: "token_file", what: "the admin token", least: MIN_TOKEN_BYTES };
    let token = secret(reader, token, given(found.token_file), &names, enabled);
    if !enabled {
        return None;
    }
    if let Some(other) = listeners.iter().find(|other| clash(other.value.address, bound)) {
        let (name, address) = (&other.value.name, other.value.address);
        reader.problem(
            // Without an address of its own, the listener is what can be changed.
            if found.address.is_some() { place } else { other.place },
            format!("the admin address {bound} and the listener {name:?} at {address} are the same port"),
        );
    }
    Some(Admin { address: bound, token: token.map(|token| token.value) })
}
