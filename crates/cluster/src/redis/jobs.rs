//! What other threads ask for, carried out on the broker's thread.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tidegate_hub::{Pid, SpaceStart};
use tidegate_types::{RoomName, SpaceKey, UserId};
use tokio::sync::oneshot;

use super::answer::{RoomAnswer, counters, is_other_run};
use super::broker::Job;
use super::call::Call;
use super::engine::Engine;
use super::error::LinkError;
use super::inbox::Item;
use super::message::{self, Foreign};
use super::publish::{self, Outcome, Ready};
use super::resp::{ErrorCode, ServerError, Value};
use super::sessions::{self, Answered};
use super::slot::Slot;
use crate::{Audience, Claimed, Look, Outgoing, Placed, PublishError, Unavailable, Write, Written};

type Answer<T> = oneshot::Sender<T>;

impl Engine {
    pub(super) fn job(&mut self, job: Job) {
        match job {
            Job::Publish(message, answer) => self.publish(&message, answer),
            Job::Signal(to, body) => self.signal(&to, &body),
            Job::Follow(space, room) => {
                let index = self.space(&space);
                self.with_space(index, |space, out| space.follow(&room, out));
            }
            Job::Unfollow(space, room) => {
                let index = self.space(&space);
                self.with_space(index, |space, out| space.unfollow(&room, out));
            }
            Job::CatchUp(space) => {
                let index = self.space(&space);
                self.with_space(index, |space, out| space.catch_up(out));
            }
            Job::Lease(space, room, user, info) => {
                let index = self.space(&space);
                self.lease(index, room, user, info);
            }
            Job::Look(space, room, answer) => self.look(&space, room, answer),
            Job::Claim(space, pid, user, answer) => self.claim(space, pid, user, answer),
            Job::Keep(name, value, ttl_ms, answer) => self.keep(&name, &value, ttl_ms, answer),
            Job::Set(name, value, ttl_ms, answer) => self.set(&name, value, ttl_ms, answer),
            Job::Get(name, answer) => self.get(&name, answer),
            Job::Take(name, answer) => self.take(&name, answer),
            Job::List(kind, most, answer) => self.list(kind, most, answer),
            Job::Count(told, answer) => self.count(&told, answer),
            Job::Seat(space, user, held, most, answer) => self.seat(&space, user.as_ref(), held, most, answer),
            Job::OpenSpace(space, answer) => self.open_space(&space, answer),
            Job::Page(room, page, answer) => self.page(room, page, answer),
            Job::Session(pid, answer) => self.session(&pid, answer),
            Job::EndLeases(node, answer) => self.end_leases(node, answer),
            Job::ComeBack(answer) => {
                self.come_back();
                let _ = answer.send(Ok(()));
            }
            Job::Write(write) => match self.write_is_foreign(&write) {
                Some(written) => {
                    self.shared.session_writes.fetch_sub(1, Ordering::AcqRel);
                    (self.on_written)(&[written]);
                }
                None => {
                    self.sessions.put(write);
                    self.pump_sessions();
                }
            },
            Job::Call(key, call, answer) => self.call(&key, call, move |result| drop(answer.send(result))),
            // The loop sees to it.
            Job::Close(_) => {}
        }
    }

    /// A call to the server that has the key; `then` gets its answer.
    pub(super) fn call(&self, key: &[u8], call: Call, then: impl FnOnce(Result<Value, LinkError>) + 'static) {
        match self.links.link(Slot::of(key)) {
            Ok(link) => {
                let answer = link.call(call);
                tokio::task::spawn_local(async move { then(answer.await) });
            }
            Err(_) => then(Err(LinkError::Unsent)),
        }
    }

    fn publish(&mut self, message: &Outgoing, answer: Answer<Result<Placed, PublishError>>) {
        let ready = Ready::of(&self.shared, message);
        let index = self.space(&message.space);
        let link = self.ready(index);
        let (Some(link), Some(entry)) = (link, self.spaces.get(index)) else {
            self.shared.failed.fetch_add(1, Ordering::Relaxed);
            let _ = answer.send(Err(PublishError::Unavailable));
            return;
        };
        let call = publish::call(message, &entry.keys, link.run_id(), &self.shared.settings);
        let (inbox, seen) = (Rc::clone(&self.inbox), Rc::clone(&entry.seen));
        let calling = link.call(call);
        let (id, run) = (link.id(), Rc::clone(link.run_id()));
        tokio::task::spawn_local(publish::finish(calling, ready, answer, move |outcome| match outcome {
            Outcome::Placed(placed) if placed.duplicate.is_none() => {
                seen.borrow_mut().see(placed.position.epoch, placed.seq, &run);
            }
            Outcome::OtherRun => inbox.put(Item::OtherRun { space: index, link: id }),
            Outcome::Foreign(error) => {
                let text = format!("a message could not be published: {error}").into();
                inbox.put(Item::Refused(LinkError::Answered(ServerError { code: ErrorCode::Other, text })));
            }
            Outcome::Placed(_) | Outcome::Failed(_) => {}
        }));
    }

