use std::sync::Arc;

use crate::check::{burst, count, flag, given, known, name, period, small, status, template};
use crate::file;
use crate::reader::{At, Named, Reader};
use crate::{Admission, Zone, ZoneKind, ZoneUse};

/// The most keys of a zone: a gigabyte or so.
const MOST_KEYS: usize = 16_000_000;

/// The zones, each at the place of its name.
pub(super) fn zones(
    reader: &Reader<'_>,
    found: Option<At<Named<file::Limit>>>,
    has_jwt: bool,
    has_cluster: bool,
) -> Vec<At<Zone>> {
    let found = found.map(|found| found.value.0).unwrap_or_default();
    found.into_iter().map(|(key, found)| At::new(zone(reader, &key, found, has_jwt, has_cluster), key.place)).collect()
}

fn zone(reader: &Reader<'_>, key: &At<String>, found: file::Limit, has_jwt: bool, has_cluster: bool) -> Zone {
    let name = name(reader, &key.value, key.place, "a zone");
    let unread = found.rate.is_none() && !found.lacks("rate");
    let rate = given(found.rate);
    let connections_place = found.connections.as_ref().map(|found| found.place);
    let connections = small(reader, found.connections, "connections", 0, 0);
    let kind = match (rate, connections) {
        (Some(rate), 0) => ZoneKind::Rate(rate.value.0),
        (None, 1..) => {
            let only_rates = [("burst", found.burst.as_ref().filter(|found| found.value > 0).map(|found| found.place))];
            let only_rates = only_rates.into_iter().chain([
                ("nodelay", found.nodelay.as_ref().filter(|found| found.value).map(|found| found.place)),
                ("delay", found.delay.as_ref().filter(|found| found.value > 0).map(|found| found.place)),
            ]);
            for (key, place) in only_rates {
                if let Some(place) = place {
                    reader.problem(place, format!("a zone of connections has no {key:?}: that is for rates"));
                }
            }
            ZoneKind::Connections(connections)
        }
        (Some(rate), 1..) => {
            let place = connections_place.unwrap_or(rate.place);
            reader.problem(place, "a zone has a \"rate\" or \"connections\", not both: make it two zones");
            ZoneKind::Rate(rate.value.0)
        }
        (None, 0) => {
            if !unread {
                let message = format!("the zone {name:?} needs a \"rate\", such as \"10r/s\", or \"connections\"");
                reader.problem(key.place, message);
            }
            ZoneKind::Connections(0)
        }
    };
    let shared_place = found.shared.as_ref().filter(|found| found.value).map(|found| found.place);
    match (&kind, shared_place) {
        (ZoneKind::Connections(_), Some(place)) => {
            reader.problem(place, "connections are counted by each node: \"shared\" is for rates");
        }
        (ZoneKind::Rate(_), Some(place)) if !has_cluster => {
            reader.problem(place, "\"shared\" needs a [cluster] section: it says through which Redis");
        }
        (ZoneKind::Rate(_) | ZoneKind::Connections(_), _) => {}
    }
    let max_keys = count(reader, found.max_keys.clone(), "max_keys", 100_000, 1);
    if let Some(given) = found.max_keys.filter(|_| max_keys > MOST_KEYS) {
        reader.problem(given.place, format!("\"max_keys\" must be at most {MOST_KEYS}"));
    }
    Zone {
        name,
        key: found.key.map_or_else(|| Arc::from("{client_ip}"), |key| template(reader, key, has_jwt)),
        kind,
        burst: small(reader, found.burst, "burst", 0, 0),
        nodelay: flag(found.nodelay, false),
        delay: small(reader, found.delay, "delay", 0, 0),
        status: status(reader, found.status, 429, 400..=599),
        dry_run: flag(found.dry_run, false),
        max_keys,
        shared: flag(found.shared, false),
    }
}

/// Zones as they are, by name.
pub(super) fn named(reader: &Reader<'_>, names: Vec<At<String>>, zones: &[At<Zone>]) -> Vec<ZoneUse> {
    let mut uses: Vec<ZoneUse> = Vec::new();
    for given in names {
        if let Some(zone) = find(reader, &given, zones) {
            push(reader, &mut uses, zone.plain_use(), given.place);
        }
    }
    uses
}

/// A zone with values of its own.
pub(super) fn special(reader: &Reader<'_>, found: At<file::RouteLimit>, zones: &[At<Zone>], uses: &mut Vec<ZoneUse>) {
    let At { value: found, place } = found;
    let lacks_zone = found.lacks("zone");
    let Some(given) = found.zone else {
        if lacks_zone {
            reader.problem(place, "[[route.limit]] needs a \"zone\", the name of a [limit.NAME]");
        }
        return;
    };
    let Some(zone) = find(reader, &given, zones) else { return };
    if let ZoneKind::Connections(_) = zone.kind {
        let only_rates = [
            ("burst", found.burst.as_ref().map(|found| found.place)),
            ("nodelay", found.nodelay.as_ref().map(|found| found.place)),
            ("delay", found.delay.as_ref().map(|found| found.place)),
        ];
        for (key, place) in only_rates {
            if let Some(place) = place {
                let message = format!("the zone {:?} counts connections and has no {key:?}", given.value);
                reader.problem(place, message);
            }
        }
    }
    let plain = zone.plain_use();
    let special = ZoneUse {
        burst: small(reader, found.burst, "burst", plain.burst, 0),
        nodelay: flag(found.nodelay, plain.nodelay),
        delay: small(reader, found.delay, "delay", plain.delay, 0),
        dry_run: flag(found.dry_run, plain.dry_run),
        status: status(reader, found.status, plain.status, 400..=599),
        zone: plain.zone,
    };
    push(reader, uses, special, given.place);
}

fn find<'a>(reader: &Reader<'_>, given: &At<String>, zones: &'a [At<Zone>]) -> Option<&'a Zone> {
    known(reader, given, "zone", zones.iter().map(|zone| &*zone.value.name));
    zones.iter().map(|zone| &zone.value).find(|zone| *zone.name == *given.value)
}

fn push(reader: &Reader<'_>, uses: &mut Vec<ZoneUse>, new: ZoneUse, place: usize) {
    if uses.iter().any(|known| known.zone == new.zone) {
        reader.problem(place, format!("the zone {:?} is named twice here; a request would count twice", new.zone));
    }
    uses.push(new);
}

pub(super) fn admission(reader: &Reader<'_>, found: Option<At<file::Admission>>) -> Admission {
    let default = Admission::default();
    let Some(At { value: found, .. }) = found else { return default };
    let streams_per_second = small(reader, found.streams_per_second, "streams_per_second", 0, 0);
    Admission {
        streams_per_second,
        burst: burst(reader, found.burst, "burst", streams_per_second, "streams_per_second"),
        retry_after: period(reader, found.retry_after, "retry_after", default.retry_after),
    }
}
