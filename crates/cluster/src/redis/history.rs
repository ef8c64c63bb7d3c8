//! [`History`] on Redis: what is kept is read from the rooms' logs, session records are written through the broker's thread.
//! Messages are appended and numbers handed out by the publish script, so those writes do not exist here.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidegate_hub::{Pid, SessionRecord, SpaceStart};
use tidegate_types::{Class, Millis, Publication, RoomKey, SpaceKey};
use tokio::sync::oneshot;

use super::answer::{RoomAnswer, is_other_run};
use super::broker::{BrokerSettings, Job, RedisBroker};
use super::call::Call;
use super::engine::Engine;
use super::inbox::Item;
use super::message::{self, Head};
use super::resp::Value;
use super::script;
use super::state::{LogState, RoomState};
use crate::{Broker, Full, History, HistoryError, HistoryStats, Write, Written};

/// How long a thread that reads waits. The links' own deadline is shorter.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is read of a room.
#[derive(Clone, Copy, Debug)]
pub(super) enum Page {
    /// After this offset, of both logs.
    After(u64, usize),
    /// The newest, below this offset, of both logs.
    Before(Option<u64>, usize),
    /// After this seq, of both logs.
    Seq(u64, usize),
}

/// What was found; the inner `None`: some of it may be gone.
pub(super) type Paged = Result<Option<Vec<Arc<Publication>>>, HistoryError>;

fn unreachable() -> HistoryError {
    HistoryError::Store("the cluster's broker cannot be reached".into())
}

/// Waits for the broker's thread, with a deadline in case that it hangs.
fn wait<T>(mut result: oneshot::Receiver<T>) -> Option<T> {
    let until = std::time::Instant::now() + PATIENCE;
    let thread = std::thread::current();
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Arc::new(Unpark(thread)).into();
    let mut context = std::task::Context::from_waker(&waker);
    loop {
        match Pin::new(&mut result).poll(&mut context) {
            std::task::Poll::Ready(result) => return result.ok(),
            std::task::Poll::Pending => {}
        }
        let left = until.checked_duration_since(std::time::Instant::now())?;
        std::thread::park_timeout(left);
    }
}

impl RedisBroker {
    fn page(&self, room: &RoomKey, page: Page) -> Paged {
        let room = Arc::new(room.clone());
        wait(self.ask(|answer| Job::Page(room, page, answer))).unwrap_or_else(|| Err(unreachable()))
    }
}

impl History for RedisBroker {
    fn load(&self) -> Result<Vec<(SpaceKey, SpaceStart)>, HistoryError> {
        Ok(Vec::new())
    }

    fn open_space(&self, key: &SpaceKey) -> Result<SpaceStart, HistoryError> {
        let key = Arc::new(key.clone());
        let start = wait(self.ask(|answer| Job::OpenSpace(key, answer)));
        start.and_then(Result::ok).ok_or_else(unreachable)
    }

    fn submit(&self, write: Write) -> Result<(), Full> {
        self.write(write)
    }

    fn queue_ready(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.has_room()
    }

    fn read(&self, room: &RoomKey, after_offset: u64, limit: usize) -> Result<Vec<Arc<Publication>>, HistoryError> {
        Ok(self.page(room, Page::After(after_offset, limit))?.unwrap_or_default())
    }

