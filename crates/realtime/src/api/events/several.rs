//! Several rooms as one event stream.
//!
//! The ids are session offsets: one number says how far all of the rooms have been read. The listener is subscribed from the
//! start, so that nothing is forgotten; it becomes a member, and live messages begin, under the same lock under which it is
//! decided what it has missed.

use std::rc::Rc;
use std::sync::Arc;

use ::http::Request;
use hyper::body::Incoming;
use tidegate_auth::{Principal, RoomAction};
use tidegate_hub::{MissedInRooms, RoomId};
use tidegate_metrics::{StoreLabels, StoreOperation};
use tidegate_types::{Publication, RoomKey, RoomName, SessionOffset};
use tokio::task::spawn_blocking;

use super::super::refused::{Outcome, Refused, come_in};
use super::super::request::{Parameters, namespace, space};
use super::{admit, answer, enter, go_live, last_read, listener, open_rooms, retry_ms, show_presence};
use crate::connection::{Conn, Io};
use crate::encoded::EventId;
use crate::http::Client;
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;
use crate::sse::EventQueue;

/// Rooms of one stream.
const MOST_ROOMS: usize = 64;
/// The store is asked again if the ring has lost, while it was being read, what was to follow.
const READS: u32 = 3;
/// Characters of a bad name that the refusal repeats.
const SHOWN: usize = 64;

/// What the store has returned, by room.
type Stored = Vec<(RoomName, Vec<Arc<Publication>>)>;

/// Opens the stream.
pub(in super::super) async fn open(shard: &Rc<Shard>, request: Request<Incoming>, client: Client) -> Outcome {
    let mut parameters = Parameters::read_lists(request.uri().query(), &["room"])?;
    let most = MOST_ROOMS.min(shard.node.settings.max_rooms_per_connection);
    let rooms = rooms(&parameters.take_all("room"), most)?;
    let presence = parameters.take_flag("presence")?.unwrap_or(false);
    let principal = listener(shard, &request).await?;
    for own in ["ticket", "since", "lastEventId"] {
        parameters.take(own);
    }
    let namespace = namespace(shard, parameters.take("namespace").as_deref())?;
    parameters.end()?;
    let since = last_read(&request);
    let space = space(shard, principal.tenant.clone(), namespace)?;
    let principal = admit(shard, client.address, &space, principal, &rooms).await?;
    come_in(shard, client.address)?;
    let events = EventQueue::new(EventId::SessionOffset, presence);
    let conn = enter(shard, &space, principal.clone(), client, events);
    let answer = answer(shard, &conn);
    open_rooms(shard, &conn, &space, &rooms).await?;
    let reader = Reader { shard: shard.clone(), conn, space, rooms };
    match since {
        None => reader.subscribe_and_begin(),
        Some(since) => reader.come_back(&principal, since.parse().ok()).await,
    }
    for room in &reader.rooms {
        show_presence(&reader.conn, &reader.space, room);
    }
    Ok(answer)
}

fn rooms(given: &[String], most: usize) -> Result<Vec<RoomName>, Refused> {
    let mut rooms: Vec<RoomName> = Vec::new();
    for name in given {
        let room = RoomName::try_from(name.as_str()).map_err(|error| {
            let shown: String = name.chars().take(SHOWN).collect();
            Refused::bad(format!("room {shown:?}: it {error}"))
        })?;
        if rooms.contains(&room) {
            continue;
        }
        if rooms.len() >= most {
            return Err(Refused::bad(format!("room {:?}: a stream has at most {most} rooms", room.as_str())));
        }
        rooms.push(room);
    }
    if rooms.is_empty() {
        return Err(Refused::bad("room: name at least one, as in ?room=a&room=b"));
    }
    Ok(rooms)
}

/// A listener on its way into its rooms.
struct Reader {
    shard: Rc<Shard>,
    conn: Rc<Conn>,
    space: Arc<SpaceCell>,
    rooms: Vec<RoomName>,
}

/// What the rooms were when the listener went live.
struct Found {
    missed: MissedInRooms,
    /// The released head: live messages come after it.
    head: SessionOffset,
    ids: Vec<RoomId>,
}

impl Reader {
    /// Subscribes to all rooms, which changes nothing for those that the listener is subscribed to, and looks what it has
    /// missed in those `asked` about.
    fn look(&self, since: Option<(&[RoomName], SessionOffset)>, stored: &Stored) -> Found {
        self.shard.node.with_space(&self.space, |hub, effects| {
            let mut subscribe = |room| hub.subscribe(self.conn.id, room, now_ms(), effects).room_id;
            let ids = self.rooms.iter().map(&mut subscribe).collect();
            let missed = since.map(|(asked, since)| hub.missed_in_rooms(asked, since, stored)).unwrap_or_default();
            Found { missed, head: SessionOffset { epoch: hub.epoch(), seq: hub.head_seq() }, ids }
        })
    }

