use std::sync::Arc;

use crate::check::overlap::Overlap;
use crate::check::{Known, amount, given, headers, limit, name, operation, period, status, streams, template};
use crate::file;
use crate::reader::{At, List, Reader, Span};
use crate::{
    AccessFormat, AccessLog, Action, Cors, HeaderChanges, JwtMode, PathChange, PathMatch, Patience, Route,
    SecurityHeaders, ZoneUse,
};

/// What holds for routes that do not say it themselves; `None` says nothing.
#[derive(Default)]
struct Defaults {
    limits: Option<Vec<ZoneUse>>,
    access: Vec<Arc<str>>,
    security: Option<SecurityHeaders>,
    /// The values of a route that only switches the preset on.
    preset: SecurityHeaders,
    jwt: Option<JwtMode>,
    log: Option<AccessLog>,
    log_format: Option<AccessFormat>,
    request_headers: HeaderChanges,
    response_headers: HeaderChanges,
    cors: Option<Cors>,
}

fn defaults(reader: &Reader<'_>, found: Option<At<file::Defaults>>, known: Known<'_>) -> Defaults {
    let Some(At { value: found, .. }) = found else { return Defaults::default() };
    let preset = found.security.map(|security| headers::security(security.value));
    let on = security_on(reader, found.security_headers.as_ref(), preset.is_some(), false);
    let limits = limit::named(reader, found.limits.map(|list| list.value.0).unwrap_or_default(), known.zones);
    let jwt = jwt(reader, found.jwt.as_ref(), JwtMode::Off, known);
    Defaults {
        limits: (!limits.is_empty()).then_some(limits),
        access: access(found.access).unwrap_or_default(),
        security: on.then(|| preset.clone().unwrap_or_default()),
        preset: preset.unwrap_or_default(),
        jwt: Some(jwt),
        log: given(found.log).map(|log| operation::access(reader, &log, "log")),
        log_format: given(found.log_format).map(|look| operation::access_format(reader, look, known.jwt)),
        request_headers: found
            .request_headers
            .map(|changes| headers::request(reader, changes.value, known.jwt))
            .unwrap_or_default(),
        response_headers: found
            .response_headers
            .map(|changes| headers::response(reader, changes.value, known.jwt))
            .unwrap_or_default(),
        cors: found.cors.map(|cors| headers::cors(reader, cors)),
    }
}

/// The routes, each at the place of its path, or else of itself.
pub(super) fn routes(
    reader: &Reader<'_>,
    found: Option<At<List<file::Route>>>,
    defaults: Option<At<file::Defaults>>,
    known: Known<'_>,
) -> Vec<At<Route>> {
    let defaults = self::defaults(reader, defaults, known);
    let mut overlap = Overlap::default();
    let mut routes: Vec<At<Route>> = Vec::new();
    for At { value: found, place } in found.map(|found| found.value.0).unwrap_or_default() {
        let path_place = found.path.as_ref().map_or(place, |path| path.place);
        let name_place = found.name.as_ref().map_or(place, |name| name.place);
        // A route whose conditions cannot be read would seem to be the one for everything.
        let unreadable = found.path.is_none() && !found.lacks("path")
            || found.host.is_none() && !found.lacks("host")
            || found.listener.is_none() && !found.lacks("listener")
            || incomplete(&found.hosts, found.lacks("hosts"))
            || incomplete(&found.listeners, found.lacks("listeners"))
            || incomplete(&found.methods, found.lacks("methods"))
            || incomplete(&found.headers, found.lacks("headers"));
        let route = route(reader, found, place, &defaults, known);
        if unreadable {
            continue;
        }
        overlap.take(reader, &route, path_place, name_place);
        routes.push(At::new(route, path_place));
    }
    routes
}

/// Whether a list is there that cannot be read, or of which nothing could.
fn incomplete<T>(found: &Option<At<List<T>>>, lacks: bool) -> bool {
    found.is_none() && !lacks || found.as_ref().is_some_and(|list| list.value.0.len() < list.value.1)
}

