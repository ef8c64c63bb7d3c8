//! The naive model: lists of everything that ever happened, walked from the start for each question.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use tidegate_hub::{
    Effect, Effects, GAP_EVENT, Idempotency, Message, NewSession, Pid, Resume, ResumeFailure, RoomId, RoomStart,
    SessionRecord, Since, Space, SpaceConfig, SpaceStart, Who,
};
use tidegate_types::{
    Class, ConnId, Epoch, EventName, Namespace, Position, Publication, RoomName, SessionOffset, ShardId, ShardSet,
    SpaceKey, TenantId, UserId,
};

mod listings;
mod presence;

use presence::{Person, View};

const EPOCH: Epoch = Epoch(7);
const WINDOW_MS: u64 = 60_000;
const RING_BYTES: usize = 2_000;
const OVERHEAD: usize = 256;
const STORE_MESSAGES: usize = 50;

#[derive(Clone, Debug)]
pub enum Command {
    Connect {
        slot: usize,
        user: usize,
    },
    Join {
        slot: usize,
        room: usize,
    },
    Leave {
        slot: usize,
        room: usize,
    },
    Listen {
        slot: usize,
        room: usize,
    },
    Unlisten {
        slot: usize,
        room: usize,
    },
    Disconnect {
        slot: usize,
        keep: bool,
    },
    /// `once`: sender, key and window.
    Publish {
        room: usize,
        class: u8,
        bytes: usize,
        once: Option<(usize, u8, u64)>,
    },
    Appended {
        nth: usize,
    },
    AppendFailed {
        nth: usize,
    },
    Reserved,
    Tick {
        ms: u64,
    },
    Resume {
        slot: usize,
        session: usize,
        back: u64,
        truncated: bool,
    },
    ResumeAsAnother {
        slot: usize,
        session: usize,
    },
    Idle {
        slot: usize,
        idle: bool,
    },
    /// A member is shown who is there, some time after it joined.
    Show {
        slot: usize,
        room: usize,
    },
    /// A number of 0 leaves a part as it is.
    Say {
        slot: usize,
        status: Option<u8>,
        mood: u8,
        activity: u8,
        custom: u8,
    },
    ClockBack {
        ms: u64,
    },
    CleanRestart,
    Kill {
        survive: usize,
    },
    Since {
        room: usize,
        back: u64,
    },
}

#[derive(Clone, Debug, PartialEq)]
enum State {
    /// Not yet appended (persistent) or always (recoverable).
    Waiting,
    Appended,
    Withdrawn,
    /// Lost with the process before anybody saw it.
    Lost,
}

struct Entry {
    publication: Arc<Publication>,
    state: State,
    released: bool,
    in_ring: bool,
}

impl Entry {
    fn stored(&self) -> bool {
        self.publication.class == Class::Persistent && self.state == State::Appended
    }
}

struct Conn {
    id: ConnId,
    user: usize,
    pid: Pid,
    rooms: Vec<(usize, u64)>,
    idle: bool,
}

/// A message that was given a key by its sender.
struct First {
    room: usize,
    sender: usize,
    key: u8,
    message_id: String,
    seq: u64,
    position: Option<Position>,
    until: u64,
}

struct Session {
    pid: Pid,
    user: usize,
    rooms: Vec<(usize, u64)>,
    expires_at: u64,
}

pub struct World {
    space: Space,
    fx: Effects,
    now: u64,
    born: u32,
    log: Vec<Entry>,
    reserved: u64,
    asked: u64,
    /// Everything up to this number may have been handed out before an unclean stop.
    unproven: u64,
    conns: BTreeMap<usize, Conn>,
    listening: BTreeSet<(usize, usize)>,
    kept: Vec<Session>,
    records: HashMap<Pid, SessionRecord>,
    views: HashMap<(usize, usize), View>,
    handed_seqs: HashSet<u64>,
    handed_offsets: HashSet<(usize, u64)>,
    next_offset: HashMap<usize, u64>,
    restarted: bool,
    /// The connection that a session is being given back to.
    resuming: Option<ConnId>,
    people: HashMap<usize, Person>,
    firsts: Vec<First>,
}