    /// Must follow [`Reader::look`] without a pause: what the mailbox brings meanwhile would be lost.
    fn begin(&self, found: Found, unknown: &[RoomName]) {
        let unknown: Vec<RoomName> = self.rooms.iter().filter(|room| unknown.contains(room)).cloned().collect();
        if let Io::Events(events) = &*self.conn.io.borrow() {
            events.begin_several(retry_ms(), &unknown, found.missed.messages, found.head);
        }
        for room in found.ids {
            go_live(&self.shard, &self.conn, room, found.head.seq);
        }
    }

    fn subscribe_and_begin(&self) {
        self.begin(self.look(None, &Stored::new()), &[]);
    }

    /// `since` is `None` for an id that means nothing.
    async fn come_back(&self, principal: &Principal, since: Option<SessionOffset>) {
        // Who may not read what was sent before may not read it by coming back either.
        let (asked, mut unknown): (Vec<_>, Vec<_>) =
            self.rooms.iter().cloned().partition(|room| since.is_some() && principal.may(RoomAction::History, room));
        let Some(since) = since else { return self.begin(self.look(None, &Stored::new()), &unknown) };
        let (mut asked, mut stored) = (asked, Stored::new());
        for attempt in 0..=READS {
            let mut found = self.look(Some((&asked, since)), &stored);
            let wanting = std::mem::take(&mut found.missed.in_store);
            // What the ring was to add may have left it while the store was read, and is in the store by now.
            let outdated = found.missed.unprovable.iter().filter(|room| stored.iter().any(|(of, _)| of == *room));
            let again: Vec<_> = wanting.into_iter().chain(outdated.map(|room| (room.clone(), since.seq))).collect();
            if again.is_empty() || attempt == READS {
                unknown.extend(again.into_iter().map(|(room, _)| room));
                unknown.extend(std::mem::take(&mut found.missed.unprovable));
                return self.begin(found, &unknown);
            }
            stored.retain(|(room, _)| !again.iter().any(|(of, _)| of == room));
            let (read, failed) = self.read(again).await;
            if self.conn.is_closed() {
                return;
            }
            stored.extend(read);
            asked.retain(|room| !failed.contains(room));
            unknown.extend(failed);
        }
    }

    /// What the store has of these rooms, and the rooms of which it does not have all.
    async fn read(&self, reads: Vec<(RoomName, u64)>) -> (Stored, Vec<RoomName>) {
        let node = &self.shard.node;
        let (history, metrics, most) = (node.history.clone(), node.metrics.clone(), node.settings.history_messages);
        let key = self.space.key.clone();
        let rooms: Vec<RoomName> = reads.iter().map(|(room, _)| room.clone()).collect();
        let read = spawn_blocking(move || {
            let started = std::time::Instant::now();
            let (mut stored, mut failed) = (Stored::new(), Vec::new());
            for (room, after) in reads {
                let of = RoomKey { tenant: key.tenant.clone(), namespace: key.namespace.clone(), room: room.clone() };
                match history.read_seq(&of, after, most) {
                    Ok(Some(messages)) => stored.push((room, messages)),
                    Ok(None) => failed.push(room),
                    Err(error) => {
                        tracing::error!(%error, "the history cannot be read for an event stream");
                        failed.push(room);
                    }
                }
            }
            let labels = StoreLabels { operation: StoreOperation::Read };
            metrics.store_latency_ms.get_or_create(&labels).observe(started.elapsed().as_secs_f64() * 1_000.0);
            (stored, failed)
        });
        read.await.unwrap_or((Stored::new(), rooms))
    }
}

#[cfg(test)]
mod tests {
    use tidegate_types::ErrorCode;

    use super::*;

    #[test]
    fn a_stream_has_each_of_its_rooms_once_and_a_refusal_names_the_room() {
        let given = |names: &[&str]| rooms(&names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>(), 2);
        let names = |rooms: Vec<RoomName>| rooms.iter().map(|room| room.as_str().to_owned()).collect::<Vec<_>>();
        assert_eq!(names(given(&["a", "b", "a"]).unwrap()), ["a", "b"]);
        for (wrong, named) in [(&["a", "b", "c"][..], "\"c\""), (&["a", ""], "\"\""), (&[], "at least one")] {
            let refused = given(wrong).unwrap_err();
            assert_eq!(refused.code, ErrorCode::BadRequest);
            assert!(refused.message.contains(named), "{}", refused.message);
        }
    }
}
