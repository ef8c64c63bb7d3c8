//! Pages of a room's history: what the store keeps, and what memory still has beside it.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_cluster::HistoryError;
use tidegate_hub::GAP_EVENT;
use tidegate_types::{Position, Publication, RoomKey, RoomName};
use tidegate_wire::socket_io;
use tokio::task::spawn_blocking;

use crate::emit::quoted;
use crate::encoded::push_json_data;
use crate::node::SpaceCell;
use crate::opening::{Closed, Reading};
use crate::shard::Shard;

/// A page of a room's history as JSON: `messages` oldest first (those after `since`, or the newest), each as `push` writes
/// it, `position` to go on from, and `truncated` when messages that belong to it are no longer kept.
///
/// # Errors
/// The store cannot be read. What memory has completely is answered without it.
pub(crate) async fn page(
    shard: &Rc<Shard>,
    space: &Arc<SpaceCell>,
    room: &RoomName,
    since: Option<Position>,
    limit: usize,
    push: fn(&mut String, &Publication),
) -> Result<String, HistoryError> {
    let closed = |closed: Closed| HistoryError::Store(closed.to_string());
    let _reading = Reading::begin(&shard.node, space, room).await.map_err(closed)?;
    let (recent, head, known) = {
        let hub = space.lock();
        let head = hub.position(room);
        let known = since.filter(|since| since.epoch == head.epoch && since.offset <= head.offset);
        let (recent, head) = hub.recent(room, known.map(|since| since.offset), limit);
        (recent, head, known)
    };
    let complete = match known {
        Some(since) => reaches(&recent, since.offset, head.offset, limit),
        None => recent.len() == limit && no_hole(&recent),
    };
    let messages = if complete { recent } else { with_stored(shard, space, room, known, head, recent, limit).await? };
    let first = messages.first().map_or(head.offset.saturating_add(1), |first| offset(first));
    let truncated = match known {
        Some(since) => !reaches(&messages, since.offset, head.offset, limit),
        None => since.is_some() || !no_hole(&messages) || space.lock().has_older(room, first),
    };
    let position = match messages.last().and_then(|last| last.position) {
        Some(last) if known.is_some() && messages.len() == limit => last,
        _ => head,
    };
    Ok(encode(&messages, position, truncated, push))
}

/// Adds what the store keeps, up to the head: what is beyond it has its turn yet, perhaps behind something that is not in
/// the store.
async fn with_stored(
    shard: &Rc<Shard>,
    space: &Arc<SpaceCell>,
    room: &RoomName,
    known: Option<Position>,
    head: Position,
    recent: Vec<Arc<Publication>>,
    limit: usize,
) -> Result<Vec<Arc<Publication>>, HistoryError> {
    let history = shard.node.history.clone();
    let key = RoomKey { tenant: space.key.tenant.clone(), namespace: space.key.namespace.clone(), room: room.clone() };
    let read = spawn_blocking(move || match known {
        Some(since) => history.read(&key, since.offset, limit),
        None => history.tail(&key, head.offset.checked_add(1), limit),
    });
    let mut messages = read.await.map_err(|error| HistoryError::Store(error.to_string()))??;
    messages.retain(|message| offset(message) <= head.offset);
    messages.extend(recent);
    messages.sort_by_key(|message| offset(message));
    messages.dedup_by_key(|message| offset(message));
    match known {
        Some(_) => messages.truncate(limit),
        None => _ = messages.drain(..messages.len().saturating_sub(limit)),
    }
    Ok(messages)
}

fn offset(publication: &Publication) -> u64 {
    publication.position.map_or(0, |position| position.offset)
}

fn no_hole(messages: &[Arc<Publication>]) -> bool {
    messages.windows(2).all(|pair| match pair {
        [before, after] => offset(before).checked_add(1) == Some(offset(after)),
        _ => true,
    })
}

/// Whether the messages are all that came after an offset: up to the head, or as many as were wanted.
fn reaches(messages: &[Arc<Publication>], after: u64, head: u64, limit: usize) -> bool {
    let Some((first, last)) = messages.first().zip(messages.last()) else { return after == head };
    after.checked_add(1) == Some(offset(first))
        && no_hole(messages)
        && (messages.len() == limit || offset(last) == head)
}

fn encode(
    messages: &[Arc<Publication>],
    position: Position,
    truncated: bool,
    push: fn(&mut String, &Publication),
) -> String {
    let bytes: usize = messages.iter().map(|message| message.payload_bytes() + 8).sum();
    let mut page = String::with_capacity(bytes + 128);
    page.push_str(r#"{"messages":["#);
    // What tells of a message that never came to be is news for those who were there, and nothing to keep.
    let messages = messages.iter().filter(|message| message.event.as_str() != GAP_EVENT);
    for (index, message) in messages.enumerate() {
        if index > 0 {
            page.push(',');
        }
        push(&mut page, message);
    }
    page.push_str(&format!(r#"],"position":"{position}","truncated":{truncated}}}"#));
    page
}

/// A message of the past as Socket.IO clients get it: what its event had. An event of several arguments is a list, one
/// without any is `null`: each message is one value of the page.
pub(crate) fn push_data(page: &mut String, message: &Publication) {
    let data = std::str::from_utf8(&message.data).unwrap_or_default();
    // The rooms API's own messages have one argument, and need not be looked through.
    let arguments = if message.event.as_str() == "room:message" { 1 } else { socket_io::values(data).count() };
    match arguments {
        0 => page.push_str("null"),
        1 => push_json_data(page, message),
        _ => {
            page.push('[');
            push_json_data(page, message);
            page.push(']');
        }
    }
}

/// A message of the past as backends get it: with its place and its event's name.
pub(crate) fn push_entry(page: &mut String, message: &Publication) {
    let position = message.position.map_or_else(|| "null".to_owned(), |position| quoted(&position.to_string()));
    let event = quoted(message.event.as_str());
    let timestamp = message.timestamp_ms;
    page.push_str(&format!(r#"{{"position":{position},"event":{event},"timestamp":{timestamp},"args":["#));
    push_json_data(page, message);
    page.push_str("]}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_types::{Class, EventName, Namespace, SpaceKey, TenantId};

    #[test]
    fn each_message_is_one_value_of_a_page_however_many_arguments_its_event_has() {
        for (event, data, wanted) in [
            ("room:message", r#"{"a":1}"#, r#"{"a":1}"#),
            ("moved", "", "null"),
            ("moved", r#"{"a":[1,2]}"#, r#"{"a":[1,2]}"#),
            ("moved", r#"1,"two",{}"#, r#"[1,"two",{}]"#),
        ] {
            let space = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
            let message = Publication {
                space: Arc::new(space),
                room: RoomName::try_from("r").unwrap(),
                event: EventName::try_from(event).unwrap(),
                data: data.to_owned().into(),
                attachments: Arc::from([]),
                class: Class::Recoverable,
                position: None,
                seq: 0,
                timestamp_ms: 0,
            };
            let mut page = String::new();
            push_data(&mut page, &message);
            assert_eq!(page, wanted);
        }
    }
}
