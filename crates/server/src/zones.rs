//! Zones: what the limits of a config know of its clients. All workers share them, and a reload that leaves a zone's settings as
//! they are keeps what it knows.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Instant;

use ring::hmac;
use tidegate_balance::{ConnectionZone, Entrance, KeyHash, KeyHasher, Rate, RateUse, RateVerdict, RateZone, Told};
use tidegate_config::{Zone as Settings, ZoneKind};
use tidegate_metrics::{Gauge, Metrics};
use tidegate_rules::{Facts, Place as TemplatePlace, Template};

use crate::StartError;

/// A zone with more keys than this is kept in parts with a lock each, so that workers seldom wait for one another.
const WHOLE: usize = 4096;
const PARTS: usize = 16;

/// Zones of one process hash keys alike, so that a zone may outlive its plan.
static HASHER: LazyLock<KeyHasher> = LazyLock::new(|| {
    // Seeded from the system's randomness.
    let random = || u128::from(RandomState::new().hash_one(0u8));
    KeyHasher::new(&(random() << 64 | random()).to_le_bytes())
});

/// What a zone tells apart.
#[derive(Debug)]
enum Key {
    /// `{client_ip}`, hashed as its bytes.
    ClientIp,
    Template(Template),
}

#[derive(Debug)]
enum Counts {
    Rate(Parts<RateZone>),
    Connections(Parts<ConnectionZone>, u32),
}

type Parts<T> = Box<[Mutex<T>]>;

/// One zone.
#[derive(Debug)]
pub(crate) struct Zone {
    name: Arc<str>,
    /// What makes it the same zone after a reload.
    same: (Arc<str>, ZoneKind, usize, bool),
    key: Key,
    counts: Counts,
    began: Instant,
    keys: Gauge,
    /// Of a zone that nodes share: what they all hash their keys with.
    hasher: Option<KeyHasher>,
}

/// The zones of a config, after those of another one. `secret` is that of the cluster.
pub(crate) fn zones(
    settings: &[Settings],
    secret: Option<&[u8]>,
    before: &[Arc<Zone>],
    metrics: &Metrics,
) -> Result<Vec<Arc<Zone>>, StartError> {
    let zone = |zone: &Settings| {
        let same = (zone.key.clone(), zone.kind.clone(), zone.max_keys, zone.shared);
        match before.iter().find(|known| known.name == zone.name && known.same == same) {
            Some(known) => Ok(known.clone()),
            None => Zone::new(zone, secret, metrics).map(Arc::new),
        }
    };
    settings.iter().map(zone).collect()
}

impl Zone {
    fn new(settings: &Settings, secret: Option<&[u8]>, metrics: &Metrics) -> Result<Self, StartError> {
        let fault = |text: String| StartError::Config(format!("limit {:?}: {text}", settings.name));
        let key = if &*settings.key == "{client_ip}" {
            Key::ClientIp
        } else {
            let template = Template::parse(&settings.key, TemplatePlace::Key);
            Key::Template(template.map_err(|error| fault(format!("key: {error}")))?)
        };
        let parts = if settings.max_keys > WHOLE { PARTS } else { 1 };
        let most = settings.max_keys.div_ceil(parts);
        let counts = match settings.kind {
            ZoneKind::Rate(rate) => {
                let rate = u32::try_from(rate.per_1000_seconds()).ok().and_then(Rate::thousandths);
                let rate = rate.ok_or_else(|| fault("the rate is out of range".to_owned()))?;
                let zone = || {
                    let mut zone = RateZone::new(rate, most);
                    if settings.shared {
                        zone.share();
                    }
                    Mutex::new(zone)
                };
                Counts::Rate((0..parts).map(|_| zone()).collect())
            }
            ZoneKind::Connections(connections) => {
                Counts::Connections((0..parts).map(|_| Mutex::new(ConnectionZone::new(most))).collect(), connections)
            }
        };
        Ok(Self {
            name: settings.name.clone(),
            same: (settings.key.clone(), settings.kind.clone(), settings.max_keys, settings.shared),
            key,
            counts,
            began: Instant::now(),
            keys: metrics.zone_keys(&settings.name),
            hasher: secret.filter(|_| settings.shared).map(shared_hasher),
        })
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn counts_connections(&self) -> bool {
        matches!(self.counts, Counts::Connections(..))
    }

    /// What the request counts as here; `None` if its key is empty, so that it is not limited.
    pub fn key<'a>(&self, client: SocketAddr, facts: &dyn Fn() -> Facts<'a>) -> Option<KeyHash> {
        match &self.key {
            Key::ClientIp => Some(match client.ip().to_canonical() {
                IpAddr::V4(address) => self.hasher().hash(&address.octets()),
                IpAddr::V6(address) => self.hasher().hash(&address.octets()),
            }),
            Key::Template(template) => {
                let text = template.text(&facts());
                (!text.is_empty()).then(|| self.hasher().hash(&text))
            }
        }
    }

    fn hasher(&self) -> &KeyHasher {
        self.hasher.as_ref().unwrap_or(&HASHER)
    }

