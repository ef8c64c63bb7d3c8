//! What a node says of itself to the others.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};
use tidegate_types::{NodeId, NodeNumber};

/// The longest record that is read, bytes; ours have some 200.
const MOST_BYTES: usize = 4_096;

/// Which versions of the nodes' protocol a node speaks: that of channels, keys and the internal listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Protocol {
    /// The newest.
    pub speaks: u16,
    /// The oldest that it understands.
    pub since: u16,
}

impl Protocol {
    /// Of this build.
    pub const OWN: Self = Self { speaks: 1, since: 1 };

    /// Whether two nodes understand each other.
    pub fn fits(self, other: Self) -> bool {
        self.speaks >= other.since && other.speaks >= self.since
    }
}

/// What a node does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roles {
    /// It has clients of the realtime server.
    pub realtime: bool,
    /// It passes clients on.
    pub gateway: bool,
}

/// A node as it is known to the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The process.
    pub id: NodeId,
    /// Its number, part of its session ids.
    pub number: NodeNumber,
    /// What operators call it.
    pub name: Box<str>,
    /// Where it is; empty if nobody has said.
    pub zone: Box<str>,
    /// Of the program.
    pub version: Box<str>,
    /// Of the nodes' protocol.
    pub protocol: Protocol,
    /// Its internal listener.
    pub address: SocketAddr,
    /// What it does.
    pub roles: Roles,
    /// It ends: nobody new is sent there.
    pub draining: bool,
}

/// A member's record that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a member's record that is none")]
pub struct InvalidMember;

/// The record as it stands in Redis, for people to read. Keys that a later version adds are no fault.
#[derive(Serialize, Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    name: std::borrow::Cow<'a, str>,
    #[serde(borrow, default)]
    zone: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    version: std::borrow::Cow<'a, str>,
    protocol: Protocol,
    address: SocketAddr,
    roles: Roles,
    #[serde(default)]
    draining: bool,
}

impl Member {
    /// What is told, without id and number, which Redis knows.
    pub fn record(&self) -> String {
        let record = Record {
            name: (&*self.name).into(),
            zone: (&*self.zone).into(),
            version: (&*self.version).into(),
            protocol: self.protocol,
            address: self.address,
            roles: self.roles,
            draining: self.draining,
        };
        // Our own types have no keys that are not text, which is all that could fail.
        serde_json::to_string(&record).unwrap_or_default()
    }

    /// Reads `NUMBER:RECORD`, as the scripts keep it under the node's id.
    ///
    /// # Errors
    /// [`InvalidMember`] for anything else.
    pub fn read(id: &[u8], entry: &[u8]) -> Result<Self, InvalidMember> {
        if entry.len() > MOST_BYTES {
            return Err(InvalidMember);
        }
        let id = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok()).ok_or(InvalidMember)?;
        let entry = std::str::from_utf8(entry).map_err(|_| InvalidMember)?;
        let (number, record) = entry.split_once(':').ok_or(InvalidMember)?;
        let number = number.parse().ok().filter(|number| *number > 0).map(NodeNumber).ok_or(InvalidMember)?;
        let Record { name, zone, version, protocol, address, roles, draining } =
            serde_json::from_str(record).map_err(|_| InvalidMember)?;
        let text = |text: std::borrow::Cow<'_, str>| Box::from(&*text);
        let (name, zone, version) = (text(name), text(zone), text(version));
        Ok(Self { id, number, name, zone, version, protocol, address, roles, draining })
    }
}

#[cfg(test)]
pub(super) fn someone(id: u64, number: u16) -> Member {
    Member {
        id: NodeId(id),
        number: NodeNumber(number),
        name: format!("node-{id}").into(),
        zone: "".into(),
        version: "1.0.0".into(),
        protocol: Protocol::OWN,
        address: ([127, 0, 0, 1], 7946).into(),
        roles: Roles { realtime: true, gateway: false },
        draining: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let member = Member { name: "ä\"\n".into(), zone: "b".into(), draining: true, ..someone(7, 9) };
        let entry = format!("9:{}", member.record());
        assert_eq!(Member::read(b"0000000000000007", entry.as_bytes()), Ok(member));
    }

    #[test]
    fn what_is_no_record_is_refused_and_a_later_versions_keys_are_not() {
        let good = format!("9:{}", someone(7, 9).record());
        let id = b"0000000000000007".as_slice();
        let later = good.replace("\"name\"", "\"colour\":\"red\",\"name\"");
        assert!(Member::read(id, later.as_bytes()).is_ok());
        let long = format!("{good}{}", " ".repeat(MOST_BYTES));
        let bad = [
            "",
            "9",
            "9:",
            "9:{}",
            "0:{}",
            "99999:{}",
            "x:{}",
            &good[1..],
            &good.replace(":7946", ""),
            &long,
            &good.replace("{\"name\"", "{\"nom\""),
        ];
        for entry in bad {
            assert_eq!(Member::read(id, entry.as_bytes()), Err(InvalidMember), "{entry}");
        }
        for id in ["", "7", "000000000000000g", "\u{7f}"] {
            assert_eq!(Member::read(id.as_bytes(), good.as_bytes()), Err(InvalidMember), "{id}");
        }
        assert_eq!(Member::read(id, b"\xff\xfe"), Err(InvalidMember));
    }

    #[test]
    fn protocols_fit_if_each_understands_what_the_other_speaks() {
        let protocol = |speaks, since| Protocol { speaks, since };
        assert!(protocol(1, 1).fits(protocol(1, 1)));
        assert!(protocol(3, 2).fits(protocol(2, 1)));
        assert!(!protocol(3, 3).fits(protocol(2, 1)));
        assert!(!protocol(2, 1).fits(protocol(3, 3)));
    }
}
