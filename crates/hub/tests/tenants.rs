//! Two tenants with the same rooms, users, connections and message ids, over random histories: nothing of one ever comes
//! out of the other's space, not even when it is handed in by mistake.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value};
use tidegate_hub::{
    Effect, Effects, Idempotency, Message, Missed, NewSession, Pid, PresenceChange, PresenceUpdate, Resume,
    ResumeFailure, SessionRecord, Since, Space, SpaceConfig, SpaceStart, Who,
};
use tidegate_types::{
    Bookmark, Class, ConnId, Epoch, EventName, Namespace, Position, PresenceInfo, Publication, RoomName, SessionOffset,
    ShardId, SpaceKey, Status, TenantId, UserId,
};

const EPOCH: Epoch = Epoch(7);
const NAMES: [&str; 2] = ["north", "south"];

#[derive(Clone, Debug)]
enum Command {
    Connect { slot: u32, user: u8 },
    Join { slot: u32, room: u8 },
    Listen { slot: u32, room: u8 },
    Leave { slot: u32, room: u8 },
    Disconnect { slot: u32 },
    Publish { room: u8, class: u8, key: Option<u8> },
    Say { slot: u32 },
    Tick { ms: u64 },
    Resume { slot: u32, nth: usize, back: u64, foreign: bool },
    ImportForeign { nth: usize },
    Restart,
    Ask { room: u8, back: u64 },
}

fn commands() -> impl Strategy<Value = Vec<(usize, Command)>> {
    let slot = 0..4u32;
    let room = 0..2u8;
    let one = prop_oneof![
        6 => (slot.clone(), 0..3u8).prop_map(|(slot, user)| Command::Connect { slot, user }),
        8 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Join { slot, room }),
        2 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Listen { slot, room }),
        2 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Leave { slot, room }),
        4 => slot.clone().prop_map(|slot| Command::Disconnect { slot }),
        16 => (room.clone(), 0..3u8, prop::option::of(0..3u8))
            .prop_map(|(room, class, key)| Command::Publish { room, class, key }),
        3 => slot.clone().prop_map(|slot| Command::Say { slot }),
        5 => prop_oneof![1..300u64, Just(30_000)].prop_map(|ms| Command::Tick { ms }),
        8 => (slot, 0..4usize, 0..8u64, any::<bool>())
            .prop_map(|(slot, nth, back, foreign)| Command::Resume { slot, nth, back, foreign }),
        2 => (0..4usize).prop_map(|nth| Command::ImportForeign { nth }),
        1 => Just(Command::Restart),
        4 => (room, 0..6u64).prop_map(|(room, back)| Command::Ask { room, back }),
    ];
    prop::collection::vec((0..2usize, one), 1..200)
}

fn room(n: u8) -> RoomName {
    RoomName::try_from(format!("room-{n}")).unwrap()
}

fn user(n: u8) -> UserId {
    UserId::try_from(format!("user-{n}")).unwrap()
}

fn conn(slot: u32) -> ConnId {
    ConnId { shard: ShardId(0), slot, generation: 0 }
}

fn config() -> SpaceConfig {
    SpaceConfig {
        ring_window_ms: 20_000,
        session_window_ms: 60_000,
        durable: true,
        reserve_block: 4,
        ..SpaceConfig::default()
    }
}

/// One tenant: its space, and what its store has.
struct Tenant {
    name: &'static str,
    space: Space,
    now: u64,
    born: u32,
    live: BTreeMap<u32, (Pid, u8)>,
    kept: Vec<(Pid, u8)>,
    records: BTreeMap<Pid, SessionRecord>,
    stored: Vec<Arc<Publication>>,
}

impl Tenant {
    fn new(name: &'static str) -> Self {
        let space = Space::new(key(name), config(), SpaceStart::fresh(EPOCH));
        let (live, records) = (BTreeMap::new(), BTreeMap::new());
        Self { name, space, now: 1_000, born: 0, live, kept: Vec::new(), records, stored: Vec::new() }
    }

    fn is_ours(&self, publication: &Publication) {
        assert_eq!(publication.space.tenant.as_str(), self.name);
        assert!(String::from_utf8_lossy(&publication.data).contains(self.name), "{publication:?}");
    }