fn route(reader: &Reader<'_>, mut found: file::Route, place: usize, defaults: &Defaults, known: Known<'_>) -> Route {
    let path = found.path.as_ref().map_or_else(|| PathMatch::Prefix("/".into()), |given| given.value.0.clone());
    let listeners = joined(reader, given(found.listener.take()), found.listeners.take(), "listener");
    listeners.iter().for_each(|name| known.listener(reader, name));
    let hosts = joined(
        reader,
        given(found.host.take()).map(|host| At::new(host.value.0, host.place)),
        found.hosts.take().map(|list| {
            let hosts = list.value.0.into_iter().map(|host| At::new(host.value.0, host.place)).collect();
            At::new(List(hosts, list.value.1), list.place)
        }),
        "host",
    );
    let texts = |found: Vec<At<String>>| found.into_iter().map(|text| Arc::from(text.value)).collect::<Vec<Arc<str>>>();
    let (listeners, hosts) = (texts(listeners), texts(hosts));
    let methods: Vec<Arc<str>> =
        found.methods.take().into_iter().flat_map(|list| list.value.0).map(|method| method.value.0).collect();
    let conditions = found.headers.take().into_iter().flat_map(|list| list.value.0).map(|line| line.value.0).collect();
    let name = match &found.name {
        Some(given) => name(reader, &given.value, given.place, "a route"),
        None => {
            let methods = if methods.is_empty() { String::new() } else { format!("{} ", methods.join(",")) };
            let listener = listeners.first().map_or_else(String::new, |listener| format!("{listener}:"));
            format!("{methods}{listener}{}{path}", hosts.first().map_or("", |host| &**host)).into()
        }
    };
    let action = action(reader, &mut found, place, &path, known);
    let security_values = found.security.map(|security| headers::security(security.value));
    let security =
        security_on(reader, found.security_headers.as_ref(), security_values.is_some(), defaults.security.is_some())
            .then(|| security_values.unwrap_or_else(|| defaults.preset.clone()));
    let jwt = jwt(reader, found.jwt.as_ref(), defaults.jwt.unwrap_or(JwtMode::Off), known);
    let limits = limits(reader, found.limits, found.limit, defaults, known);
    Route {
        name,
        listeners,
        hosts,
        path,
        methods,
        headers: conditions,
        action,
        limits,
        access: access(found.access).unwrap_or_else(|| defaults.access.clone()),
        jwt,
        max_body: amount(reader, found.max_body, "max_body", 0),
        request_headers: found.request_headers.map_or_else(
            || defaults.request_headers.clone(),
            |changes| headers::request(reader, changes.value, known.jwt),
        ),
        response_headers: found.response_headers.map_or_else(
            || defaults.response_headers.clone(),
            |changes| headers::response(reader, changes.value, known.jwt),
        ),
        security,
        cors: found.cors.map_or_else(|| defaults.cors.clone(), |cors| Some(headers::cors(reader, cors))),
        websocket: found.websocket.map(|found| streams::websocket(reader, found.value, known.jwt)).unwrap_or_default(),
        sse: found.sse.map(|found| streams::events(reader, found.value)).unwrap_or_default(),
        log: given(found.log).map_or_else(|| defaults.log.clone(), |log| Some(operation::access(reader, &log, "log"))),
        log_format: given(found.log_format).map_or_else(
            || defaults.log_format.clone(),
            |look| Some(operation::access_format(reader, look, known.jwt)),
        ),
    }
}

/// One and several of a thing, as one list without doubles.
fn joined(
    reader: &Reader<'_>,
    one: Option<At<String>>,
    several: Option<At<List<String>>>,
    what: &str,
) -> Vec<At<String>> {
    let mut all: Vec<At<String>> = Vec::new();
    for next in one.into_iter().chain(several.into_iter().flat_map(|list| list.value.0)) {
        if all.iter().any(|known| known.value == next.value) {
            reader.problem(next.place, format!("the {what} {:?} is there twice", next.value));
        } else {
            all.push(next);
        }
    }
    all
}

fn access(found: Option<At<List<crate::reader::AccessLine>>>) -> Option<Vec<Arc<str>>> {
    found.map(|list| list.value.0.into_iter().map(|rule| rule.value.0).collect())
}

fn jwt(reader: &Reader<'_>, found: Option<&At<JwtMode>>, default: JwtMode, known: Known<'_>) -> JwtMode {
    let Some(found) = found else { return default };
    if found.value != JwtMode::Off && !known.jwt {
        let message = format!("jwt = {:?} needs a [jwt] section with the secret of the tokens", found.value.as_str());
        reader.problem(found.place, message);
    }
    found.value
}

/// Whether there are security headers, given the switch, the values beside it, and what holds otherwise.
fn security_on(reader: &Reader<'_>, switch: Option<&At<bool>>, has_values: bool, default: bool) -> bool {
    match switch {
        Some(At { value: false, place }) if has_values => {
            reader.problem(
                *place,
                "security_headers = false contradicts the security section beside it; take one of both out",
            );
            false
        }
        Some(switch) => switch.value,
        None => has_values || default,
    }
}

fn limits(
    reader: &Reader<'_>,
    names: Option<At<List<String>>>,
    special: Option<At<List<file::RouteLimit>>>,
    defaults: &Defaults,
    known: Known<'_>,
) -> Option<Vec<ZoneUse>> {
    if names.is_none() && special.is_none() {
        return defaults.limits.clone();
    }
    let mut uses = limit::named(reader, names.map(|list| list.value.0).unwrap_or_default(), known.zones);
    for found in special.map(|list| list.value.0).unwrap_or_default() {
        limit::special(reader, found, known.zones, &mut uses);
    }
    Some(uses)
}