fn config() -> SpaceConfig {
    SpaceConfig {
        ring_window_ms: WINDOW_MS,
        ring_bytes: RING_BYTES,
        session_window_ms: WINDOW_MS,
        presence_burst: 3,
        durable: true,
        reserve_block: 8,
        store_messages: STORE_MESSAGES,
        ..SpaceConfig::default()
    }
}

fn key() -> Arc<SpaceKey> {
    Arc::new(SpaceKey { tenant: TenantId::try_from("acme").unwrap(), namespace: Namespace::root() })
}

fn room_name(room: usize) -> RoomName {
    RoomName::try_from(format!("room-{room}")).unwrap()
}

fn user_id(user: usize) -> UserId {
    UserId::try_from(format!("user-{user}")).unwrap()
}

fn who(user: usize) -> Who {
    Who { user: user_id(user), username: None }
}

fn listener(slot: usize) -> ConnId {
    ConnId { shard: ShardId(slot as u16 % 3), slot: 100 + slot as u32, generation: 0 }
}

impl World {
    pub fn new() -> Self {
        Self {
            space: Space::new(key(), config(), SpaceStart::fresh(EPOCH)),
            fx: Vec::new(),
            now: 1_000,
            born: 0,
            log: Vec::new(),
            reserved: 0,
            asked: 0,
            unproven: 0,
            conns: BTreeMap::new(),
            listening: BTreeSet::new(),
            kept: Vec::new(),
            records: HashMap::new(),
            views: HashMap::new(),
            handed_seqs: HashSet::new(),
            handed_offsets: HashSet::new(),
            next_offset: HashMap::new(),
            restarted: false,
            resuming: None,
            people: HashMap::new(),
            firsts: Vec::new(),
        }
    }

    pub fn apply(&mut self, command: Command) {
        let before = self.now;
        match command.clone() {
            Command::Connect { slot, user } => self.connect(slot, user),
            Command::Join { slot, room } => self.join(slot, room),
            Command::Leave { slot, room } => self.leave(slot, room),
            Command::Listen { slot, room } => {
                let joined = self.space.subscribe(listener(slot), &room_name(room), self.now, &mut self.fx);
                assert_eq!(joined.already, !self.listening.insert((slot, room)));
            }
            Command::Unlisten { slot, room } => {
                let left = self.space.unsubscribe(listener(slot), &room_name(room));
                assert_eq!(left.is_some(), self.listening.remove(&(slot, room)));
            }
            Command::Disconnect { slot, keep } => self.disconnect(slot, keep),
            Command::Publish { room, class, bytes, once } => self.publish(room, class, bytes, once),
            Command::Appended { nth } => self.append_done(nth, true),
            Command::AppendFailed { nth } => self.append_done(nth, false),
            Command::Reserved => {
                self.reserved = self.asked;
                self.space.reserved(self.asked, &mut self.fx);
            }
            Command::Tick { ms } => self.tick(ms),
            Command::Resume { slot, session, back, truncated } => self.resume(slot, session, back, truncated),
            Command::ResumeAsAnother { slot, session } => self.resume_as_another(slot, session),
            Command::Show { slot, room } => {
                let is_in = |conn: &Conn| conn.rooms.iter().any(|(of, _)| *of == room);
                if self.conns.get(&slot).is_some_and(is_in) {
                    self.see(slot, room);
                }
            }
            Command::Idle { slot, idle } => self.idle(slot, idle),
            Command::Say { slot, status, mood, activity, custom } => self.say(slot, status, mood, activity, custom),
            Command::ClockBack { ms } => {
                self.now = self.now.saturating_sub(ms).max(1_000);
                self.tick(0);
            }
            Command::CleanRestart => self.clean_restart(),
            Command::Kill { survive } => self.kill(survive),
            Command::Since { room, back } => self.since(room, back),
        }
        let ticked = matches!(command, Command::Tick { .. } | Command::ClockBack { .. });
        let all_sent = ticked && self.now.abs_diff(before) >= 100;
        self.check_effects();
        self.check_counts();
        if all_sent {
            self.check_views();
            self.views.values_mut().for_each(|view| view.young = false);
        }
    }

