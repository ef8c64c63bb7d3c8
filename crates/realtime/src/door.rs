//! The node's door: how many connections there may be, how many of one address, and how fast an address may bring new
//! ones. Who it is that comes is asked later, when the client joins a namespace.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidegate_balance::{ConnectionZone, Entrance, KeyHash, KeyHasher, Rate, RateUse, RateVerdict, RateZone};
use tidegate_types::Millis;
use tokio::sync::Notify;

/// Addresses whose pace is remembered; the least recently seen is forgotten.
const MOST_PACED: usize = 65_536;
/// The part of an IPv6 address that one customer gets; the rest is theirs to choose (RFC 6177).
const IPV6_PREFIX_BITS: u32 = 64;

/// What the door asks; 0 = no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorSettings {
    /// The most connections of this process (Socket.IO sessions, event streams and plain WebSockets together).
    pub connections: usize,
    /// The most connections of one address; of one /64 for IPv6.
    pub connections_per_address: u32,
    /// New connections of one address per second.
    pub connects_per_second: u32,
    /// New connections of one address at once.
    pub connect_burst: u32,
}

impl Default for DoorSettings {
    fn default() -> Self {
        Self { connections: 10_000, connections_per_address: 0, connects_per_second: 0, connect_burst: 0 }
    }
}

/// Why a connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TurnedAway {
    /// The node has as many as it may have.
    Full,
    /// The address has as many as it may have.
    Address,
    /// The address comes too fast; it may come again after so long.
    Pace { retry_after_ms: Millis },
}

pub(crate) struct Door {
    settings: DoorSettings,
    hasher: KeyHasher,
    open: AtomicUsize,
    addresses: Mutex<ConnectionZone>,
    paces: Option<Mutex<RateZone>>,
    emptied: Notify,
}

impl Door {
    /// `secret` keeps clients from choosing addresses that collide in the tables.
    pub fn new(settings: DoorSettings, secret: &[u8; 16]) -> Self {
        let rate = Rate::per_second(settings.connects_per_second);
        Self {
            settings,
            hasher: KeyHasher::new(secret),
            open: AtomicUsize::new(0),
            addresses: Mutex::new(ConnectionZone::new(settings.connections)),
            paces: rate.map(|rate| Mutex::new(RateZone::new(rate, MOST_PACED))),
            emptied: Notify::new(),
        }
    }

    /// Lets a connection of the address in; [`Door::leave`] is to be called once when it ends.
    pub fn enter(&self, address: IpAddr, now: Millis) -> Result<(), TurnedAway> {
        let key = self.hasher.hash(&place(address));
        if let Some(paces) = &self.paces {
            let usage = RateUse { burst: self.settings.connect_burst.saturating_sub(1), undelayed: None };
            let verdict = lock(paces).take(key, usage, now);
            if let RateVerdict::Reject { retry_after_ms, .. } = verdict {
                return Err(TurnedAway::Pace { retry_after_ms });
            }
        }
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.settings.connections {
            self.left();
            return Err(TurnedAway::Full);
        }
        if !self.enter_address(key) {
            self.left();
            return Err(TurnedAway::Address);
        }
        Ok(())
    }

    fn enter_address(&self, key: KeyHash) -> bool {
        let most = self.settings.connections_per_address;
        most == 0 || lock(&self.addresses).enter(key, most) == Entrance::Entered
    }

    /// A connection that had entered has ended.
    pub fn leave(&self, address: IpAddr) {
        if self.settings.connections_per_address > 0 {
            lock(&self.addresses).leave(self.hasher.hash(&place(address)));
        }
        self.left();
    }

    fn left(&self) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.emptied.notify_waiters();
        }
    }

    /// How many are inside.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Resolves when nobody is inside.
    pub async fn emptied(&self) {
        loop {
            let emptied = self.emptied.notified();
            if self.open.load(Ordering::Acquire) == 0 {
                return;
            }
            emptied.await;
        }
    }
}

/// What of an address stands for its owner.
fn place(address: IpAddr) -> [u8; 16] {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & (u128::MAX << (128 - IPV6_PREFIX_BITS))).octets(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8; 16] = b"a fixed secret..";

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_own_limit_and_frees_it_when_it_leaves() {
        let door = Door::new(DoorSettings { connections_per_address: 2, ..DoorSettings::default() }, SECRET);
        let ada = address("192.0.2.1");
        assert_eq!(door.enter(ada, 0), Ok(()));
        assert_eq!(door.enter(ada, 0), Ok(()));
        assert_eq!(door.enter(ada, 0), Err(TurnedAway::Address));
        assert_eq!(door.enter(address("192.0.2.2"), 0), Ok(()));
        assert_eq!(door.open(), 3);
        door.leave(ada);
        assert_eq!(door.enter(ada, 0), Ok(()));
    }

    #[test]
    fn addresses_of_one_ipv6_customer_are_one() {
        let door = Door::new(DoorSettings { connections_per_address: 1, ..DoorSettings::default() }, SECRET);
        assert_eq!(door.enter(address("2001:db8:1:2::1"), 0), Ok(()));
        assert_eq!(door.enter(address("2001:db8:1:2:ffff::9"), 0), Err(TurnedAway::Address));
        assert_eq!(door.enter(address("2001:db8:1:3::1"), 0), Ok(()));
        assert_eq!(door.enter(address("::ffff:192.0.2.1"), 0), Ok(()));
        assert_eq!(door.enter(address("192.0.2.1"), 0), Err(TurnedAway::Address));
    }

    #[test]
    fn a_full_node_turns_everybody_away() {
        let door = Door::new(DoorSettings { connections: 1, ..DoorSettings::default() }, SECRET);
        assert_eq!(door.enter(address("192.0.2.1"), 0), Ok(()));
        assert_eq!(door.enter(address("192.0.2.2"), 0), Err(TurnedAway::Full));
        door.leave(address("192.0.2.1"));
        assert_eq!(door.open(), 0);
        assert_eq!(door.enter(address("192.0.2.2"), 0), Ok(()));
    }

    #[test]
    fn who_comes_too_fast_is_told_when_to_come_again() {
        let settings = DoorSettings { connects_per_second: 2, connect_burst: 3, ..DoorSettings::default() };
        let door = Door::new(settings, SECRET);
        let ada = address("192.0.2.1");
        for _ in 0..3 {
            assert_eq!(door.enter(ada, 1_000), Ok(()));
        }
        let Err(TurnedAway::Pace { retry_after_ms }) = door.enter(ada, 1_000) else { panic!("let in") };
        assert!((1..=500).contains(&retry_after_ms), "{retry_after_ms}");
        assert_eq!(door.enter(ada, 1_000 + retry_after_ms), Ok(()));
        assert_eq!(door.open(), 4, "who was turned away does not count");
    }
}