    fn tail(
        &self,
        room: &RoomKey,
        before_offset: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Arc<Publication>>, HistoryError> {
        let mut newest_first = self.page(room, Page::Before(before_offset, limit))?.unwrap_or_default();
        newest_first.reverse();
        Ok(newest_first)
    }

    fn read_seq(
        &self,
        room: &RoomKey,
        after_seq: u64,
        limit: usize,
    ) -> Result<Option<Vec<Arc<Publication>>>, HistoryError> {
        self.page(room, Page::Seq(after_seq, limit))
    }

    fn bounds(&self, room: &RoomKey) -> Option<(u64, u64)> {
        let offset = |found: Vec<Arc<Publication>>| found.first()?.position.map(|position| position.offset);
        let first = offset(self.page(room, Page::After(0, 1)).ok()??)?;
        let last = offset(self.page(room, Page::Before(None, 1)).ok()??)?;
        Some((first, last.max(first)))
    }

    fn session(&self, pid: &Pid) -> Result<Option<SessionRecord>, HistoryError> {
        wait(self.ask(|answer| Job::Session(pid.clone(), answer))).ok_or_else(unreachable)
    }

    fn healthy(&self) -> bool {
        self.is_connected()
    }

    fn stats(&self) -> HistoryStats {
        let shared = &self.shared;
        HistoryStats {
            appended: shared.published.load(Ordering::Relaxed),
            failed: shared.failed.load(Ordering::Relaxed),
            corrupt: shared.corrupt.load(Ordering::Relaxed),
            queued_items: shared.publishes.load(Ordering::Relaxed) + shared.session_writes.load(Ordering::Relaxed),
            queued_bytes: shared.publish_bytes.load(Ordering::Relaxed),
            ..HistoryStats::default()
        }
    }

    fn close(&self, _spaces: Vec<(SpaceKey, SpaceStart)>) -> Result<(), HistoryError> {
        // What was queued is sent; whoever waits for the end of it sees the channel close.
        wait(self.ask(Job::Close));
        Ok(())
    }
}

impl Engine {
    pub(super) fn write_is_foreign(&self, write: &Write) -> Option<Written> {
        match write {
            Write::Append(message) => Some(Written::Failed {
                space: Arc::clone(&message.space),
                seq: message.seq,
                error: "a cluster's messages are appended by its broker".into(),
            }),
            Write::Reserve { space, upto } => Some(Written::Reserved { space: Arc::clone(space), upto: *upto }),
            Write::SaveSession(_) | Write::DropSession(_) => None,
        }
    }