    /// What the other nodes are to be told, part by part; nothing in a zone that is not shared.
    pub fn tell(&self) -> Vec<(usize, Told)> {
        let (Counts::Rate(parts), Some(_)) = (&self.counts, &self.hasher) else { return Vec::new() };
        let of_part = |(at, part): (usize, &Mutex<RateZone>)| {
            let told = part.lock().unwrap_or_else(PoisonError::into_inner).tell();
            told.into_iter().map(move |told| (at, told))
        };
        parts.iter().enumerate().flat_map(of_part).collect()
    }

    /// What came of telling: how far each key is ahead of the rate in all nodes, in the same order; `None`: it has to be
    /// told again.
    pub fn hear(&self, told: &[(usize, Told)], heard: Option<&[u64]>) {
        let Counts::Rate(parts) = &self.counts else { return };
        let now = self.now();
        for (index, (at, told)) in told.iter().enumerate() {
            let Some(part) = parts.get(*at) else { continue };
            let mut zone = part.lock().unwrap_or_else(PoisonError::into_inner);
            match heard.and_then(|heard| heard.get(index)) {
                Some(excess) => zone.hear(told.key, *excess, now),
                None => zone.untell(std::slice::from_ref(told)),
            }
        }
    }

    /// Thousandths of a request per second, in a zone that nodes share.
    pub fn shared_rate(&self) -> Option<u64> {
        match (&self.same.1, &self.hasher) {
            (ZoneKind::Rate(rate), Some(_)) => Some(rate.per_1000_seconds()),
            (ZoneKind::Rate(_) | ZoneKind::Connections(_), _) => None,
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// See [`RateZone::ask`]; `None` for a zone of connections.
    pub fn ask(&self, key: KeyHash, usage: RateUse) -> Option<RateVerdict> {
        self.rate(key, |zone, now| zone.ask(key, usage, now))
    }

    /// See [`RateZone::take`]; `None` for a zone of connections.
    pub fn take(&self, key: KeyHash, usage: RateUse) -> Option<RateVerdict> {
        self.rate(key, |zone, now| zone.take(key, usage, now))
    }

    /// See [`RateZone::account`]; `None` for a zone of connections.
    pub fn account(&self, key: KeyHash, usage: RateUse) -> Option<RateVerdict> {
        self.rate(key, |zone, now| zone.account(key, usage, now))
    }

    fn rate(&self, key: KeyHash, act: impl FnOnce(&mut RateZone, u64) -> RateVerdict) -> Option<RateVerdict> {
        let Counts::Rate(parts) = &self.counts else { return None };
        let now = self.now();
        self.part(parts, key, RateZone::len, |zone| act(zone, now))
    }

    /// One more that is open, until the place is dropped. `None`: there is no room, or the zone is one of rates.
    pub fn enter(self: &Arc<Self>, key: KeyHash) -> Option<Place> {
        let Counts::Connections(parts, most) = &self.counts else { return None };
        let entrance = self.part(parts, key, ConnectionZone::len, |zone| zone.enter(key, *most));
        (entrance == Some(Entrance::Entered)).then(|| Place { zone: self.clone(), key })
    }

    /// Whether one more would be let in.
    pub fn has_room(&self, key: KeyHash) -> bool {
        let Counts::Connections(parts, most) = &self.counts else { return true };
        self.part(parts, key, ConnectionZone::len, |zone| zone.open(key) < *most).unwrap_or(true)
    }

    fn part<T, A>(
        &self,
        parts: &Parts<T>,
        key: KeyHash,
        len: impl Fn(&T) -> usize,
        act: impl FnOnce(&mut T) -> A,
    ) -> Option<A> {
        let part = parts.get(key.spread() % parts.len().max(1))?;
        // A panic elsewhere leaves counts behind that are as good as any.
        let mut zone = part.lock().unwrap_or_else(PoisonError::into_inner);
        let before = len(&zone);
        let answer = act(&mut zone);
        let after = len(&zone);
        drop(zone);
        if before != after {
            self.keys.inc_by(signed(after) - signed(before));
        }
        Some(answer)
    }

    fn len(&self) -> usize {
        fn sum<T>(parts: &Parts<T>, len: impl Fn(&T) -> usize) -> usize {
            parts.iter().map(|part| len(&part.lock().unwrap_or_else(PoisonError::into_inner))).sum()
        }
        match &self.counts {
            Counts::Rate(parts) => sum(parts, RateZone::len),
            Counts::Connections(parts, _) => sum(parts, ConnectionZone::len),
        }
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.keys.dec_by(signed(self.len()));
    }
}

/// Nodes of one cluster have to give a client the same key.
fn shared_hasher(secret: &[u8]) -> KeyHasher {
    let secret = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let wide = hmac::sign(&secret, b"keys of shared limits");
    let mut seed = [0; 16];
    seed.iter_mut().zip(wide.as_ref()).for_each(|(to, from)| *to = *from);
    KeyHasher::new(&seed)
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// One that is open in a zone of connections; counts until dropped.
#[derive(Debug)]
pub(crate) struct Place {
    zone: Arc<Zone>,
    key: KeyHash,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Counts::Connections(parts, _) = &self.zone.counts else { return };
        self.zone.part(parts, self.key, ConnectionZone::len, |zone| zone.leave(self.key));
    }
}
