//! A ketama ring: 160 places for each unit of a server's weight, as nginx's `hash … consistent` and
//! Cache::Memcached::Fast place them.

use std::sync::Arc;

use super::crc32::Crc32;
use super::peer::Peer;

/// Places for a weight of 1.
const PLACES: usize = 160;

/// A weight beyond this gets no more places: 1.3 MB for a server are enough.
const MAX_WEIGHT: u32 = 1000;

/// No server.
const NONE: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Ring {
    /// In order, each hash once.
    points: Vec<Point>,
    /// What the points were made from.
    servers: Vec<(Arc<str>, u32)>,
    /// For each peer of the group the number of its server.
    of_peer: Vec<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    hash: u32,
    server: u32,
}

impl Ring {
    /// Places these peers, without the backups. Nothing is computed again unless servers or weights have changed.
    pub(super) fn place<'a>(&mut self, peers: impl Iterator<Item = &'a Peer>) {
        let mut servers: Vec<(Arc<str>, u32)> = Vec::new();
        self.of_peer.clear();
        for peer in peers {
            if peer.settings.backup {
                self.of_peer.push(NONE);
                continue;
            }
            let weight = peer.settings.weight.clamp(1, MAX_WEIGHT);
            let number = match servers.iter_mut().position(|(name, _)| **name == *peer.server) {
                Some(number) => {
                    if let Some((_, most)) = servers.get_mut(number) {
                        // Its places begin with those of the smaller weight.
                        *most = weight.max(*most);
                    }
                    number
                }
                None => {
                    servers.push((peer.server.clone(), weight));
                    servers.len() - 1
                }
            };
            self.of_peer.push(u32::try_from(number).unwrap_or(NONE));
        }
        if servers != self.servers {
            self.points = points(&servers);
            self.servers = servers;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.points.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.points.len()
    }

    /// The first place at or behind a hash. May be one beyond the last, which is the first again.
    pub(super) fn place_of(&self, hash: u32) -> u32 {
        u32::try_from(self.points.partition_point(|point| point.hash < hash)).unwrap_or(0)
    }

    /// Whose place it is.
    pub(super) fn server(&self, place: u32) -> u32 {
        let count = self.points.len().max(1);
        let place = usize::try_from(place).unwrap_or(0) % count;
        self.points.get(place).map_or(NONE, |point| point.server)
    }

    /// The number of a peer's server.
    pub(super) fn server_of(&self, peer: usize) -> u32 {
        self.of_peer.get(peer).copied().unwrap_or(NONE)
    }
}

fn points(servers: &[(Arc<str>, u32)]) -> Vec<Point> {
    let mut points = Vec::new();
    for (number, (name, weight)) in (0u32..).zip(servers) {
        let (host, port) = host_and_port(name);
        let mut base = Crc32::new();
        base.update(host.as_bytes());
        base.update(&[0]);
        base.update(port.as_bytes());
        let mut previous = 0u32;
        for _ in 0..PLACES * usize::try_from(*weight).unwrap_or(1) {
            let mut crc = base;
            crc.update(&previous.to_le_bytes());
            previous = crc.value();
            points.push(Point { hash: previous, server: number });
        }
    }
    // Stable: of two servers with the same place the first has it.
    points.sort_by_key(|point| point.hash);
    points.dedup_by_key(|point| point.hash);
    points.shrink_to_fit();
    points
}

/// As nginx takes them apart: digits behind the last colon are a port; a Unix socket has none.
fn host_and_port(name: &str) -> (&str, &str) {
    if let Some((scheme, path)) = name.split_at_checked(5)
        && scheme.eq_ignore_ascii_case("unix:")
    {
        return (path, "");
    }
    match name.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (host, port),
        Some(_) | None => (name, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_ports_are_told_apart_as_in_nginx() {
        assert_eq!(host_and_port("10.0.0.1:3000"), ("10.0.0.1", "3000"));
        assert_eq!(host_and_port("app"), ("app", ""));
        assert_eq!(host_and_port("app:"), ("app", ""));
        assert_eq!(host_and_port("[::1]:80"), ("[::1]", "80"));
        assert_eq!(host_and_port("[::1]"), ("[::1]", ""));
        assert_eq!(host_and_port("UNIX:/run/a:1"), ("/run/a:1", ""));
    }
}