    fn members(&self, room: usize) -> impl Iterator<Item = &Conn> {
        self.conns.values().filter(move |conn| conn.rooms.iter().any(|(of, _)| *of == room))
    }

    fn shards(&self, room: usize) -> ShardSet {
        self.shards_without(room, None)
    }

    fn shards_without(&self, room: usize, without: Option<ConnId>) -> ShardSet {
        let mut shards = ShardSet::EMPTY;
        for conn in self.members(room).filter(|conn| Some(conn.id) != without) {
            shards.insert(conn.id.shard);
        }
        for (slot, _) in self.listening.iter().filter(|(_, of)| *of == room) {
            shards.insert(listener(*slot).shard);
        }
        shards
    }

    fn conn_id(&mut self, slot: usize) -> ConnId {
        self.born += 1;
        ConnId { shard: ShardId(slot as u16 % 3), slot: slot as u32, generation: self.born }
    }

    fn connect(&mut self, slot: usize, user: usize) {
        if self.conns.contains_key(&slot) {
            return;
        }
        let id = self.conn_id(slot);
        let pid = Pid::from(format!("pid-{}", self.born));
        let session =
            NewSession { pid: pid.clone(), socket_id: format!("sid-{}", self.born).into(), token_expires_at: None };
        self.space.connect(id, who(user), session, self.now, &mut self.fx);
        self.conns.insert(slot, Conn { id, user, pid, rooms: Vec::new(), idle: false });
        self.came(user);
    }