    fn is_one_of_us(&self, info: &PresenceInfo) {
        assert_eq!(info.username.as_deref(), Some(self.name));
        let said = info.metadata.iter().flat_map(|metadata| metadata.keys()).chain([]);
        said.for_each(|key| assert_eq!(key, self.name));
        assert!(info.custom_status.iter().all(|custom| **custom == *self.name));
    }

    /// Carries out the effects; all that leaves the space is looked at.
    fn pump(&mut self, mut fx: Effects) {
        while !fx.is_empty() {
            for effect in std::mem::take(&mut fx) {
                match effect {
                    Effect::Deliver { publication, .. } => self.is_ours(&publication),
                    Effect::Presence { change: PresenceChange::Join(info), .. } => self.is_one_of_us(&info),
                    Effect::Presence { change: PresenceChange::Update { listed, .. }, .. } => {
                        listed.iter().for_each(|info| self.is_one_of_us(info));
                    }
                    Effect::Presence { change: PresenceChange::Leave(_), .. } => {}
                    Effect::Append(publication) => {
                        self.is_ours(&publication);
                        self.space.appended(publication.seq, &mut fx);
                        self.stored.push(publication);
                    }
                    Effect::Reserve { upto } => self.space.reserved(upto, &mut fx),
                    Effect::SaveSession(record) => {
                        assert_eq!(record.tenant.as_str(), self.name);
                        self.records.insert(record.pid.clone(), record);
                    }
                    Effect::DropSession(pid) => _ = self.records.remove(&pid),
                    Effect::Follow { .. } | Effect::Unfollow { .. } | Effect::Lease { .. } | Effect::Renewed => {
                        panic!("{effect:?} of a space that does not follow")
                    }
                }
            }
        }
    }

    fn do_it(&mut self, command: Command, other: &Tenant) {
        let mut fx = Effects::new();
        let now = self.now;
        match command {
            Command::Connect { slot, user: n } => {
                self.end(slot, &mut fx);
                self.born += 1;
                let pid = Pid::from(format!("{}-{}", self.name, self.born));
                let session = NewSession { pid: pid.clone(), socket_id: "socket".into(), token_expires_at: None };
                self.space.connect(conn(slot), self.who(n), session, now, &mut fx);
                self.live.insert(slot, (pid, n));
            }
            Command::Join { slot, room: n } => _ = self.space.join(conn(slot), &room(n), now, &mut fx),
            Command::Listen { slot, room: n } => _ = self.space.subscribe(conn(100 + slot), &room(n), now, &mut fx),
            Command::Leave { slot, room: n } => _ = self.space.leave(conn(slot), &room(n), now, &mut fx),
            Command::Disconnect { slot } => self.end(slot, &mut fx),
            Command::Publish { room: n, class, key } => self.publish(n, class, key, &mut fx),
            Command::Say { slot } => {
                let update = PresenceUpdate {
                    status: Some(Status::Busy),
                    metadata: Some(Map::from_iter([(self.name.to_owned(), Value::Null)])),
                    custom_status: Some(self.name.into()),
                    ..PresenceUpdate::default()
                };
                self.space.update_presence(conn(slot), update, now, &mut fx);
            }
            Command::Tick { ms } => {
                self.now += ms;
                self.space.tick(self.now, &mut fx);
            }
            Command::Resume { slot, nth, back, foreign } => self.resume(slot, nth, back, foreign, other, &mut fx),
            Command::ImportForeign { nth } => {
                if let Some((pid, record)) = other.records.iter().nth(nth) {
                    self.space.import_session(record.clone(), now);
                    assert!(!self.space.session_known(pid));
                }
            }
            Command::Restart => {
                for slot in 0..4 {
                    self.end(slot, &mut fx);
                }
                self.pump(std::mem::take(&mut fx));
                let mut start = self.space.save();
                // A store that mixes them up.
                start.ring.extend(other.space.save().ring);
                start.ring.sort_by_key(|publication| publication.seq);
                self.space = Space::new(key(self.name), config(), start);
                for record in self.records.values().chain(other.records.values()) {
                    self.space.import_session(record.clone(), now);
                }
            }
            Command::Ask { room: n, back } => self.ask(&room(n), back, other),
        }
        self.pump(fx);
    }