    pub(super) fn page(&mut self, room: Arc<RoomKey>, page: Page, answer: oneshot::Sender<Paged>) {
        let space = Arc::new(SpaceKey { tenant: room.tenant.clone(), namespace: room.namespace.clone() });
        let index = self.space(&space);
        let link = self.ready(index);
        let (Some(link), Some(entry)) = (link, self.spaces.get(index)) else {
            let _ = answer.send(Err(unreachable()));
            return;
        };
        let keys = &entry.keys;
        let script = |log: String| {
            let call = Call::script(&script::PAGE, &[keys.space(), keys.room(&room.room), log]);
            match page {
                Page::After(offset, limit) => call.arg("after").int(offset).int(limit.min(MOST)),
                Page::Before(Some(offset), limit) => call.arg("before").int(offset).int(limit.min(MOST)),
                Page::Before(None, limit) | Page::Seq(_, limit) => call.arg("before").arg("").int(limit.min(MOST)),
            }
        };
        let (call, of_ring) = match page {
            Page::After(..) | Page::Before(..) => {
                (script(keys.log(&room.room)), Some(link.call(script(keys.ring(&room.room)))))
            }
            Page::Seq(after, limit) => {
                (self.room_call(entry, &room.room, link.run_id(), Some((after, limit.min(MOST))), None), None)
            }
        };
        let calling = link.call(call);
        let (inbox, id, settings) = (Rc::clone(&self.inbox), link.id(), self.shared.settings.clone());
        tokio::task::spawn_local(async move {
            let paged = match calling.await {
                Ok(value) if is_other_run(&value) => {
                    inbox.put(Item::OtherRun { space: index, link: id });
                    Err(unreachable())
                }
                Ok(value) => match page {
                    Page::After(_, limit) | Page::Before(_, limit) => {
                        let mut found = by_offset(&value, &space, &room, &settings, &inbox);
                        if let (Ok(Some(found)), Some(of_ring)) = (&mut found, of_ring) {
                            // What is trimmed between the two calls is a hole, which is seen by whoever looks for one.
                            let of_ring = of_ring.await.ok();
                            let of_ring = of_ring.map(|value| by_offset(&value, &space, &room, &settings, &inbox));
                            if let Some(Ok(Some(of_ring))) = of_ring {
                                merge(found, of_ring, matches!(page, Page::Before(..)), limit);
                            }
                        }
                        found
                    }
                    Page::Seq(after, limit) => by_seq(value, &space, &room, after, limit, &settings, &inbox),
                },
                Err(error) => {
                    let text = error.to_string();
                    inbox.put(Item::Refused(error));
                    Err(HistoryError::Store(text))
                }
            };
            let _ = answer.send(paged);
        });
    }
}

/// Messages of both logs in the order of their offsets.
fn merge(found: &mut Vec<Arc<Publication>>, more: Vec<Arc<Publication>>, newest_first: bool, limit: usize) {
    let offset = |of: &Arc<Publication>| of.position.map_or(0, |position| position.offset);
    found.extend(more);
    found.sort_by_key(offset);
    if newest_first {
        found.reverse();
    }
    found.truncate(limit);
}

/// Messages that one read returns at most.
const MOST: usize = 20_000;

/// Whether a message may still be returned.
fn is_kept(head: &Head, log: &LogState, now: Millis, settings: &BrokerSettings) -> bool {
    let (age, most) = match head.class {
        Class::Persistent => (settings.ttl_ms, settings.max_bytes_per_room),
        Class::Recoverable | Class::Volatile => (settings.recovery_window_ms, settings.max_recoverable_bytes_per_room),
    };
    head.timestamp_ms.saturating_add(age) > now && log.bytes.saturating_sub(head.end_bytes) < most.max(1)
}

fn by_offset(
    value: &Value,
    space: &Arc<SpaceKey>,
    room: &RoomKey,
    settings: &BrokerSettings,
    inbox: &super::inbox::Inbox,
) -> Paged {
    let bad = || HistoryError::Store("Redis answered with something else than a page".into());
    let parts = value.array().ok_or_else(bad)?;
    let [_, state, now, values] = parts else { return Err(bad()) };
    let Some(state) = state.bytes().and_then(|state| RoomState::decode(state)) else {
        // Without counters nothing is known of the room.
        return Ok(Some(Vec::new()));
    };
    let now = now.int().and_then(|now| u64::try_from(now).ok()).ok_or_else(bad)?;
    let mut found = Vec::new();
    for value in values.array().ok_or_else(bad)? {
        let Some(bytes) = value.bytes() else { continue };
        match message::decode_entry(bytes, space, &room.room) {
            Ok((head, publication)) => {
                let log = match head.class {
                    Class::Persistent => &state.log,
                    Class::Recoverable | Class::Volatile => &state.ring,
                };
                if is_kept(&head, log, now, settings) {
                    found.push(Arc::new(publication));
                }
            }
            Err(kind) => inbox.put(Item::Foreign(kind)),
        }
    }
    Ok(Some(found))
}

fn by_seq(
    value: Value,
    space: &Arc<SpaceKey>,
    room: &RoomKey,
    after: u64,
    limit: usize,
    settings: &BrokerSettings,
    inbox: &super::inbox::Inbox,
) -> Paged {
    let answer = RoomAnswer::read(value, space, &room.room, usize::MAX)
        .ok_or_else(|| HistoryError::Store("Redis answered with something else than a room".into()))?;
    for kind in &answer.foreign {
        inbox.put(Item::Foreign(*kind));
    }
    let of = |head: &Head| if head.class == Class::Persistent { &answer.state.log } else { &answer.state.ring };
    let gone = answer.messages.iter().any(|(head, _)| !is_kept(head, of(head), answer.now, settings));
    if answer.damaged || gone || after < answer.head.trimmed_seq {
        return Ok(None);
    }
    Ok(Some(answer.messages.into_iter().take(limit).map(|(_, publication)| publication).collect()))
}
