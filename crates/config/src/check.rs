//! From what stands in a file to a [`Config`]: defaults, names, and what cannot go together.

mod api_key;
mod cluster;
mod dialect;
mod headers;
mod health;
mod interop;
mod limit;
mod listener;
mod namespace;
mod operation;
mod overlap;
mod realtime;
mod route;
mod secret;
mod store;
mod streams;
mod tokens;
mod upstream;
mod webhook;

pub use dialect::built_in_dialects;
pub(crate) use namespace::{namespaces_by_default, namespaces_by_themselves};

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::file;
use crate::reader::{At, Optional, Reader, Size, Span, Templated};
use crate::text::suggest;
use crate::{Config, Listener, MAX_WORKERS, Upstream, Zone};

/// The longest name of a listener, upstream, zone or route, in bytes.
const MAX_NAME_BYTES: usize = 128;

/// What parts of a file may refer to.
#[derive(Clone, Copy)]
struct Known<'a> {
    listeners: &'a [At<Listener>],
    upstreams: &'a [At<Upstream>],
    zones: &'a [At<Zone>],
    /// Whether there is a `[jwt]` section.
    jwt: bool,
    /// Whether there is a `[cluster]` section.
    cluster: bool,
}

impl Known<'_> {
    fn listener(&self, reader: &Reader<'_>, given: &At<String>) {
        known(reader, given, "listener", self.listeners.iter().map(|listener| &*listener.value.name));
    }

    fn upstream(&self, reader: &Reader<'_>, given: &At<String>) {
        known(reader, given, "upstream", self.upstreams.iter().map(|upstream| &*upstream.value.name));
    }
}

/// Makes the config; what stands in for a value that has a problem does not matter, since the problem is noted.
pub(crate) fn config(reader: &Reader<'_>, file: file::TidegateConfig) -> Config {
    let production = flag(file.production.clone(), false);
    if production {
        reader.expect_production();
    }
    let has_routes = !file.lacks("route");
    let has_realtime_section = !file.lacks("realtime");
    let has_jwt = !file.lacks("jwt");
    let has_cluster = !file.lacks("cluster");
    let zones = limit::zones(reader, file.limit, has_jwt, has_cluster);
    let listeners = listener::listeners(reader, file.listener, &zones);
    let admin = listener::admin(reader, file.admin, &listeners);
    let upstreams = upstream::upstreams(reader, file.upstream, has_jwt, has_cluster);
    let known =
        Known { listeners: &listeners, upstreams: &upstreams, zones: &zones, jwt: has_jwt, cluster: has_cluster };
    let routes = route::routes(reader, file.route, file.defaults, known);
    let switched_off = file
        .realtime
        .as_ref()
        .is_some_and(|realtime| realtime.value.enabled.as_ref().is_some_and(|enabled| !enabled.value));
    let dialects = dialect::dialects(reader, file.dialect);
    let cluster = cluster::cluster(reader, file.cluster);
    let realtime = realtime::realtime(reader, file.realtime, known, &dialects, cluster.as_ref());
    if let Some(realtime) = &realtime {
        overlap::shadowed(reader, &routes, &listeners, realtime);
    }
    let redirects = listeners.iter().any(|listener| listener.value.redirect_https.is_some());
    if !has_routes && !has_realtime_section && !redirects {
        reader.problem(0, "there is nothing to serve: add a [[route]] or a [realtime] section");
    } else if !has_routes && switched_off && !redirects {
        reader.problem(0, "there is nothing to serve: [realtime] is switched off and there is no [[route]]");
    }
    let store = store::store(reader, file.store, realtime.as_ref());
    Config {
        workers: u16::try_from(number(reader, file.workers, "workers", 0, 0..=u64::from(MAX_WORKERS))).unwrap_or(0),
        production,
        max_connections: small(reader, file.max_connections, "max_connections", 0, 0),
        client: listener::client(reader, file.client),
        admission: limit::admission(reader, file.admission),
        jwt: operation::jwt(reader, file.jwt),
        log: operation::log(reader, file.log, has_jwt),
        trace: operation::trace(reader, file.trace),
        reload: operation::reload(file.reload),
        drain: operation::drain(reader, file.drain),
        listeners: values(listeners),
        admin,
        upstreams: values(upstreams),
        zones: values(zones),
        routes: values(routes),
        realtime,
        dialects: values(dialects),
        cluster,
        store,
    }
}

fn values<T>(found: Vec<At<T>>) -> Vec<T> {
    found.into_iter().map(|found| found.value).collect()
}

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

/// Notes it if there is nothing of that name.
fn known<'a>(reader: &Reader<'_>, given: &At<String>, what: &str, names: impl Iterator<Item = &'a str> + Clone) {
    if !names.clone().any(|name| *name == *given.value) {
        let hint = suggest(&given.value, names);
        reader.problem(given.place, format!("there is no {what} {:?}{hint}", given.value));
    }
}