    fn who(&self, n: u8) -> Who {
        Who { user: user(n), username: Some(self.name.into()) }
    }

    fn end(&mut self, slot: u32, fx: &mut Effects) {
        self.space.disconnect(conn(slot), true, self.now, fx);
        self.kept.extend(self.live.remove(&slot));
    }

    fn publish(&mut self, n: u8, class: u8, key: Option<u8>, fx: &mut Effects) {
        let class = [Class::Volatile, Class::Recoverable, Class::Persistent][usize::from(class)];
        let idempotency = key.map(|key| {
            Box::new(Idempotency {
                sender: user(0),
                key: format!("key-{key}").try_into().unwrap(),
                message_id: self.name.into(),
                window_ms: 60_000,
            })
        });
        let message = Message {
            room: room(n),
            event: EventName::try_from("room:message").unwrap(),
            data: Bytes::from(format!(r#"{{"tenant":"{}"}}"#, self.name)),
            attachments: Arc::from([]),
            class,
            idempotency,
        };
        let published = self.space.publish(message, self.now, fx);
        self.is_ours(&published.publication);
        assert!(published.duplicate.is_none_or(|first| *first == *self.name));
    }

    fn resume(&mut self, slot: u32, nth: usize, back: u64, foreign: bool, other: &Tenant, fx: &mut Effects) {
        let kept = if foreign { &other.kept } else { &self.kept };
        let Some((pid, n)) = kept.get(nth).cloned() else { return };
        self.end(slot, fx);
        let offset = SessionOffset { epoch: EPOCH, seq: self.space.head_seq().saturating_sub(back) };
        let (now, who) = (self.now, self.who(n));
        let mut answer = self.space.resume(&pid, offset, &user(n), conn(slot), who.clone(), None, now, fx);
        if foreign {
            assert_eq!(answer, Resume::Failed(ResumeFailure::UnknownSession));
            return;
        }
        if let Resume::NeedHistory { .. } = answer {
            let stored = self.mixed(other);
            answer = self.space.resume_with(&pid, offset, &user(n), conn(slot), who, None, stored, now, fx);
        }
        self.kept.retain(|(of, _)| *of != pid);
        if let Resume::Recovered { missed, .. } = answer {
            missed.iter().for_each(|publication| self.is_ours(publication));
            self.live.insert(slot, (pid, n));
        }
    }

    /// Both tenants' messages, as from a store that mixes them up; theirs have the same rooms, epoch and numbers.
    fn mixed(&self, other: &Tenant) -> Vec<Arc<Publication>> {
        other.stored.iter().chain(&self.stored).cloned().collect()
    }

    fn ask(&mut self, room: &RoomName, back: u64, other: &Tenant) {
        self.space.ring_of(room).iter().for_each(|publication| self.is_ours(publication));
        let since = Position { epoch: EPOCH, offset: self.space.position(room).offset.saturating_sub(back) };
        if let Since::Ring(publications) = self.space.since(room, since) {
            publications.iter().for_each(|publication| self.is_ours(publication));
        }
        let of_room: Vec<_> = self.mixed(other).into_iter().filter(|publication| publication.room == *room).collect();
        if let Missed::All(missed) = self.space.missed(room, Bookmark::Room(since), Some(&of_room)) {
            missed.iter().for_each(|publication| self.is_ours(publication));
        }
        let (listed, _) = self.space.presence(room, 100);
        listed.iter().for_each(|info| self.is_one_of_us(info));
        let members = self.space.members_page(room, None, 100);
        members.items.iter().for_each(|member| self.is_one_of_us(&member.presence));
        (0..3).filter_map(|n| self.space.presence_of(&user(n))).for_each(|info| self.is_one_of_us(&info));
    }
}

fn key(tenant: &str) -> Arc<SpaceKey> {
    Arc::new(SpaceKey { tenant: TenantId::try_from(tenant).unwrap(), namespace: Namespace::root() })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn nothing_of_one_tenant_comes_out_of_the_space_of_another(commands in commands()) {
        let [mut north, mut south] = NAMES.map(Tenant::new);
        for (which, command) in commands {
            match which {
                0 => north.do_it(command, &south),
                _ => south.do_it(command, &north),
            }
        }
    }
}
