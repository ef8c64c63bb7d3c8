//! The names of keys and channels. What belongs to a space has the space's hash tag, so that one script can touch all of it:
//! `prefix:{tenant:namespace}:…`. Whatever a name holds, no two meet in one key.

use tidegate_hub::{Idempotency, Pid};
use tidegate_types::{NodeId, RoomName, SpaceKey, UserId};

use crate::{Kind, Name};

/// How keys begin.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    prefix: Box<str>,
}

/// How the keys of one space begin, the colon after the hash tag included.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct SpaceKeys {
    base: Box<str>,
}

/// Adds a part of a key. What would end a part, or the hash tag, is written as `%` and two hex digits.
fn push(out: &mut String, part: &str) {
    for character in part.chars() {
        match character {
            '%' => out.push_str("%25"),
            ':' => out.push_str("%3A"),
            '{' => out.push_str("%7B"),
            '}' => out.push_str("%7D"),
            _ => out.push(character),
        }
    }
}

/// Undoes [`push`].
fn parse(part: &str) -> Option<String> {
    let mut pieces = part.split('%');
    let mut out = String::from(pieces.next()?);
    for piece in pieces {
        let (code, rest) = piece.split_at_checked(2)?;
        out.push(match code {
            "25" => '%',
            "3A" => ':',
            "7B" => '{',
            "7D" => '}',
            _ => return None,
        });
        out.push_str(rest);
    }
    Some(out)
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: prefix.into() }
    }

    pub(super) fn space(&self, space: &SpaceKey) -> SpaceKeys {
        let mut base = String::with_capacity(self.prefix.len() + 48);
        base.push_str(&self.prefix);
        base.push_str(":{");
        push(&mut base, space.tenant.as_str());
        base.push(':');
        push(&mut base, space.namespace.as_str());
        base.push_str("}:");
        SpaceKeys { base: base.into() }
    }

    /// The spaces in which a node holds leases: a set of tenant and namespace, as in the hash tag.
    pub(super) fn spaces_of(&self, node: NodeId) -> String {
        format!("{}:node:{node}:spaces", self.prefix)
    }

    /// The bucket of a key of a limit.
    pub(super) fn bucket(&self, limit: &str, key: &[u8]) -> String {
        let mut name = String::with_capacity(self.prefix.len() + limit.len() + 2 * key.len() + 8);
        name.push_str(&self.prefix);
        name.push_str(":{limit:");
        push(&mut name, limit);
        name.push_str("}:");
        for byte in key {
            name.extend([byte >> 4, byte & 0xf].into_iter().filter_map(|digit| char::from_digit(digit.into(), 16)));
        }
        name
    }

    /// The channel of the signals to one node.
    pub(super) fn node(&self, node: NodeId) -> String {
        format!("{}:node:{node}", self.prefix)
    }

    /// The channel of the signals to all nodes.
    pub(super) fn all(&self) -> String {
        format!("{}:all", self.prefix)
    }

    /// How the keys of one kind's values begin.
    pub(super) fn values(&self, kind: Kind) -> String {
        let kind = match kind {
            Kind::Ticket => "ticket",
            Kind::Revocation => "revoked",
            Kind::Replay => "replay",
        };
        format!("{}:{{{kind}}}:", self.prefix)
    }

    /// The index of one kind's values. No value's key is like it: theirs end with `=` and the name.
    pub(super) fn names(&self, kind: Kind) -> String {
        self.values(kind) + "names"
    }

    /// A value's key. Everything after the `=` is the name.
    pub(super) fn value(&self, name: &Name) -> String {
        self.values(name.kind) + "=" + &name.text
    }
}

impl SpaceKeys {
    fn of(&self, what: &str, parts: &[&str]) -> String {
        let length = self.base.len() + what.len() + parts.iter().map(|part| part.len() + 1).sum::<usize>();
        let mut key = String::with_capacity(length);
        key.push_str(&self.base);
        key.push_str(what);
        for part in parts {
            key.push(':');
            push(&mut key, part);
        }
        key
    }

    /// The space's counters: a hash.
    pub(super) fn space(&self) -> String {
        self.of("space", &[])
    }

    /// A room's counters: a string, see `state`.
    pub(super) fn room(&self, room: &RoomName) -> String {
        self.of("room", &[room.as_str()])
    }

    /// A room's persistent messages: a stream.
    pub(super) fn log(&self, room: &RoomName) -> String {
        self.of("log", &[room.as_str()])
    }