/// The text of a template; notes it if it asks for claims that nobody checks.
fn template(reader: &Reader<'_>, given: At<impl Into<Templated>>, has_jwt: bool) -> Arc<str> {
    let Templated { text, claims: asked } = given.value.into();
    claims(reader, asked, given.place, has_jwt);
    text
}

fn claims(reader: &Reader<'_>, asked: bool, place: usize, has_jwt: bool) {
    if asked && !has_jwt {
        reader.problem(place, "{claim.NAME} needs tokens that are checked: add a [jwt] section with their secret");
    }
}

/// What a key holds, if it is there and not empty.
fn given<T>(found: Option<At<Optional<T>>>) -> Option<At<T>> {
    let At { value: Optional(value), place } = found?;
    value.map(|value| At::new(value, place))
}

fn flag(found: Option<At<bool>>, default: bool) -> bool {
    found.map_or(default, |found| found.value)
}

/// A number inside its range, or the default.
fn number(reader: &Reader<'_>, found: Option<At<u64>>, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
    let Some(At { value, place }) = found else { return default };
    if !range.contains(&value) {
        let (low, high) = (range.start(), range.end());
        let wanted =
            if *high >= u64::from(u32::MAX) { format!("at least {low}") } else { format!("from {low} to {high}") };
        reader.problem(place, format!("{key:?} must be {wanted}, not {value}"));
    }
    value
}

fn count(reader: &Reader<'_>, found: Option<At<u64>>, key: &str, default: usize, low: u64) -> usize {
    let default = u64::try_from(default).unwrap_or(u64::MAX);
    usize::try_from(number(reader, found, key, default, low..=u64::from(u32::MAX))).unwrap_or(usize::MAX)
}

fn small(reader: &Reader<'_>, found: Option<At<u64>>, key: &str, default: u32, low: u32) -> u32 {
    let range = u64::from(low)..=u64::from(u32::MAX);
    u32::try_from(number(reader, found, key, u64::from(default), range)).unwrap_or(u32::MAX)
}

/// The longest duration that makes sense; beyond it, sums of times could overflow.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 3600);

/// A duration above zero.
fn period(reader: &Reader<'_>, found: Option<At<Span>>, key: &str, default: Duration) -> Duration {
    let Some(At { value: Span(value), place }) = found else { return default };
    if value.is_zero() {
        reader.problem(place, format!("{key:?} must be longer than 0"));
    }
    at_most(reader, value, place, key)
}

/// A duration that may be zero.
fn delay(reader: &Reader<'_>, found: Option<At<Span>>, key: &str, default: Duration) -> Duration {
    let Some(At { value: Span(value), place }) = found else { return default };
    at_most(reader, value, place, key)
}

fn at_most(reader: &Reader<'_>, value: Duration, place: usize, key: &str) -> Duration {
    if value > LONGEST {
        reader.problem(place, format!("{key:?} must be at most 366d"));
    }
    value
}

/// A percentage.
fn percent(reader: &Reader<'_>, found: Option<At<u64>>, key: &str, default: u8, low: u64) -> u8 {
    u8::try_from(number(reader, found, key, u64::from(default), low..=100)).unwrap_or(100)
}

/// A status code.
fn status(reader: &Reader<'_>, found: Option<At<u64>>, default: u16, range: RangeInclusive<u64>) -> u16 {
    u16::try_from(number(reader, found, "status", u64::from(default), range)).unwrap_or(default)
}

/// A number of bytes that may be zero.
fn amount(reader: &Reader<'_>, found: Option<At<Size>>, key: &str, default: u64) -> u64 {
    let Some(At { value: Size(value), place }) = found else { return default };
    if value > 1 << 40 {
        reader.problem(place, format!("{key:?} must be at most 1024GiB"));
    }
    value
}

/// What may come at once, of which 0 is as much as comes per second.
fn burst(reader: &Reader<'_>, found: Option<At<u64>>, key: &str, rate: u32, rate_key: &str) -> u32 {
    let Some(At { value: 1.., place }) = found else { return rate };
    if rate == 0 {
        reader.problem(place, format!("{key:?} has no effect without {rate_key:?}"));
    }
    small(reader, found, key, rate, 0)
}

/// A number of bytes above zero.
fn bytes(reader: &Reader<'_>, found: Option<At<Size>>, key: &str, default: usize) -> At<usize> {
    let Some(At { value: Size(value), place }) = found else { return At::new(default, 0) };
    let value = usize::try_from(value).unwrap_or(usize::MAX);
    if !(1..=1 << 40).contains(&value) {
        reader.problem(place, format!("{key:?} must be from 1 byte to 1024GiB"));
    }
    At::new(value, place)
}

/// A path of the file system.
fn path(reader: &Reader<'_>, found: &At<String>, key: &str) -> PathBuf {
    if found.value.is_empty() {
        reader.problem(found.place, format!("{key:?} must not be empty"));
    }
    reader.resolve(&found.value)
}