    fn join(&mut self, slot: usize, room: usize) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        let joined = self.space.join(conn.id, &room_name(room), self.now, &mut self.fx).unwrap();
        let already = conn.rooms.iter().any(|(of, _)| *of == room);
        assert_eq!(joined.already, already);
        assert_eq!(joined.seq, self.space.head_seq());
        if !already {
            conn.rooms.push((room, joined.seq));
            self.check_effects();
            self.see(slot, room);
        }
    }

    fn leave(&mut self, slot: usize, room: usize) {
        let Some(conn) = self.conns.get_mut(&slot) else { return };
        let was = conn.rooms.iter().position(|(of, _)| *of == room);
        let left = self.space.leave(conn.id, &room_name(room), self.now, &mut self.fx);
        assert_eq!(left.is_some(), was.is_some());
        if let Some(index) = was {
            conn.rooms.remove(index);
            self.views.remove(&(slot, room));
        }
    }

    fn disconnect(&mut self, slot: usize, keep: bool) {
        let Some(conn) = self.conns.remove(&slot) else { return };
        self.space.disconnect(conn.id, keep, self.now, &mut self.fx);
        self.space.disconnect(conn.id, keep, self.now, &mut self.fx);
        self.views.retain(|(of, _), _| *of != slot);
        if self.conns.values().all(|other| other.user != conn.user) {
            self.people.remove(&conn.user);
        }
        if keep {
            let Conn { user, pid, rooms, .. } = conn;
            self.kept.push(Session { pid, user, rooms, expires_at: self.now + WINDOW_MS });
        }
    }

    fn publish(&mut self, room: usize, class: u8, bytes: usize, once: Option<(usize, u8, u64)>) {
        let class = [Class::Volatile, Class::Recoverable, Class::Persistent][usize::from(class)];
        let message = Message {
            room: room_name(room),
            event: EventName::try_from("room:message").unwrap(),
            data: Bytes::from(vec![b'x'; bytes]),
            attachments: Arc::from([]),
            class,
            idempotency: once.map(|once| Box::new(self.idempotency(once))),
        };
        let published = self.space.publish(message, self.now, &mut self.fx);
        let publication = published.publication;
        if let Some((sender, key, window_ms)) = once {
            let is_it = |first: &&First| (first.room, first.sender, first.key) == (room, sender, key);
            let first = self.firsts.iter().filter(is_it).find(|first| first.until > self.now);
            let answered = first.map(|first| first.message_id.as_str());
            assert_eq!(published.duplicate.as_deref(), answered, "within its window a key is one message");
            if let Some(first) = first {
                assert_eq!((publication.seq, publication.position), (first.seq, first.position));
                assert_eq!(published.pending, first.seq > self.space.head_seq());
                assert_eq!(self.fx, Vec::new(), "it goes to nobody");
                return;
            }
            let message_id = self.idempotency((sender, key, window_ms)).message_id.to_string();
            let (seq, position, until) = (publication.seq, publication.position, self.now + window_ms);
            self.firsts.push(First { room, sender, key, message_id, seq, position, until });
        }
        assert_eq!(published.duplicate, None);
        if class == Class::Volatile {
            assert_eq!((publication.seq, publication.position), (0, None));
            let shards = self.shards(room);
            let delivered = matches!(self.fx.last(), Some(Effect::Deliver { publication: p, shards: s, .. })
                if Arc::ptr_eq(p, &publication) && *s == shards);
            assert_eq!(delivered, !shards.is_empty());
            if delivered {
                self.fx.pop();
            }
            return;
        }
        let position = publication.position.unwrap();
        assert_eq!(position.epoch, EPOCH);
        assert!(position.offset <= publication.seq);
        assert!(!self.handed_seqs.contains(&publication.seq), "seq {} handed out twice", publication.seq);
        assert!(!self.handed_offsets.contains(&(room, position.offset)), "offset {} twice", position.offset);
        let last = self.next_offset.insert(room, position.offset);
        // A room that no restart has a record of may start anywhere beyond what was handed out.
        if let Some(last) = last.or((!self.restarted).then_some(0)) {
            assert_eq!(position.offset, last + 1, "offsets are contiguous");
        }
        self.log.push(Entry { publication, state: State::Waiting, released: false, in_ring: false });
    }

    fn idempotency(&self, (sender, key, window_ms): (usize, u8, u64)) -> Idempotency {
        Idempotency {
            sender: user_id(sender),
            key: format!("key-{key}").try_into().unwrap(),
            message_id: format!("message-{}-{}", self.log.len(), self.firsts.len()).into(),
            window_ms,
        }
    }

    fn append_done(&mut self, nth: usize, ok: bool) {
        let waiting = |entry: &&mut Entry| {
            entry.publication.class == Class::Persistent && entry.state == State::Waiting && !entry.released
        };
        let Some(entry) = self.log.iter_mut().filter(waiting).nth(nth) else {
            // A number that nobody waits for is ignored.
            self.space.appended(u64::MAX, &mut self.fx);
            self.space.append_failed(0, &mut self.fx);
            return;
        };
        let seq = entry.publication.seq;
        if ok {
            entry.state = State::Appended;
            self.space.appended(seq, &mut self.fx);
            self.space.append_failed(seq, &mut self.fx);
        } else {
            entry.state = State::Withdrawn;
            self.firsts.retain(|first| first.seq != seq);
            self.space.append_failed(seq, &mut self.fx);
            self.space.appended(seq, &mut self.fx);
        }
    }

    /// What may leave now, in order, with its room's shards.
    fn expected_releases(&mut self) -> Vec<(u64, ShardSet)> {
        let mut expected = Vec::new();
        for index in 0..self.log.len() {
            let entry = &self.log[index];
            if entry.released || entry.state == State::Lost {
                continue;
            }
            let ready = match (entry.publication.class, &entry.state) {
                (Class::Persistent, State::Appended) => true,
                (Class::Persistent, State::Waiting | State::Lost) => false,
                (Class::Persistent, State::Withdrawn) | (Class::Recoverable | Class::Volatile, _) => {
                    entry.publication.seq <= self.reserved
                }
            };
            if !ready {
                break;
            }
            let room = room_index(&entry.publication);
            let (seq, offset) = (entry.publication.seq, entry.publication.position.unwrap().offset);
            let shards = self.shards(room);
            if !shards.is_empty() {
                expected.push((seq, shards));
            }
            assert!(self.handed_seqs.insert(seq) && self.handed_offsets.insert((room, offset)));
            let entry = &mut self.log[index];
            entry.released = true;
            entry.in_ring = true;
            if entry.state == State::Withdrawn {
                let mut tombstone = (*entry.publication).clone();
                tombstone.event = EventName::try_from(GAP_EVENT).unwrap();
                tombstone.class = Class::Recoverable;
                let body = serde_json::json!({ "room": tombstone.room.as_str(), "from": offset, "to": offset });
                tombstone.data = Bytes::from(body.to_string());
                // It may have left the ring again already, for what was released behind it.
                let ring = self.space.ring_of(&room_name(room));
                assert!(ring.iter().all(|p| p.seq != seq || **p == tombstone), "{tombstone:?}");
                entry.publication = Arc::new(tombstone);
            }
            self.trim();
        }
        expected
    }

    fn trim(&mut self) {
        let cost = |entry: &Entry| entry.publication.payload_bytes() + OVERHEAD;
        while self.log.iter().filter(|entry| entry.in_ring).map(cost).sum::<usize>() > RING_BYTES {
            self.log.iter_mut().find(|entry| entry.in_ring).unwrap().in_ring = false;
        }
    }

    fn tick(&mut self, ms: u64) {
        self.now += ms;
        let now = self.now;
        let is_old = |entry: &&mut Entry| now.saturating_sub(entry.publication.timestamp_ms) > WINDOW_MS;
        while let Some(front) = self.log.iter_mut().find(|entry| entry.in_ring).filter(is_old) {
            front.in_ring = false;
        }
        self.firsts.retain(|first| first.until > now);
        self.kept.retain(|session| session.expires_at > now);
        self.space.tick(now, &mut self.fx);
    }

    fn check_effects(&mut self) {
        let mut delivered = Vec::new();
        for effect in std::mem::take(&mut self.fx) {
            match effect {
                Effect::Deliver { shards, publication, room_id } => {
                    assert_ne!(room_id, RoomId(0));
                    delivered.push((publication.seq, shards));
                }
                Effect::Presence { room, shards, change, except, .. } => self.presence(&room, shards, change, except),
                Effect::Append(publication) => {
                    assert!(Arc::ptr_eq(&publication, &self.log.last().unwrap().publication));
                }
                Effect::Reserve { upto } => {
                    assert!(upto >= self.asked);
                    self.asked = upto;
                }
                Effect::SaveSession(record) => {
                    self.records.insert(record.pid.clone(), record);
                }
                Effect::DropSession(pid) => {
                    self.records.remove(&pid);
                }
                Effect::Follow { .. } | Effect::Unfollow { .. } | Effect::Lease { .. } | Effect::Renewed => {
                    panic!("{effect:?} of a space that does not follow")
                }
            }
        }
        assert_eq!(delivered, self.expected_releases(), "deliveries are those of the list, in its order");
        let head = self.log.iter().filter(|entry| entry.released).map(|entry| entry.publication.seq).max().unwrap_or(0);
        assert_eq!(self.space.head_seq(), head.max(self.unproven));
    }

    fn check_counts(&self) {
        let stats = self.space.stats();
        assert_eq!(stats.connections, self.conns.len());
        assert_eq!(stats.users, self.conns.values().map(|conn| conn.user).collect::<HashSet<_>>().len());
        let memberships: usize = self.conns.values().map(|conn| conn.rooms.len()).sum();
        assert_eq!(stats.subscriptions, memberships + self.listening.len());
        assert_eq!(self.space.kept_sessions(), self.kept.len());
        for conn in self.conns.values() {
            let rooms: Vec<RoomName> = conn.rooms.iter().map(|(room, _)| room_name(*room)).collect();
            assert_eq!(self.space.rooms_of(conn.id), rooms);
            assert!(rooms.iter().all(|room| self.space.is_member(conn.id, room)));
        }
        self.check_listings();
        let (count, bytes) = self.space.pending();
        let waiting = || self.log.iter().filter(|entry| !entry.released && entry.state != State::Lost);
        assert_eq!(count, waiting().count());
        let payload = |entry: &Entry| entry.publication.payload_bytes();
        if waiting().all(|entry| entry.state != State::Withdrawn) {
            assert_eq!(bytes, waiting().map(payload).sum::<usize>());
        }
    }

    fn resume_as_another(&mut self, slot: usize, session: usize) {
        let Some(session) = self.kept.get(session) else { return };
        let (pid, user) = (session.pid.clone(), session.user + 1);
        let conn = ConnId { shard: ShardId(0), slot: 900 + slot as u32, generation: 0 };
        let offset = SessionOffset { epoch: EPOCH, seq: 0 };
        let answer = self.space.resume(&pid, offset, &user_id(user), conn, who(user), None, self.now, &mut self.fx);
        assert_eq!(answer, Resume::Failed(ResumeFailure::OtherSubject));
    }

    fn resume(&mut self, slot: usize, session: usize, back: u64, truncated: bool) {
        if self.conns.contains_key(&slot) || self.kept.is_empty() {
            return;
        }
        let session = self.kept.remove(session % self.kept.len());
        let head = self.space.head_seq();
        let offset = SessionOffset { epoch: EPOCH, seq: head.saturating_sub(back) };
        let id = self.conn_id(slot);
        let user = user_id(session.user);
        let pid = session.pid.clone();
        let mut answer = self.space.resume(&pid, offset, &user, id, who(session.user), None, self.now, &mut self.fx);
        // What the list says.
        let missed_of = |room: usize, joined: u64| {
            let from = joined.max(offset.seq);
            self.log.iter().filter(move |entry| {
                entry.released && room_index(&entry.publication) == room && entry.publication.seq > from
            })
        };
        let unprovable = session.rooms.iter().any(|(room, joined)| {
            (*joined).max(offset.seq) < self.unproven
                || missed_of(*room, *joined).any(|e| !e.in_ring && e.publication.class != Class::Persistent)
        });
        let in_store: Vec<(RoomName, u64)> = session
            .rooms
            .iter()
            .filter(|(room, joined)| missed_of(*room, *joined).any(|entry| !entry.in_ring && entry.stored()))
            .map(|(room, joined)| (room_name(*room), (*joined).max(offset.seq)))
            .collect();
        if unprovable {
            assert_eq!(answer, Resume::Failed(ResumeFailure::TooOld));
            return;
        }
        let mut expected: Vec<u64> = session
            .rooms
            .iter()
            .flat_map(|(room, joined)| missed_of(*room, *joined))
            .map(|e| e.publication.seq)
            .collect();
        expected.sort_unstable();
        if let Resume::NeedHistory { reads } = answer.clone() {
            for read in &in_store {
                assert!(reads.contains(read), "{read:?} must be read");
            }
            let mut stored: Vec<_> = self
                .log
                .iter()
                .filter(|entry| entry.stored())
                .map(|entry| entry.publication.clone())
                .filter(|p| reads.iter().any(|(room, after)| *room == p.room && p.seq > *after))
                .collect();
            let must_fail = stored.iter().fold(HashMap::<&RoomName, usize>::new(), |mut counts, p| {
                *counts.entry(&p.room).or_default() += 1;
                counts
            });
            let must_fail = must_fail.values().any(|count| *count >= STORE_MESSAGES);
            if truncated && !in_store.is_empty() && !must_fail {
                // A store that lost messages is never believed: the newest evicted one is known to have existed.
                let newest = self
                    .log
                    .iter()
                    .rfind(|entry| {
                        entry.stored()
                            && entry.released
                            && !entry.in_ring
                            && in_store.iter().any(|(r, _)| *r == entry.publication.room)
                    })
                    .unwrap();
                let (seq, room) = (newest.publication.seq, newest.publication.room.clone());
                let ring_behind = !self.space.ring_of(&room).is_empty();
                let others = stored.iter().any(|p| p.room == room && p.seq < seq);
                if ring_behind && others {
                    stored.retain(|p| p.seq != seq);
                    answer = self.space.resume_with(
                        &pid,
                        offset,
                        &user,
                        id,
                        who(session.user),
                        None,
                        stored,
                        self.now,
                        &mut self.fx,
                    );
                    assert_eq!(answer, Resume::Failed(ResumeFailure::TooOld));
                    return;
                }
            }
            answer = self.space.resume_with(
                &pid,
                offset,
                &user,
                id,
                who(session.user),
                None,
                stored,
                self.now,
                &mut self.fx,
            );
            // A message that died unseen between two stored ones leaves a hole that looks like a loss.
            let hole = self.log.iter().any(|entry| {
                entry.state == State::Lost
                    && reads.iter().any(|(r, after)| *r == entry.publication.room && entry.publication.seq > *after)
            });
            if must_fail || (hole && answer == Resume::Failed(ResumeFailure::TooOld)) {
                assert_eq!(answer, Resume::Failed(ResumeFailure::TooOld));
                return;
            }
        } else {
            assert_eq!(in_store, Vec::new());
        }
        let Resume::Recovered { rooms, missed, seq, .. } = answer else {
            panic!("{answer:?}, but all of {expected:?} can be replayed")
        };
        assert_eq!(missed.iter().map(|p| p.seq).collect::<Vec<_>>(), expected, "exactly what was missed");
        assert_eq!(seq, head);
        let names: Vec<RoomName> = session.rooms.iter().map(|(room, _)| room_name(*room)).collect();
        assert_eq!(rooms.into_iter().map(|of| of.room).collect::<Vec<_>>(), names);
        let again = ConnId { shard: ShardId(0), slot: 901, generation: 0 };
        let second = self.space.resume(&pid, offset, &user, again, who(session.user), None, self.now, &mut self.fx);
        assert_eq!(second, Resume::Failed(ResumeFailure::UnknownSession), "a session is claimed once");
        let rooms_again = session.rooms.clone();
        self.conns.insert(slot, Conn { id, user: session.user, pid: session.pid, rooms: session.rooms, idle: false });
        self.came(session.user);
        self.resuming = Some(id);
        self.check_effects();
        self.resuming = None;
        for (room, _) in rooms_again {
            self.see(slot, room);
        }
    }

    fn since(&mut self, room: usize, back: u64) {
        let head = self.space.position(&room_name(room));
        let after = Position { epoch: EPOCH, offset: head.offset.saturating_sub(back) };
        let missed: Vec<&Entry> = self
            .log
            .iter()
            .filter(|entry| entry.released && room_index(&entry.publication) == room)
            .filter(|entry| entry.publication.position.unwrap().offset > after.offset)
            .collect();
        match self.space.since(&room_name(room), after) {
            Since::UpToDate => assert_eq!(after, head),
            Since::Ring(ring) => {
                assert!(missed.iter().all(|entry| entry.in_ring));
                let expected: Vec<u64> = missed.iter().map(|entry| entry.publication.seq).collect();
                assert_eq!(ring.iter().map(|p| p.seq).collect::<Vec<_>>(), expected);
            }
            Since::Store { after_offset } => {
                assert_eq!(after_offset, after.offset);
                let unclean = after.offset < self.unproven;
                // A room without a record begins beyond everything handed out: what lay below is not known to be empty.
                let unknown = self.restarted && missed.len() as u64 != head.offset - after.offset;
                assert!(unclean || unknown || missed.iter().any(|entry| !entry.in_ring));
            }
            Since::Unknown => panic!("a cursor at or below the head is known"),
        }
        let ahead = Position { offset: head.offset + 1, ..after };
        assert_eq!(self.space.since(&room_name(room), ahead), Since::Unknown);
        let other = Position { epoch: Epoch(8), ..after };
        assert_eq!(self.space.since(&room_name(room), other), Since::Unknown);
    }

    /// The store is drained, everybody is told to come back, and the process starts again.
    fn clean_restart(&mut self) {
        self.reserved = self.asked;
        self.space.reserved(self.asked, &mut self.fx);
        for index in 0..self.log.len() {
            let entry = &mut self.log[index];
            if entry.publication.class == Class::Persistent && entry.state == State::Waiting && !entry.released {
                entry.state = State::Appended;
                let seq = entry.publication.seq;
                self.space.appended(seq, &mut self.fx);
            }
        }
        self.check_effects();
        let slots: Vec<usize> = self.conns.keys().copied().collect();
        for slot in slots {
            self.disconnect(slot, true);
            self.check_effects();
        }
        self.listening.clear();
        let saved = self.space.save();
        self.restart(saved);
    }

    fn kill(&mut self, survive: usize) {
        let outstanding = |entry: &Entry| entry.publication.class == Class::Persistent && entry.state == State::Waiting;
        for entry in self.log.iter_mut().filter(|entry| outstanding(entry)).take(survive) {
            // Written, but the process died before it heard so.
            entry.state = State::Appended;
        }
        let mut last_seq = 0;
        let mut rooms: BTreeMap<RoomName, RoomStart> = BTreeMap::new();
        for entry in &mut self.log {
            entry.in_ring = false;
            if entry.stored() {
                let p = &entry.publication;
                last_seq = last_seq.max(p.seq);
                let room = rooms.entry(p.room.clone()).or_insert_with(|| RoomStart {
                    room: p.room.clone(),
                    last_offset: 0,
                    last_persistent_seq: 0,
                    floor_seq: 0,
                });
                room.last_offset = p.position.unwrap().offset;
                room.last_persistent_seq = p.seq;
                if !entry.released {
                    // Nobody had seen it; now it is part of the history.
                    let room = room_index(&entry.publication);
                    self.handed_seqs.insert(entry.publication.seq);
                    self.handed_offsets.insert((room, entry.publication.position.unwrap().offset));
                    entry.released = true;
                }
            } else if !entry.released {
                entry.state = State::Lost;
            }
        }
        self.asked = self.reserved;
        self.unproven = self.unproven.max(self.reserved);
        self.next_offset.clear();
        let start = SpaceStart {
            epoch: EPOCH,
            last_seq,
            reserved_seq: self.reserved,
            clean: false,
            rooms: rooms.into_values().collect(),
            ring: Vec::new(),
        };
        self.fx.clear();
        self.conns.clear();
        self.people.clear();
        self.listening.clear();
        self.kept.clear();
        self.restart(start);
    }

    fn restart(&mut self, start: SpaceStart) {
        self.views.clear();
        self.firsts.clear();
        self.restarted = true;
        self.space = Space::new(key(), config(), start);
        self.kept.clear();
        let records: BTreeMap<Pid, SessionRecord> = self.records.drain().collect();
        for (pid, record) in records {
            let text = serde_json::to_string(&record).unwrap();
            let record: SessionRecord = serde_json::from_str(&text).unwrap();
            assert!(!self.space.session_known(&pid));
            self.space.import_session(record.clone(), self.now);
            assert!(self.space.session_known(&pid));
            let index = |room: &RoomName| room.as_str()["room-".len()..].parse().unwrap();
            let session = Session {
                pid: pid.clone(),
                user: record.user.as_str()["user-".len()..].parse().unwrap(),
                rooms: record.rooms.iter().map(|(room, seq)| (index(room), *seq)).collect(),
                expires_at: record.expires_at.unwrap_or(u64::MAX).min(self.now + WINDOW_MS),
            };
            self.kept.push(session);
            self.records.insert(pid, record);
        }
    }
}

fn room_index(publication: &Publication) -> usize {
    publication.room.as_str()["room-".len()..].parse().unwrap()
}
