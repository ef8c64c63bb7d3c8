//! From what stands in a file to a [`Config`]: defaults, names, and what cannot go together.

mod gateway;
mod realtime;
mod rest;

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::file;
use crate::reader::{At, Reader, Size, Span};
use crate::{Config, MAX_WORKERS};

/// Makes the config; what stands in for a value that has a problem does not matter, since the problem is noted.
pub(crate) fn config(reader: &Reader<'_>, file: file::TidegateConfig) -> Config {
    let has_routes = !file.lacks("route");
    let has_realtime_section = !file.lacks("realtime");
    let listeners = gateway::listeners(reader, file.listener);
    let admin = gateway::admin(reader, file.admin, &listeners);
    let upstreams = gateway::upstreams(reader, file.upstream);
    let routes = gateway::routes(reader, file.route, &listeners, &upstreams);
    let switched_off = file
        .realtime
        .as_ref()
        .is_some_and(|realtime| realtime.value.enabled.as_ref().is_some_and(|enabled| !enabled.value));
    let realtime = realtime::realtime(reader, file.realtime, &listeners);
    if let Some(realtime) = &realtime {
        gateway::shadowed(reader, &routes, &listeners, realtime);
    }
    if !has_routes && !has_realtime_section {
        reader.problem(0, "there is nothing to serve: add a [[route]] or a [realtime] section");
    } else if !has_routes && switched_off {
        reader.problem(0, "there is nothing to serve: [realtime] is switched off and there is no [[route]]");
    }
    let store = rest::store(reader, file.store, realtime.as_ref());
    Config {
        workers: u16::try_from(number(reader, file.workers, "workers", 0, 0..=u64::from(MAX_WORKERS))).unwrap_or(0),
        listeners: listeners.into_iter().map(|listener| listener.value).collect(),
        admin,
        upstreams: upstreams.into_iter().map(|upstream| upstream.value).collect(),
        routes: routes.into_iter().map(|route| route.value).collect(),
        realtime,
        store,
        log: rest::log(reader, file.log),
        drain: rest::drain(reader, file.drain),
        ..Config::default()
    }
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