fn action(reader: &Reader<'_>, found: &mut file::Route, place: usize, path: &PathMatch, known: Known<'_>) -> Action {
    let unread = ["upstream", "redirect", "respond", "stub_status"].into_iter().any(|key| !found.lacks(key))
        && found.upstream.is_none()
        && found.redirect.is_none()
        && found.respond.is_none()
        && found.stub_status.is_none();
    let upstream = given(found.upstream.take());
    let redirect = given(found.redirect.take());
    let respond = found.respond.take();
    let stub_status = found.stub_status.take().filter(|given| given.value);
    let places = [
        ("upstream", upstream.as_ref().map(|given| given.place)),
        ("redirect", redirect.as_ref().map(|given| given.place)),
        ("respond", respond.as_ref().map(|given| given.place)),
        ("stub_status", stub_status.as_ref().map(|given| given.place)),
    ];
    let mut places: Vec<(usize, &str)> =
        places.into_iter().filter_map(|(key, place)| place.map(|place| (place, key))).collect();
    places.sort_unstable();
    match (places.first(), places.get(1)) {
        (Some((_, first)), Some((second_place, second))) => reader.problem(
            *second_place,
            format!("a route does one thing: this one has {first:?} and {second:?}; take one of both out or make it two routes"),
        ),
        (None, _) if !unread => reader.problem(
            place,
            "[[route]] needs something to do: an \"upstream\", a \"redirect\", [route.respond] or stub_status = true",
        ),
        (Some(_) | None, _) => {}
    }
    let to_upstream = upstream.is_some() || unread;
    let patience = patience(reader, found, to_upstream);
    let change = path_change(reader, found, path, to_upstream);
    let redirect_status = redirect_status(reader, found.redirect_status.take(), redirect.is_some());
    if let Some(given) = upstream {
        known.upstream(reader, &given);
        Action::Upstream { name: given.value.into(), path: change, patience }
    } else if let Some(to) = redirect {
        Action::Redirect { to: template(reader, to, known.jwt), status: redirect_status }
    } else if let Some(At { value: found, .. }) = respond {
        let body = found.body.map(|body| template(reader, body, known.jwt));
        Action::Respond {
            status: status(reader, found.status, 200, 200..=599),
            body: body.unwrap_or_else(|| "".into()),
            content_type: found.content_type.map_or_else(|| "text/plain; charset=utf-8".into(), |given| given.value.0),
        }
    } else if stub_status.is_some() {
        Action::StubStatus
    } else {
        Action::upstream("")
    }
}

fn redirect_status(reader: &Reader<'_>, found: Option<At<u64>>, redirects: bool) -> u16 {
    let Some(At { value, place }) = found else { return 308 };
    if !matches!(value, 301 | 302 | 303 | 307 | 308) {
        reader.problem(place, format!("\"redirect_status\" must be 301, 302, 303, 307 or 308, not {value}"));
    } else if !redirects && value != 308 {
        reader.problem(place, "\"redirect_status\" has no effect without a \"redirect\"");
    }
    u16::try_from(value).unwrap_or(308)
}

fn path_change(reader: &Reader<'_>, found: &mut file::Route, path: &PathMatch, to_upstream: bool) -> PathChange {
    let strip = found.strip_prefix.take().filter(|given| given.value);
    let replace = given(found.replace_prefix.take());
    for (key, place) in [
        ("strip_prefix", strip.as_ref().map(|given| given.place)),
        ("replace_prefix", replace.as_ref().map(|given| given.place)),
    ] {
        let Some(place) = place else { continue };
        match path {
            _ if !to_upstream => reader.problem(place, format!("{key:?} has no effect without an \"upstream\"")),
            PathMatch::Regex { .. } => reader.problem(
                place,
                format!("{key:?} needs a path that is a prefix: a regular expression says not what its prefix is"),
            ),
            PathMatch::Exact(_) if key == "strip_prefix" => {
                reader.problem(
                    place,
                    "\"strip_prefix\" would leave nothing of a path that must be exact; use \"replace_prefix\"",
                );
            }
            PathMatch::Exact(_) | PathMatch::Prefix(_) | PathMatch::PrefixFirst(_) => {}
        }
    }
    match (strip, replace) {
        (Some(strip), Some(replace)) => {
            let place = strip.place.max(replace.place);
            reader
                .problem(place, "\"strip_prefix\" and \"replace_prefix\" contradict each other; take one of both out");
            PathChange::Strip
        }
        (Some(_), None) => PathChange::Strip,
        (None, Some(replace)) => PathChange::Replace(replace.value.0.into()),
        (None, None) => PathChange::Keep,
    }
}

fn patience(reader: &Reader<'_>, found: &mut file::Route, to_upstream: bool) -> Patience {
    let time = |found: Option<At<Span>>, key: &str| {
        let found = found?;
        if !to_upstream {
            reader.problem(found.place, format!("{key:?} has no effect without an \"upstream\""));
        }
        Some(period(reader, Some(found), key, std::time::Duration::ZERO))
    };
    Patience {
        read_timeout: time(found.read_timeout.take(), "read_timeout"),
        send_timeout: time(found.send_timeout.take(), "send_timeout"),
        stream_timeout: time(found.stream_timeout.take(), "stream_timeout"),
        tunnel_idle_timeout: time(found.tunnel_idle_timeout.take(), "tunnel_idle_timeout"),
        handshake_timeout: time(found.handshake_timeout.take(), "handshake_timeout"),
    }
}
