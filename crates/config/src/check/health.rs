use std::sync::Arc;

use crate::check::{delay, flag, given, number, percent, period, small};
use crate::file::{self, ProbeKind};
use crate::reader::{At, Reader};
use crate::{Breaker, Health, Outlier, Probe, Retry, RetryOn};

/// More tries than this make a failure worse.
const MOST_TRIES: u64 = 100;

pub(super) fn probes(reader: &Reader<'_>, At { value: found, .. }: At<file::Health>) -> Health {
    let default = Health::default();
    let kind = found.r#type.as_ref().map_or(ProbeKind::Http, |given| given.value);
    let places = [
        ("path", found.path.as_ref().map(|given| given.place)),
        ("host", found.host.as_ref().map(|given| given.place)),
        ("status", found.status.as_ref().map(|given| given.place)),
    ];
    for (key, place) in places {
        let unused = match kind {
            ProbeKind::Http => false,
            ProbeKind::Tcp => true,
            ProbeKind::WebSocket => key == "status",
        };
        if let (Some(place), true) = (place, unused) {
            reader.problem(place, format!("{key:?} has no effect with type = {:?}", kind.as_str()));
        }
    }
    let path = found.path.map_or_else(|| Arc::from("/"), |path| path.value.0);
    let host = given(found.host).map(|host| host.value.0);
    let port = u16::try_from(number(reader, found.port, "port", 0, 0..=65_535)).unwrap_or(0);
    Health {
        probe: match kind {
            ProbeKind::Http => {
                Probe::Http { path, host, status: found.status.map(|given| given.value.0).unwrap_or_default() }
            }
            ProbeKind::Tcp => Probe::Tcp,
            ProbeKind::WebSocket => Probe::WebSocket { path, host },
        },
        port: Some(port).filter(|port| *port > 0),
        interval: period(reader, found.interval, "interval", default.interval),
        jitter: percent(reader, found.jitter, "jitter", default.jitter, 0),
        timeout: period(reader, found.timeout, "timeout", default.timeout),
        rise: small(reader, found.rise, "rise", default.rise, 1),
        fall: small(reader, found.fall, "fall", default.fall, 1),
        initially: found.initially.map_or(default.initially, |given| given.value),
    }
}

pub(super) fn outlier(reader: &Reader<'_>, found: file::Outlier) -> Outlier {
    let default = Outlier::default();
    if let Some(At { value: 1..=100, place }) = &found.latency_factor {
        reader.problem(
            *place,
            "\"latency_factor\" must be above 100 percent, such as 300, or half of the servers would go",
        );
    }
    Outlier {
        interval: period(reader, found.interval, "interval", default.interval),
        min_requests: small(reader, found.min_requests, "min_requests", default.min_requests, 1),
        error_rate: percent(reader, found.error_rate, "error_rate", default.error_rate, 1),
        latency_factor: small(reader, found.latency_factor, "latency_factor", default.latency_factor, 0),
        ejection_time: period(reader, found.ejection_time, "ejection_time", default.ejection_time),
        max_ejected: percent(reader, found.max_ejected, "max_ejected", default.max_ejected, 0),
    }
}

pub(super) fn breaker(reader: &Reader<'_>, found: file::Breaker) -> Breaker {
    let default = Breaker::default();
    let half_open = small(reader, found.half_open_requests, "half_open_requests", default.half_open_requests, 1);
    Breaker {
        error_rate: percent(reader, found.error_rate, "error_rate", default.error_rate, 1),
        min_requests: small(reader, found.min_requests, "min_requests", default.min_requests, 1),
        interval: period(reader, found.interval, "interval", default.interval),
        open_for: period(reader, found.open_for, "open_for", default.open_for),
        half_open_requests: half_open,
        max_requests: small(reader, found.max_requests, "max_requests", default.max_requests, 0),
    }
}

pub(super) fn retry(reader: &Reader<'_>, found: file::Retry) -> Retry {
    let default = Retry::default();
    let on = found.on.map_or(default.on, |list| {
        let mut on: Vec<RetryOn> = Vec::new();
        for given in list.value.0 {
            if on.contains(&given.value) {
                reader.problem(given.place, format!("{:?} is there twice", given.value.as_str()));
            }
            on.push(given.value);
        }
        on
    });
    Retry {
        on,
        tries: u32::try_from(number(reader, found.tries, "tries", u64::from(default.tries), 1..=MOST_TRIES))
            .unwrap_or(1),
        timeout: delay(reader, found.timeout, "timeout", default.timeout),
        budget: percent(reader, found.budget, "budget", default.budget, 0),
        non_idempotent: flag(found.non_idempotent, default.non_idempotent),
    }
}