    fn signal(&mut self, to: &Audience, body: &Bytes) {
        self.shared.signal_bytes.fetch_sub(body.len() + 256, Ordering::AcqRel);
        let channel = match to {
            Audience::Room(space, room) => {
                let index = self.space(space);
                let Some(entry) = self.spaces.get(index) else { return };
                entry.keys.channel(room)
            }
            Audience::Nodes => self.keys.all(),
            Audience::Node(node) => self.keys.node(*node),
        };
        if let Ok(link) = self.links.link(Slot::of(channel.as_bytes())) {
            let frame = message::encode_signal(self.shared.node, body);
            drop(link.call(Call::new("SPUBLISH").arg(channel).arg(frame)));
        }
    }

    fn look(&mut self, space: &Arc<SpaceKey>, room: RoomName, answer: Answer<Result<Look, Unavailable>>) {
        let index = self.space(space);
        let link = self.ready(index);
        let (Some(link), Some(entry)) = (link, self.spaces.get(index)) else {
            let _ = answer.send(Err(Unavailable));
            return;
        };
        let calling = link.call(self.room_call(entry, &room, link.run_id(), None, None));
        let (inbox, space, id) = (Rc::clone(&self.inbox), Arc::clone(space), link.id());
        tokio::task::spawn_local(async move {
            let value = calling.await;
            let read = |value: Value| RoomAnswer::read(value, &space, &room, usize::MAX);
            let looked = match value {
                Ok(value) if is_other_run(&value) => {
                    inbox.put(Item::OtherRun { space: index, link: id });
                    Err(Unavailable)
                }
                Ok(value) => read(value).ok_or(Unavailable),
                Err(_) => Err(Unavailable),
            };
            let look = |looked: RoomAnswer| Look { epoch: looked.epoch, head: looked.head, leases: looked.leases };
            let _ = answer.send(looked.map(look));
        });
    }

    fn claim(
        &mut self,
        space: Arc<SpaceKey>,
        pid: Pid,
        user: UserId,
        answer: Answer<Result<Option<Claimed>, Unavailable>>,
    ) {
        let index = self.space(&space);
        let link = self.ready(index);
        let (Some(link), Some(entry)) = (link, self.spaces.get(index)) else {
            let _ = answer.send(Err(Unavailable));
            return;
        };
        let calling = link.call(sessions::claim(&entry.keys, self.shared.node, &pid, &user, link.run_id()));
        let (inbox, id) = (Rc::clone(&self.inbox), link.id());
        tokio::task::spawn_local(async move {
            let result = match calling.await {
                Ok(value) => match sessions::claimed(value, &space, &pid, &user) {
                    Answered::Claimed(claimed) => Ok(Some(*claimed)),
                    Answered::Nobody => Ok(None),
                    Answered::OtherRun => {
                        inbox.put(Item::OtherRun { space: index, link: id });
                        Err(Unavailable)
                    }
                    Answered::Foreign => {
                        inbox.put(Item::Foreign(Foreign::Corrupt));
                        Ok(None)
                    }
                },
                // What is under the key is no record: there is no such session.
                Err(error) if error.code() == Some(ErrorCode::WrongType) => {
                    inbox.put(Item::Refused(error));
                    Ok(None)
                }
                Err(_) => Err(Unavailable),
            };
            let _ = answer.send(result);
        });
    }

    fn open_space(&mut self, space: &Arc<SpaceKey>, answer: Answer<Result<SpaceStart, Unavailable>>) {
        let index = self.space(space);
        self.touch(index, None);
        let link = self.ready(index);
        let (Some(link), Some(entry)) = (link, self.spaces.get(index)) else {
            let _ = answer.send(Err(Unavailable));
            return;
        };
        // Behind the look at the counters that the line above has sent.
        let calling = link.call(Call::new("HMGET").arg(entry.keys.space()).arg("e").arg("s"));
        tokio::task::spawn_local(async move {
            let known = calling.await.ok().as_ref().and_then(counters);
            let start = known.map(|(epoch, seq)| SpaceStart { last_seq: seq, ..SpaceStart::fresh(epoch) });
            let _ = answer.send(start.ok_or(Unavailable));
        });
    }

