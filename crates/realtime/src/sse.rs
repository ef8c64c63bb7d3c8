//! One room or several as an event stream: the same messages, with an id to resume from by `Last-Event-ID`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tidegate_types::{CloseReason, Position, Publication, RoomName, SessionOffset};
use tidegate_wire::sse;

use crate::connection::Conn;
use crate::encoded::{Encoded, EventId, Kind};
use crate::outbox::{Outbox, Sent};
use crate::shard::Shard;

/// The writing half, held by the shard.
pub(crate) struct EventQueue {
    shared: Rc<Shared>,
    /// While older events are being read from the store, live ones wait here.
    held: Option<Vec<Arc<Encoded>>>,
    id: EventId,
    /// Whether the reader wants to know who comes and goes.
    presence: bool,
}

#[derive(Default)]
struct Shared {
    outbox: RefCell<Outbox>,
    waker: RefCell<Option<Waker>>,
    ended: Cell<bool>,
}

impl Shared {
    fn push(&self, bytes: Bytes) {
        self.outbox.borrow_mut().push(bytes);
        self.wake();
    }

    fn push_replayed(&self, bytes: Bytes) {
        self.outbox.borrow_mut().push_replayed(bytes);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

impl EventQueue {
    pub fn new(id: EventId, presence: bool) -> Self {
        Self { shared: Rc::default(), held: None, id, presence }
    }

    /// Whether the reader wants to know who comes and goes.
    pub fn tells_presence(&self) -> bool {
        self.presence
    }

    /// Live events wait until [`EventQueue::release`].
    pub fn hold(&mut self) {
        self.held = Some(Vec::new());
    }

    /// Sends older events and then those that were held, each once, with a `gap` event where some are lost. `head` is the
    /// room's position when the live events began: what is after it comes by mailbox, even if the store has it already.
    pub fn release(&mut self, room: &RoomName, after: u64, head: Position, older: Vec<Arc<Publication>>) {
        let held = self.held.take().unwrap_or_default();
        let mut last = after;
        let mut volatile = Vec::new();
        let older = older
            .into_iter()
            .filter(|publication| publication.position.is_some_and(|position| position.offset <= head.offset));
        let older = older.map(|publication| Arc::new(Encoded::message(publication, false)));
        for encoded in older.chain(held) {
            let Some(position) = encoded.publication().position else {
                volatile.push(encoded);
                continue;
            };
            if position.offset <= last {
                continue;
            }
            if position.offset > last + 1 {
                self.gap(room, last + 1, position.offset - 1);
            }
            last = position.offset;
            self.shared.push_replayed(encoded.event(self.id).clone());
        }
        if last < head.offset {
            self.gap(room, last + 1, head.offset);
        }
        volatile.iter().for_each(|encoded| self.shared.push(encoded.event(self.id).clone()));
    }

    /// Tells the reader that events are lost to it.
    pub fn gap(&self, room: &RoomName, from: u64, to: u64) {
        let data = serde_json::json!({ "room": room, "from": from, "to": to }).to_string();
        let mut event = Vec::new();
        sse::encode_event(&mut event, None, Some("gap"), &data);
        self.shared.push(event.into());
    }

    pub fn push_run(&mut self, run: &[&Arc<Encoded>], limit: usize) -> (usize, Sent) {
        let presence = self.presence;
        let events = run.iter().filter(|encoded| match encoded.kind() {
            Kind::Message => true,
            Kind::Presence => presence,
            Kind::Broadcast => false,
        });
        if let Some(held) = self.held.as_mut() {
            // Who is there is told as a whole, once the stream begins.
            held.extend(events.filter(|encoded| encoded.kind() == Kind::Message).map(|encoded| Arc::clone(encoded)));
            let bytes: usize = held.iter().map(|encoded| encoded.payload_bytes()).sum();
            return (0, if bytes > limit { Sent::Full } else { Sent::Taken });
        }
        let id = self.id;
        let total: usize = events.clone().map(|encoded| encoded.event(id).len()).sum();
        if !self.shared.outbox.borrow().fits(total, limit) {
            return (0, Sent::Full);
        }
        let mut count = 0;
        for encoded in events {
            self.shared.push(encoded.event(id).clone());
            count += 1;
        }
        (count, Sent::Taken)
    }

    /// The first bytes of a stream of several rooms: what was missed, which rooms are without what they missed, and where
    /// the stream stands. The loss has no id and comes first: a reader that is cut before it has the rest asks for all of
    /// it again.
    pub fn begin_several(
        &self,
        retry_ms: u64,
        unknown: &[RoomName],
        missed: Vec<Arc<Publication>>,
        head: SessionOffset,
    ) {
        self.retry(retry_ms);
        if !unknown.is_empty() {
            let data = serde_json::json!({ "rooms": unknown, "offset": head.to_string() }).to_string();
            let mut event = Vec::new();
            sse::encode_event(&mut event, None, Some("gap"), &data);
            self.shared.push(event.into());
        }
        for publication in missed {
            self.shared.push_replayed(Encoded::message(publication, false).event(self.id).clone());
        }
        self.shared.push(format!("id: {head}\n\n").into());
    }

    /// Who is in a room as the stream begins.
    pub fn snapshot(&self, presence: &Encoded) {
        self.shared.push_replayed(presence.event(self.id).clone());
    }

    /// The stream's first bytes: how long to wait before a reconnect, and where the stream stands, so that a client that
    /// receives nothing else resumes from here.
    pub fn begin(&self, retry_ms: u64, position: Position) {
        let mut bytes = Vec::new();
        sse::encode_retry(&mut bytes, retry_ms);
        bytes.extend_from_slice(format!("id: {position}\n\n").as_bytes());
        self.shared.push(bytes.into());
    }

    /// A heartbeat.
    pub fn comment(&self) {
        if self.shared.outbox.borrow().is_empty() {
            self.shared.push(Bytes::from_static(b": heartbeat\n\n"));
        }
    }

    /// Tells the reader something that is no message.
    pub fn tell(&self, event: Bytes) {
        self.shared.push(event);
    }

    /// Asks the client to wait so long before it reconnects.
    pub fn retry(&self, wait_ms: u64) {
        let mut bytes = Vec::new();
        sse::encode_retry(&mut bytes, wait_ms);
        self.shared.push(bytes.into());
    }

    /// What is queued is still sent, then the stream ends.
    pub fn end(self) {
        self.shared.ended.set(true);
        self.shared.wake();
    }

    /// The reading half, for the response.
    pub fn stream(&self, shard: &Rc<Shard>, conn: &Rc<Conn>) -> EventStream {
        EventStream { shared: self.shared.clone(), shard: shard.clone(), conn: conn.clone() }
    }
}

/// The events of one subscription, as a response body. Dropping it ends the subscription.
pub struct EventStream {
    shared: Rc<Shared>,
    shard: Rc<Shard>,
    conn: Rc<Conn>,
}

impl EventStream {
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut waiting = self.shared.outbox.borrow_mut().take();
        match waiting.len() {
            0 if self.shared.ended.get() => Poll::Ready(None),
            0 => {
                *self.shared.waker.borrow_mut() = Some(cx.waker().clone());
                Poll::Pending
            }
            1 => Poll::Ready(waiting.pop_front()),
            _ => {
                let mut bytes = BytesMut::with_capacity(waiting.iter().map(Bytes::len).sum());
                waiting.iter().for_each(|event| bytes.extend_from_slice(event));
                Poll::Ready(Some(bytes.freeze()))
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.shard.end(&self.conn, CloseReason::TransportClosed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_types::{Class, Epoch, EventName, Namespace, SpaceKey, TenantId};

    fn at(offset: u64) -> Position {
        Position { epoch: Epoch(1), offset }
    }

    fn message(offset: u64) -> Arc<Publication> {
        let space = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
        Arc::new(Publication {
            space: Arc::new(space),
            room: RoomName::try_from("r").unwrap(),
            event: EventName::try_from("room:message").unwrap(),
            data: Bytes::from_static(b"{}"),
            attachments: Arc::from([]),
            class: Class::Persistent,
            position: Some(at(offset)),
            seq: offset,
            timestamp_ms: 0,
        })
    }

    fn sent(queue: &EventQueue) -> String {
        let waiting = queue.shared.outbox.borrow_mut().take();
        waiting.iter().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).collect()
    }

    #[test]
    fn what_the_store_has_and_the_mailbox_still_brings_is_sent_once() {
        let mut queue = EventQueue::new(EventId::Position, false);
        queue.hold();
        let held = Arc::new(Encoded::message(message(3), false));
        queue.push_run(&[&held], 1_000);
        // 3 and 4 came after the stream had joined at 2; 4 is still in the mailbox.
        let room = RoomName::try_from("r").unwrap();
        queue.release(&room, 0, at(2), vec![message(1), message(2), message(3), message(4)]);
        let live = Arc::new(Encoded::message(message(4), false));
        queue.push_run(&[&live], 1_000);
        let ids: Vec<String> =
            sent(&queue).lines().filter_map(|line| line.strip_prefix("id: ")).map(str::to_owned).collect();
        assert_eq!(ids, ["1-1", "1-2", "1-3", "1-4"]);
    }

    #[test]
    fn a_hole_before_the_live_events_is_told() {
        let mut queue = EventQueue::new(EventId::Position, false);
        queue.hold();
        queue.release(&RoomName::try_from("r").unwrap(), 0, at(3), vec![message(2)]);
        let text = sent(&queue);
        assert_eq!(text.matches("event: gap").count(), 2, "{text}");
        assert!(text.contains(r#""from":1"#) && text.contains(r#""from":3"#), "{text}");
    }
    fn in_room(name: &str, seq: u64) -> Arc<Publication> {
        Arc::new(Publication { room: RoomName::try_from(name).unwrap(), seq, ..(*message(1)).clone() })
    }

    fn ids(text: &str) -> Vec<&str> {
        text.lines().filter_map(|line| line.strip_prefix("id: ")).collect()
    }

    #[test]
    fn several_rooms_begin_with_what_was_missed_and_where_the_stream_stands() {
        let mut queue = EventQueue::new(EventId::SessionOffset, false);
        let head = SessionOffset { epoch: Epoch(1), seq: 9 };
        queue.begin_several(2_000, &[], vec![in_room("a", 4), in_room("b", 7)], head);
        let live = Arc::new(Encoded::message(in_room("a", 10), true));
        queue.push_run(&[&live], 1_000);
        let text = sent(&queue);
        assert!(text.starts_with("retry: 2000\n\nid: "), "{text}");
        assert_eq!(ids(&text), ["1.4", "1.7", "1.9", "1.10"]);
        assert!(!text.contains("gap"), "{text}");
    }

    #[test]
    fn a_loss_is_told_before_the_messages_of_other_rooms_and_moves_no_reader() {
        let queue = EventQueue::new(EventId::SessionOffset, false);
        let lost = [RoomName::try_from("c").unwrap()];
        queue.begin_several(2_000, &lost, vec![in_room("a", 4)], SessionOffset { epoch: Epoch(1), seq: 9 });
        let text = sent(&queue);
        let gap = "event: gap\ndata: {\"offset\":\"1.9\",\"rooms\":[\"c\"]}\n\n";
        assert!(text.starts_with(&format!("retry: 2000\n\n{gap}id: 1.4\n")), "{text}");
        assert_eq!(ids(&text), ["1.4", "1.9"]);
    }

    #[test]
    fn what_is_lost_to_all_who_listen_is_a_gap_and_is_not_dropped() {
        let lost = Publication {
            event: EventName::try_from("room:gap").unwrap(),
            data: bytes::Bytes::from_static(br#"{"room":"r","from":2,"to":4}"#),
            class: Class::Recoverable,
            position: None,
            seq: 0,
            ..(*message(1)).clone()
        };
        let lost = Arc::new(Encoded::message(Arc::new(lost), true));
        assert!(!lost.is_volatile());
        let mut queue = EventQueue::new(EventId::Position, false);
        assert_eq!(queue.push_run(&[&lost], 1_000), (1, Sent::Taken));
        assert_eq!(sent(&queue), "event: gap\ndata: {\"room\":\"r\",\"from\":2,\"to\":4}\n\n");
    }

    #[test]
    fn presence_is_named_has_no_id_and_goes_to_whom_it_was_promised() {
        let presence = Publication {
            event: EventName::try_from("presence:leave").unwrap(),
            class: Class::Volatile,
            position: None,
            seq: 0,
            ..(*message(1)).clone()
        };
        let presence = Arc::new(Encoded::presence(Arc::new(presence)));
        let mut with = EventQueue::new(EventId::SessionOffset, true);
        assert_eq!(with.push_run(&[&presence], 1_000), (1, Sent::Taken));
        assert_eq!(sent(&with), "event: presence:leave\ndata: {}\n\n");
        let mut without = EventQueue::new(EventId::SessionOffset, false);
        assert_eq!(without.push_run(&[&presence], 1_000), (0, Sent::Taken));
        // What an application broadcasts is no presence.
        let broadcast = Arc::new(Encoded::broadcast(message(1)));
        assert_eq!(with.push_run(&[&broadcast], 1_000), (0, Sent::Taken));
        assert_eq!(sent(&with) + &sent(&without), "");
    }
}
