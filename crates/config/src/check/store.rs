use crate::check::{bytes, count, path, period};
use crate::file;
use crate::reader::{At, Reader, Span};
use crate::{BrokerKind, Fsync, Realtime, Store, StoreKind};

pub(super) fn store(reader: &Reader<'_>, found: Option<At<file::Store>>, realtime: Option<&Realtime>) -> Store {
    let default = Store::default();
    let Some(At { value: found, place }) = found else { return default };
    let place_of_section = place;
    let embedded = match &found.kind {
        Some(kind) => kind.value == file::StoreKind::Embedded,
        None => !found.lacks("path"),
    };
    let lacks_path = found.lacks("path");
    // A kind that cannot be read contradicts nothing.
    let known = found.kind.is_some() || found.lacks("kind");
    let fsync = fsync(reader, found.fsync, found.fsync_interval, embedded || !known);
    let kind = match (&found.path, embedded) {
        (Some(given), true) => StoreKind::Embedded { path: path(reader, given, "path"), fsync },
        (None, true) if lacks_path => {
            let place = found.kind.as_ref().map_or(place, |kind| kind.place);
            reader.problem(place, "the embedded store needs a \"path\", the directory for its files");
            StoreKind::Memory
        }
        (Some(given), false) if known => {
            reader.problem(given.place, "a store in memory has no \"path\"; set kind = \"embedded\" to keep messages");
            StoreKind::Memory
        }
        (Some(_) | None, _) => StoreKind::Memory,
    };
    if let (Some(realtime), StoreKind::Embedded { .. }) = (realtime, &kind)
        && realtime.broker == BrokerKind::Redis
    {
        let place = found.kind.as_ref().map(|kind| kind.place).or(found.path.as_ref().map(|path| path.place));
        let message = "with realtime's broker = \"redis\" messages are kept in Redis: take \"kind\" and \"path\" out";
        reader.problem(place.unwrap_or(place_of_section), message);
    }
    let queue_bytes = bytes(reader, found.queue_bytes, "queue_bytes", default.queue_bytes);
    if realtime.is_some_and(|realtime| queue_bytes.value < realtime.max_payload) {
        let message =
            "\"queue_bytes\" must be at least realtime's \"max_payload\", or the largest message could never be kept";
        reader.problem(if queue_bytes.place == 0 { place } else { queue_bytes.place }, message);
    }
    Store {
        kind,
        ttl: period(reader, found.ttl, "ttl", default.ttl),
        max_messages_per_room: count(
            reader,
            found.max_messages_per_room,
            "max_messages_per_room",
            default.max_messages_per_room,
            1,
        ),
        max_bytes_per_room: bytes(reader, found.max_bytes_per_room, "max_bytes_per_room", default.max_bytes_per_room)
            .value,
        queue_bytes: queue_bytes.value,
    }
}

fn fsync(reader: &Reader<'_>, found: Option<At<file::FsyncKind>>, interval: Option<At<Span>>, embedded: bool) -> Fsync {
    if let (Some(found), false) = (&found, embedded) {
        reader.problem(found.place, "a store in memory has no \"fsync\"");
    }
    let interval_place = interval.as_ref().map(|interval| interval.place);
    let interval = period(reader, interval, "fsync_interval", std::time::Duration::from_secs(1));
    let fsync = match found.as_ref().map(|found| found.value) {
        None | Some(file::FsyncKind::Always) => Fsync::Always,
        Some(file::FsyncKind::Interval) => return Fsync::Interval(interval),
        Some(file::FsyncKind::Never) => Fsync::Never,
    };
    if let Some(place) = interval_place {
        reader.problem(place, "\"fsync_interval\" is only for fsync = \"interval\"");
    }
    fsync
}