    /// Sends the next group of session writes, if the last one is through.
    pub(super) fn pump_sessions(&mut self) {
        if !self.links.is_connected() {
            return;
        }
        let group = self.sessions.group();
        if group.is_empty() {
            return;
        }
        let (node, ttl) = (self.shared.node, self.shared.settings.live_session_ttl_ms());
        let now = crate::system_clock()();
        let mut calls = Vec::with_capacity(group.len());
        for write in group {
            let (space, is_over) = match &write {
                Write::SaveSession(record) => {
                    let key = SpaceKey { tenant: record.tenant.clone(), namespace: record.namespace.clone() };
                    (Some(Arc::new(key)), sessions::ttl_ms(record, now, ttl).is_none())
                }
                Write::DropSession(pid) => (self.sessions.space_of(pid).cloned(), false),
                Write::Append(_) | Write::Reserve { .. } => (None, false),
            };
            let calling = space.as_ref().and_then(|space| {
                let keys = self.keys.space(space);
                let link = self.links.link(Slot::of(keys.space().as_bytes())).ok();
                let call = match &write {
                    Write::SaveSession(record) if is_over => sessions::drop(&keys, node, &record.pid),
                    Write::SaveSession(record) => {
                        sessions::save(&keys, node, record, sessions::ttl_ms(record, now, ttl).unwrap_or(1))
                    }
                    Write::DropSession(pid) => sessions::drop(&keys, node, pid),
                    Write::Append(_) | Write::Reserve { .. } => return None,
                };
                Some(match link {
                    Some(link) => Ok(link.call(call)),
                    None => Err(LinkError::Unsent),
                })
            });
            self.sessions.knows(&write, space.as_ref());
            calls.push((write, calling));
        }
        let inbox = Rc::clone(&self.inbox);
        tokio::task::spawn_local(async move {
            let mut sent = Vec::with_capacity(calls.len());
            for (write, calling) in calls {
                let result = match calling {
                    Some(Ok(calling)) => calling.await,
                    Some(Err(error)) => Err(error),
                    // A session that is not known here has no record to drop.
                    None => Ok(Value::Nil),
                };
                sent.push((write, result));
            }
            inbox.put(Item::Written(sent));
        });
    }

    pub(super) fn written(&mut self, sent: sessions::Sent) {
        let decided = self.sessions.sent(sent);
        let count = decided.len();
        let mut written = Vec::with_capacity(count);
        for (write, result) in decided {
            if let Err(error) = &result {
                self.unsaved(&write, error);
            }
            if let Write::SaveSession(record) = write {
                written.push(Written::Saved { pid: record.pid });
            }
        }
        self.shared.session_writes.fetch_sub(count, Ordering::AcqRel);
        self.shared.session_room.notify_waiters();
        if !written.is_empty() {
            (self.on_written)(&written);
        }
        if count > 0 {
            self.pump_sessions();
        }
    }

    /// The record will not be stored. What is there of it is older, and would promise what does not hold: it goes too.
    fn unsaved(&mut self, write: &Write, error: &LinkError) {
        self.refused(error);
        tracing::warn!("a session's record was not stored: {error}; its client will start afresh if it is cut off");
        if let Write::SaveSession(record) = write {
            let key = SpaceKey { tenant: record.tenant.clone(), namespace: record.namespace.clone() };
            let name = self.keys.space(&key).session(&record.pid);
            self.call(name.as_bytes(), Call::new("DEL").arg(&name), |_| {});
        }
    }

    fn session(&mut self, pid: &Pid, answer: Answer<Option<tidegate_hub::SessionRecord>>) {
        let Some(space) = self.sessions.space_of(pid).cloned() else {
            let _ = answer.send(None);
            return;
        };
        let name = self.keys.space(&space).session(pid);
        let pid = pid.clone();
        self.call(name.as_bytes(), Call::new("GET").arg(&name), move |result| {
            let value = result.ok();
            let record = value.as_ref().and_then(Value::bytes).and_then(|value| sessions::decode(&pid, value));
            let _ = answer.send(record.map(|(_, _, record)| record));
        });
    }
}
