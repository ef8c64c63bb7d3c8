use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::check::{count, number, period, small};
use crate::file;
use crate::reader::{At, List, Named, Reader, ServerAddress};
use crate::text::suggest;
use crate::{Action, Admin, Listener, PathMatch, Realtime, Route, Upstream, UpstreamServer};

/// The longest name of a listener, upstream or route, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// A name that the file gives to a part of it.
fn name(reader: &Reader<'_>, name: &str, place: usize, what: &str) -> Arc<str> {
    if name.is_empty() {
        reader.problem(place, format!("the name of {what} must not be empty"));
    } else if name.len() > MAX_NAME_BYTES || name.chars().any(char::is_control) {
        reader.problem(
            place,
            format!("the name of {what} must have at most {MAX_NAME_BYTES} bytes and no control characters"),
        );
    }
    name.into()
}

/// Whether nobody can be told which of the two a connection is for.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    // Port 0 is another port each time.
    one.port() == other.port()
        && one.port() != 0
        && (one.ip() == other.ip()
            || one.is_ipv4() == other.is_ipv4() && (one.ip().is_unspecified() || other.ip().is_unspecified()))
}

pub(super) fn listeners(reader: &Reader<'_>, found: Option<At<List<file::Listener>>>) -> Vec<At<Listener>> {
    let Some(At { value: List(found), place }) = found else { return vec![At::new(Listener::default(), 0)] };
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
        listeners.push(At::new(Listener::new(&name, address), place));
    }
    listeners
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
    Some(Admin { address: bound, token: None })
}

pub(super) fn upstreams(reader: &Reader<'_>, found: Option<At<Named<file::Upstream>>>) -> Vec<At<Upstream>> {
    found
        .map(|found| found.value.0)
        .unwrap_or_default()
        .into_iter()
        .map(|(key, found)| upstream(reader, &key, found))
        .collect()
}

fn upstream(reader: &Reader<'_>, key: &At<String>, found: file::Upstream) -> At<Upstream> {
    let name = name(reader, &key.value, key.place, "an upstream");
    let default = Upstream::new(&name, &[]);
    let has_servers = !found.lacks("servers") || !found.lacks("server");
    let mut servers: Vec<At<UpstreamServer>> = Vec::new();
    let mut add = |address: At<ServerAddress>, weight: u32| {
        let checked = address.value.0.to_ascii_lowercase();
        if let Some(first) = servers.iter().find(|server| *server.value.address == *checked) {
            let line = reader.line(first.place);
            reader
                .problem(address.place, format!("the server {checked:?} is in this upstream already, at line {line}"));
        }
        servers.push(At::new(UpstreamServer { weight, ..UpstreamServer::new(&checked) }, address.place));
    };
    for address in found.servers.map(|list| list.value.0).unwrap_or_default() {
        add(address, 1);
    }
    for At { value: server, place } in found.server.map(|list| list.value.0).unwrap_or_default() {
        if let Some(At { value: 0, place }) = &server.weight {
            reader.problem(*place, "\"weight\" must be at least 1; to take a server out, remove it");
        } else {
            let weight = server.weight.as_ref().map(|weight| At::new(weight.value, weight.place));
            let weight = u32::try_from(number(reader, weight, "weight", 1, 1..=65_535)).unwrap_or(1);
            let lacks_address = server.lacks("address");
            match server.address {
                Some(address) => add(address, weight),
                None if lacks_address => {
                    reader.problem(place, format!("[[upstream.{name}.server]] needs an \"address\""));
                }
                None => {}
            }
        }
    }
    // A list that is there but held only wrong entries has its problems already.
    if servers.is_empty() && !has_servers {
        let hint = "write for example servers = [\"127.0.0.1:3000\"]";
        reader.problem(key.place, format!("the upstream {name:?} has no server; {hint}"));
    }
    let patience = |found, key, default| period(reader, found, key, default);
    let upstream = Upstream {
        name,
        servers: servers.into_iter().map(|server| server.value).collect(),
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
        max_fails: small(reader, found.max_fails, "max_fails", default.max_fails, 0),
        fail_timeout: patience(found.fail_timeout, "fail_timeout", default.fail_timeout),
        ..default
    };
    At::new(upstream, key.place)
}