    /// A room's recoverable messages: a stream.
    pub(super) fn ring(&self, room: &RoomName) -> String {
        self.of("ring", &[room.as_str()])
    }

    /// Who is in a room: a hash.
    pub(super) fn who(&self, room: &RoomName) -> String {
        self.of("who", &[room.as_str()])
    }

    /// The rooms in which a node holds leases, with their number: a hash.
    pub(super) fn held(&self, node: NodeId) -> String {
        self.of("held", &[&node.to_string()])
    }

    /// How many connections of a user, or of all users, each node holds: a hash.
    pub(super) fn seats(&self, user: Option<&UserId>) -> String {
        match user {
            Some(user) => self.of("seats", &[user.as_str()]),
            None => self.of("seats", &[]),
        }
    }

    /// Whose connections a node has said a number of: a hash.
    pub(super) fn seated(&self, node: NodeId) -> String {
        self.of("seated", &[&node.to_string()])
    }

    /// A room's channel.
    pub(super) fn channel(&self, room: &RoomName) -> String {
        self.of("ch", &[room.as_str()])
    }

    /// The channel on which a node is told where its looks stand in the stream of the space.
    pub(super) fn marks(&self, node: NodeId) -> String {
        self.of("marks", &[&node.to_string()])
    }

    /// What a sender calls a message of its own.
    pub(super) fn once(&self, room: &RoomName, of: &Idempotency) -> String {
        self.of("once", &[room.as_str(), of.sender.as_str(), of.key.as_str()])
    }

    /// A session's record.
    pub(super) fn session(&self, pid: &Pid) -> String {
        self.of("sess", &[pid.as_str()])
    }

    /// Tenant and namespace, as in the hash tag.
    pub(super) fn tag(&self) -> &str {
        self.base.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(tag, _)| tag)
    }
}

/// The space whose [`SpaceKeys::tag`] this is.
pub(super) fn space_of_tag(tag: &str) -> Option<SpaceKey> {
    let (tenant, namespace) = tag.split_once(':')?;
    let (tenant, namespace) = (parse(tenant)?, parse(namespace)?);
    Some(SpaceKey { tenant: tenant.as_str().try_into().ok()?, namespace: namespace.as_str().try_into().ok()? })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use super::*;

    fn space(tenant: &str, namespace: &str) -> SpaceKey {
        SpaceKey { tenant: tenant.try_into().unwrap(), namespace: namespace.try_into().unwrap() }
    }

    #[test]
    fn no_two_names_meet_in_one_key() {
        let keys = Keys::new("p");
        let names = ["a", "a:b", "b", "}", "{", "%3A", ":", "a%", "ä}:log:", "log:a"];
        let mut seen = HashSet::new();
        let mut count = 0;
        for tenant in names {
            for namespace in names {
                let of = keys.space(&space(tenant, &format!("/{namespace}")));
                for room in names {
                    let room = RoomName::try_from(room).unwrap();
                    for key in [of.room(&room), of.log(&room), of.ring(&room), of.who(&room), of.channel(&room)] {
                        assert!(seen.insert(key.clone()), "{key}");
                        count += 1;
                    }
                    for sender in names {
                        let once = Idempotency {
                            sender: sender.try_into().unwrap(),
                            key: "a".try_into().unwrap(),
                            message_id: Arc::from(""),
                            window_ms: 1,
                        };
                        assert!(seen.insert(of.once(&room, &once)));
                        count += 1;
                    }
                }
            }
        }
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn all_keys_of_a_space_have_its_hash_tag_and_it_names_the_space() {
        let keys = Keys::new("p");
        for (tenant, namespace) in [("default", "/"), ("a:{b}", "/x}y%"), ("%3A", "/:")] {
            let key = space(tenant, namespace);
            let of = keys.space(&key);
            let room = RoomName::try_from("r}{:").unwrap();
            for key in [of.space(), of.room(&room), of.held(NodeId(1)), of.session(&Pid::from("}x"))] {
                let inside = key.split_once('{').unwrap().1.split_once('}').unwrap().0;
                assert_eq!(inside, of.tag(), "{key}");
            }
            assert_eq!(space_of_tag(of.tag()), Some(key));
        }
        assert_eq!(space_of_tag("x%zz:/"), None);
        assert_eq!(space_of_tag("no colon"), None);
    }
}
