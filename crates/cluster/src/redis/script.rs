//! The scripts: each is one step that happens as a whole or not at all.

use std::sync::LazyLock;

use super::call::Script;

macro_rules! scripts {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)+) => {
        $($(#[$doc])* pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new($file, include_str!(concat!("scripts/", $file, ".lua"))));)+
    };
}

scripts! {
    /// Gives a message its place, keeps it and announces it.
    PUBLISH = "publish";
    /// A space's counters.
    TOUCH = "touch";
    /// Where a room stands, and what was missed in it.
    ROOM = "room";
    /// Persistent messages by offset.
    PAGE = "page";
    /// Says that a user is in a room.
    LEASE = "lease";
    /// Takes back a dead node's leases in one room.
    END_LEASES = "end_leases";
    /// Stores, claims or drops a session.
    SESSION = "session";
    /// Buckets of limits.
    RATES = "rates";
    /// How many connections a node holds.
    SEAT = "seat";
    /// Values under names.
    VALUE = "value";
}