/// The routes, each at the place of its path, or else of itself.
pub(super) fn routes(
    reader: &Reader<'_>,
    found: Option<At<List<file::Route>>>,
    listeners: &[At<Listener>],
    upstreams: &[At<Upstream>],
) -> Vec<At<Route>> {
    let mut routes: Vec<At<Route>> = Vec::new();
    for At { value: found, place } in found.map(|found| found.value.0).unwrap_or_default() {
        let path_place = found.path.as_ref().map_or(place, |path| path.place);
        // A route whose path, host or listener cannot be read would seem to be the one for everything.
        let unreadable = found.path.is_none() && !found.lacks("path")
            || found.host.is_none() && !found.lacks("host")
            || found.listener.is_none() && !found.lacks("listener");
        let route = route(reader, found, place, listeners, upstreams);
        if unreadable {
            continue;
        }
        let overlaps = |other: &&At<Route>| {
            other.value.path == route.value.path
                && other.value.hosts == route.value.hosts
                && (other.value.listeners.is_empty()
                    || route.value.listeners.is_empty()
                    || other.value.listeners == route.value.listeners)
        };
        if let Some(other) = routes.iter().find(overlaps) {
            let (path, line) = (route.value.path.to_string(), reader.line(other.place));
            let host = route.value.hosts.first().map_or_else(|| "any host".to_owned(), |host| format!("{host:?}"));
            reader.problem(path_place, format!("there is a route for {path:?} of {host} already, at line {line}"));
        } else if let Some(other) = routes.iter().find(|other| other.value.name == route.value.name) {
            let (name, line) = (&route.value.name, reader.line(other.place));
            reader.problem(
                route.place,
                format!("there is a route named {name:?} already, at line {line}; give one of them another \"name\""),
            );
        }
        routes.push(At::new(route.value, path_place));
    }
    routes
}

fn route(
    reader: &Reader<'_>,
    found: file::Route,
    place: usize,
    listeners: &[At<Listener>],
    upstreams: &[At<Upstream>],
) -> At<Route> {
    if let Some(given) = &found.listener {
        known_listener(reader, given, listeners);
    }
    match &found.upstream {
        Some(given) if !upstreams.iter().any(|upstream| *upstream.value.name == *given.value) => {
            let hint = suggest(&given.value, upstreams.iter().map(|upstream| &*upstream.value.name));
            reader.problem(given.place, format!("there is no upstream {:?}{hint}", given.value));
        }
        Some(_) => {}
        None if found.lacks("upstream") => reader.problem(place, "[[route]] needs an \"upstream\""),
        None => {}
    }
    let host = found.host.map(|given| given.value.0);
    let path = found.path.map_or_else(|| "/".to_owned(), |given| given.value.0);
    let (name, place) = match &found.name {
        Some(given) => (name(reader, &given.value, given.place, "a route"), given.place),
        None => {
            let listener = found.listener.as_ref().map_or_else(String::new, |listener| format!("{}:", listener.value));
            (format!("{listener}{}{path}", host.as_deref().unwrap_or_default()).into(), place)
        }
    };
    let upstream = found.upstream.map(|given| given.value).unwrap_or_default();
    let route = Route {
        listeners: found.listener.into_iter().map(|given| given.value.into()).collect(),
        hosts: host.into_iter().map(Arc::from).collect(),
        ..Route::new(&name, &path, Action::upstream(&upstream))
    };
    At::new(route, place)
}

/// Notes it if no listener has that name.
pub(super) fn known_listener(reader: &Reader<'_>, given: &At<String>, listeners: &[At<Listener>]) {
    if !listeners.iter().any(|listener| *listener.value.name == *given.value) {
        let hint = suggest(&given.value, listeners.iter().map(|listener| &*listener.value.name));
        reader.problem(given.place, format!("there is no listener {:?}{hint}", given.value));
    }
}

/// Notes the routes that can never be reached, because the realtime server takes their path on all their listeners.
pub(super) fn shadowed(reader: &Reader<'_>, routes: &[At<Route>], listeners: &[At<Listener>], realtime: &Realtime) {
    let serves = |name: &str| realtime.listeners.iter().any(|listener| **listener == *name);
    let api = format!("{}/", realtime.api_path);
    for At { value: route, place } in routes {
        let everywhere = listeners
            .iter()
            .filter(|listener| route.serves(&listener.value.name))
            .all(|listener| serves(&listener.value.name));
        let (PathMatch::Prefix(path) | PathMatch::PrefixFirst(path) | PathMatch::Exact(path)) = &route.path else {
            continue;
        };
        let taken = [&*realtime.path, &api]
            .into_iter()
            .find(|taken| path.starts_with(*taken) || Some(&**path) == taken.strip_suffix('/'));
        if let (true, Some(taken)) = (everywhere, taken) {
            reader.problem(*place, format!("the path {path:?} is never reached: the realtime server takes {taken:?}"));
        }
    }
}
