//! A message on its way: bounded while it waits, one call, one answer.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidegate_types::Class;
use tokio::sync::oneshot;

use super::answer::is_other_run;
use super::broker::{BrokerSettings, Shared};
use super::call::Call;
use super::error::LinkError;
use super::keys::SpaceKeys;
use super::message::{HEAD_BYTES, Head, encode_body};
use super::pipeline::Answer;
use super::resp::{ErrorCode, Value};
use super::script;
use crate::{Outgoing, Placed, PublishError};

/// A message that may wait: what it takes of the bounds is given back when this is dropped.
pub(super) struct Ready {
    shared: Arc<Shared>,
    bytes: usize,
}

fn weight(message: &Outgoing) -> usize {
    message.data.len() + message.attachments.iter().map(bytes::Bytes::len).sum::<usize>() + 512
}

impl Ready {
    /// Whether the message may wait too.
    pub(super) fn reserve(shared: &Shared, message: &Outgoing) -> Result<(), PublishError> {
        let bytes = weight(message);
        let waiting = shared.publishes.fetch_add(1, Ordering::AcqRel);
        let before = shared.publish_bytes.fetch_add(bytes, Ordering::AcqRel);
        // One message more than the bytes allow is taken, so that a large one is not stuck.
        if waiting >= shared.settings.max_publishes || before >= shared.settings.max_publish_bytes {
            shared.publishes.fetch_sub(1, Ordering::AcqRel);
            shared.publish_bytes.fetch_sub(bytes, Ordering::AcqRel);
            return Err(PublishError::Behind);
        }
        Ok(())
    }

    /// The reservation of a message that has come to the broker's thread.
    pub(super) fn of(shared: &Arc<Shared>, message: &Outgoing) -> Self {
        Self { shared: Arc::clone(shared), bytes: weight(message) }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.shared.publishes.fetch_sub(1, Ordering::AcqRel);
        self.shared.publish_bytes.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

/// The call that publishes the message on a server that calls itself `run`.
pub(super) fn call(message: &Outgoing, keys: &SpaceKeys, run: &str, settings: &BrokerSettings) -> Call {
    let persistent = message.class == Class::Persistent;
    let room = &message.room;
    let log = if persistent { keys.log(room) } else { keys.ring(room) };
    let body = encode_body(&message.event, &message.data, &message.attachments);
    let payload = message.data.len() + message.attachments.iter().map(bytes::Bytes::len).sum::<usize>();
    let (most, bytes, age) = if persistent {
        (settings.max_messages_per_room, settings.max_bytes_per_room, settings.ttl_ms)
    } else {
        (settings.max_recoverable_per_room, settings.max_recoverable_bytes_per_room, settings.recovery_window_ms)
    };
    let (space, counters, channel) = (keys.space(), keys.room(room), keys.channel(room));
    let call = match &message.idempotency {
        Some(of) => {
            let once = keys.once(room, of);
            Call::script(&script::PUBLISH, &[&space, &counters, &log, &channel, &once])
        }
        None => Call::script(&script::PUBLISH, &[&space, &counters, &log, &channel]),
    };
    let call = call.arg(run).arg(if persistent { "2" } else { "1" }).arg(body).int(payload);
    let call = call.int(most.max(1)).int(bytes).int(age.max(1)).int(settings.room_ttl_ms());
    match &message.idempotency {
        Some(of) => call.int(of.window_ms.max(1)).arg(of.message_id.as_bytes()),
        None => call,
    }
}

/// What became of it.
pub(super) enum Outcome {
    Placed(Placed),
    /// The space has to be looked at first: nothing was published.
    OtherRun,
    Failed(PublishError),
    /// Something is under our keys that is not ours.
    Foreign(PublishError),
}

pub(super) fn outcome(answer: Result<Value, LinkError>) -> Outcome {
    match answer {
        Ok(value) if is_other_run(&value) => Outcome::OtherRun,
        Ok(value) => match placed(&value) {
            Some(placed) => Outcome::Placed(placed),
            // It may be kept: what was answered is not ours.
            None => Outcome::Foreign(PublishError::Unavailable),
        },
        Err(error) => refused(&error),
    }
}

fn refused(error: &LinkError) -> Outcome {
    match error {
        LinkError::Behind => Outcome::Failed(PublishError::Behind),
        LinkError::Unsent | LinkError::Unanswered => Outcome::Failed(PublishError::Unavailable),
        LinkError::Answered(error) => match error.code {
            ErrorCode::Misconf
            | ErrorCode::OutOfMemory
            | ErrorCode::NoReplicas
            | ErrorCode::NoPerm
            | ErrorCode::NoAuth
            | ErrorCode::WrongPass
            | ErrorCode::NoProto
            | ErrorCode::CrossSlot => Outcome::Failed(PublishError::Refused),
            ErrorCode::WrongType | ErrorCode::Other => Outcome::Foreign(PublishError::Refused),
            ErrorCode::Moved
            | ErrorCode::Ask
            | ErrorCode::TryAgain
            | ErrorCode::ClusterDown
            | ErrorCode::ReadOnly
            | ErrorCode::Loading
            | ErrorCode::MasterDown
            | ErrorCode::Busy
            | ErrorCode::NoScript => Outcome::Failed(PublishError::Unavailable),
        },
    }
}

/// The answer: the message's head, or a mark, the first one's head and its id.
fn placed(value: &Value) -> Option<Placed> {
    let bytes = value.bytes()?;
    let (head, duplicate) = match bytes.strip_prefix(&[2]) {
        Some(first) => {
            let (head, id) = first.split_at_checked(HEAD_BYTES)?;
            (head, Some(Arc::from(std::str::from_utf8(id).ok()?)))
        }
        None => (&bytes[..], None),
    };
    let head = Head::decode(head).ok()?;
    Some(Placed { position: head.position(), seq: head.seq, timestamp_ms: head.timestamp_ms, duplicate })
}

/// Tells the sender. `answer` and the reservation end here.
pub(super) async fn finish(
    calling: Answer,
    ready: Ready,
    answer: oneshot::Sender<Result<Placed, PublishError>>,
    told: impl FnOnce(&Outcome),
) {
    let outcome = outcome(calling.await);
    told(&outcome);
    let shared = Arc::clone(&ready.shared);
    drop(ready);
    let result = match outcome {
        Outcome::Placed(placed) => Ok(placed),
        Outcome::OtherRun => Err(PublishError::Unavailable),
        Outcome::Failed(error) | Outcome::Foreign(error) => Err(error),
    };
    let counter = if result.is_ok() { &shared.published } else { &shared.failed };
    counter.fetch_add(1, Ordering::Relaxed);
    let _ = answer.send(result);
}
