//! What nodes tell each other without a place in any order: the bytes of a signal, and what is done with them.
//!
//! A signal is one byte for its form, one for its kind, and what its kind says. A node of another version may send what
//! this one does not know: that is passed over.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tidegate_cluster::Audience;
use tidegate_hub::SocketId;
use tidegate_types::{Class, EventName, NodeId, Publication, RoomName, SpaceKey, UserId};

use crate::mailbox::Except;
use crate::node::Node;

/// The form of all that is written here.
const FORM: u8 = 1;
/// A volatile message to the members of the room that the signal is for.
const VOLATILE: u8 = 1;

/// Attachments of one message.
const MOST_ATTACHMENTS: usize = 1_024;

/// Does what another node tells.
pub(crate) fn heard(node: &Arc<Node>, from: NodeId, to: Audience, body: &Bytes) {
    let mut body = body.clone();
    let (Ok(form), Ok(kind)) = (body.try_get_u8(), body.try_get_u8()) else { return };
    if form != FORM {
        return tracing::debug!(%from, form, "a signal of another version is passed over");
    }
    match (kind, to) {
        (VOLATILE, Audience::Room(space, room)) => match read_volatile(body, space, room) {
            Some((publication, except)) => node.deliver_volatile(publication, except.as_ref()),
            None => tracing::warn!(%from, "a signal cannot be read"),
        },
        (kind, _) => tracing::debug!(%from, kind, "a signal of an unknown kind is passed over"),
    }
}

/// A volatile message for other nodes' members of its room.
pub(crate) fn volatile(publication: &Publication, except: Option<&Except>) -> Bytes {
    let mut body = BytesMut::with_capacity(publication.payload_bytes() + publication.event.as_str().len() + 64);
    body.put_u8(FORM);
    body.put_u8(VOLATILE);
    match except {
        // That connection is this node's.
        None | Some(Except::Conn(_)) => body.put_u8(0),
        Some(Except::Socket(socket)) => {
            body.put_u8(1);
            put(&mut body, socket.as_str().as_bytes());
        }
        Some(Except::User(user)) => {
            body.put_u8(2);
            put(&mut body, user.as_str().as_bytes());
        }
    }
    body.put_u64(publication.timestamp_ms);
    put(&mut body, publication.event.as_str().as_bytes());
    put(&mut body, &publication.data);
    put_length(&mut body, publication.attachments.len());
    publication.attachments.iter().for_each(|attachment| put(&mut body, attachment));
    body.freeze()
}

fn read_volatile(mut body: Bytes, space: Arc<SpaceKey>, room: RoomName) -> Option<(Publication, Option<Except>)> {
    let except = match body.try_get_u8().ok()? {
        0 => None,
        1 => Some(Except::Socket(SocketId::from(text(&mut body)?))),
        2 => Some(Except::User(UserId::try_from(text(&mut body)?).ok()?)),
        _ => return None,
    };
    let timestamp_ms = body.try_get_u64().ok()?;
    let event = EventName::try_from(text(&mut body)?).ok()?;
    let data = take(&mut body)?;
    std::str::from_utf8(&data).ok()?;
    let count = length(&mut body)?;
    if count > MOST_ATTACHMENTS {
        return None;
    }
    let attachments = (0..count).map(|_| take(&mut body)).collect::<Option<_>>()?;
    let class = Class::Volatile;
    let publication =
        Publication { space, room, event, data, attachments, class, position: None, seq: 0, timestamp_ms };
    Some((publication, except))
}

fn put_length(body: &mut BytesMut, length: usize) {
    body.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

fn put(body: &mut BytesMut, bytes: &[u8]) {
    put_length(body, bytes.len());
    body.put_slice(bytes);
}

fn length(body: &mut Bytes) -> Option<usize> {
    usize::try_from(body.try_get_u32().ok()?).ok()
}

fn take(body: &mut Bytes) -> Option<Bytes> {
    let length = length(body)?;
    (length <= body.len()).then(|| body.split_to(length))
}

fn text(body: &mut Bytes) -> Option<String> {
    String::from_utf8(take(body)?.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use tidegate_types::{Namespace, TenantId};

    use super::*;

    fn publication() -> Publication {
        let space = SpaceKey { tenant: TenantId::default_tenant(), namespace: Namespace::root() };
        Publication {
            space: Arc::new(space),
            room: RoomName::try_from("r").unwrap(),
            event: EventName::try_from("typing").unwrap(),
            data: Bytes::from_static(br#"{"a":1}"#),
            attachments: Arc::from([Bytes::from_static(b"\x00\x01"), Bytes::new()]),
            class: Class::Volatile,
            position: None,
            seq: 0,
            timestamp_ms: 7,
        }
    }

    #[test]
    fn a_volatile_message_is_the_same_on_the_other_node() {
        let sent = publication();
        for except in [None, Some(Except::Socket("s".into())), Some(Except::User("u".try_into().unwrap()))] {
            let body = volatile(&sent, except.as_ref()).slice(2..);
            assert_eq!(read_volatile(body, sent.space.clone(), sent.room.clone()), Some((sent.clone(), except)));
        }
    }

    #[test]
    fn a_signal_cut_anywhere_is_refused() {
        let sent = publication();
        let body = volatile(&sent, Some(&Except::User("u".try_into().unwrap()))).slice(2..);
        for end in 0..body.len() {
            assert_eq!(read_volatile(body.slice(..end), sent.space.clone(), sent.room.clone()), None, "{end}");
        }
    }
}
