//! What is sent: a payload in the namespace's own message, or an event of the backend's own.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tidegate_hub::SocketId;
use tidegate_types::{Class, EventName, Millis, RoomName, UserId};
use tidegate_wire::write_string;

use super::caller::Caller;
use super::refused::Refused;
use crate::mailbox;
use crate::namespaces::Behaviour;
use crate::node::event_name;
use crate::rooms_api::message_data;

/// Names that Socket.IO's clients keep for themselves: an event of such a name never reaches its listeners.
const OF_CLIENTS: [&str; 6] =
    ["connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener"];
/// How the names begin of what the rooms API says itself.
const OF_ROOMS: [&str; 4] = ["room:", "presence:", "system:", "connection:"];

/// What a request wants to be sent.
pub(super) struct Content<'a> {
    pub event: Option<&'a EventName>,
    pub payload: Option<&'a RawValue>,
    pub data: Option<&'a RawValue>,
}

impl Content<'_> {
    /// An event of the backend's own, with its one argument; `None` if it is a payload.
    pub fn own(&self, behaviour: &Behaviour) -> Result<Option<(EventName, Bytes)>, Refused> {
        let Some(event) = self.event else {
            return match (self.payload, self.data) {
                (Some(_), None) if matches!(behaviour, Behaviour::Dialect(_)) => Err(no_message()),
                (Some(_), None) => Ok(None),
                (None, Some(_)) => Err(Refused::bad("event: it is missing; data is the argument of an event")),
                (Some(_), Some(_)) => Err(Refused::bad("data: it goes with an event; there is a payload already")),
                (None, None) => Err(Refused::bad("payload: it is missing, and so is an event with its data")),
            };
        };
        if self.payload.is_some() {
            return Err(Refused::bad("payload: it is sent as the namespace's own message; an event has data instead"));
        }
        self.is_free(event.as_str(), behaviour)?;
        Ok(Some((event.clone(), argument(self.data))))
    }

    fn is_free(&self, event: &str, behaviour: &Behaviour) -> Result<(), Refused> {
        if OF_CLIENTS.contains(&event) {
            return Err(Refused::bad(format!("event: clients of Socket.IO keep the name {event:?} for themselves")));
        }
        let is_ours = match behaviour {
            Behaviour::Rooms => OF_ROOMS.iter().any(|begin| event.starts_with(begin)),
            Behaviour::Dialect(_) | Behaviour::Handlers(_) => false,
        };
        if is_ours {
            return Err(Refused::bad(format!(
                "event: {event:?} is what the server says itself; send a payload instead"
            )));
        }
        Ok(())
    }

    /// For a room.
    pub fn for_room(
        &self,
        behaviour: &Behaviour,
        room: &RoomName,
        from: &UserId,
        id: &str,
        now: Millis,
    ) -> Result<(EventName, Bytes), Refused> {
        if let Some(own) = self.own(behaviour)? {
            return Ok(own);
        }
        let payload = self.payload.map_or("null", RawValue::get);
        match behaviour {
            Behaviour::Rooms => Ok((event_name("room:message"), message_data(id, room, from.as_str(), payload, now))),
            Behaviour::Dialect(_) | Behaviour::Handlers(_) => Err(no_message()),
        }
    }

    /// For users, whatever room they are in: with a payload the rooms API's `broadcast {event, payload}`.
    pub fn for_users(&self, behaviour: &Behaviour) -> Result<(EventName, Bytes), Refused> {
        let Some(payload) = self.payload else {
            let own = self.own(behaviour)?;
            return own.ok_or_else(|| Refused::bad("payload: it is missing, and so is an event with its data"));
        };
        if self.data.is_some() {
            return Err(Refused::bad("data: it goes with an event; there is a payload already"));
        }
        match behaviour {
            Behaviour::Rooms => {
                let mut data = br#"{"event":"#.to_vec();
                match self.event {
                    Some(event) => write_string(&mut data, event.as_str()),
                    None => data.extend_from_slice(b"null"),
                }
                data.extend_from_slice(br#","payload":"#);
                data.extend_from_slice(payload.get().as_bytes());
                data.push(b'}');
                Ok((event_name("broadcast"), data.into()))
            }
            Behaviour::Dialect(_) | Behaviour::Handlers(_) => Err(no_message()),
        }
    }
}

/// What a payload means is the rooms API's to say.
fn no_message() -> Refused {
    Refused::bad("payload: this namespace has no message of its own; name an event, with data as its argument")
}

fn argument(data: Option<&RawValue>) -> Bytes {
    data.map_or_else(Bytes::new, |data| Bytes::copy_from_slice(data.get().as_bytes()))
}

/// What is promised for it.
pub(super) fn class(persistent: bool, volatile: bool) -> Class {
    match (persistent, volatile) {
        (true, _) => Class::Persistent,
        (false, true) => Class::Volatile,
        (false, false) => Class::Recoverable,
    }
}

/// Who does not hear it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Except {
    /// All connections of a user.
    User(UserId),
    /// The connection with that id, as its client knows it.
    Connection(String),
}

impl Except {
    pub fn members(self, class: Class) -> Result<mailbox::Except, Refused> {
        if class != Class::Volatile {
            return Err(Refused::bad("except: what is replayed reaches everybody; with except, set volatile to true"));
        }
        Ok(match self {
            Self::User(user) => mailbox::Except::User(user),
            Self::Connection(id) => mailbox::Except::Socket(SocketId::from(id)),
        })
    }
}

/// Whose name it bears: that of the key, unless the backend names another.
pub(super) fn sender(caller: &Caller, named: Option<UserId>) -> Result<UserId, Refused> {
    let of_key =
        || UserId::try_from(caller.key.id()).map_err(|error| Refused::bad(format!("from: the key's id {error}")));
    named.map_or_else(of_key, Ok)
}

/// What has no binary values.
pub(super) fn no_attachments() -> Arc<[Bytes]> {
    Arc::from([])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    fn content<'a>(event: Option<&'a EventName>, payload: Option<&'a str>, data: Option<&'a str>) -> Content<'a> {
        Content { event, payload: payload.map(raw), data: data.map(raw) }
    }

    #[test]
    fn a_payload_and_an_event_do_not_go_together_in_a_room() {
        let event = EventName::try_from("order:paid").unwrap();
        let refused = |content: Content<'_>| content.own(&Behaviour::Rooms).unwrap_err().message;
        assert!(refused(content(Some(&event), Some("1"), None)).starts_with("payload: "));
        assert!(refused(content(None, Some("1"), Some("2"))).starts_with("data: "));
        assert!(refused(content(None, None, Some("2"))).starts_with("event: "));
        assert!(refused(content(None, None, None)).starts_with("payload: "));
        assert!(content(None, Some("1"), None).own(&Behaviour::Rooms).unwrap().is_none());
        let (name, data) = content(Some(&event), None, Some("[1, 2]")).own(&Behaviour::Rooms).unwrap().unwrap();
        assert_eq!((name, &data[..]), (event, &b"[1, 2]"[..]));
    }

    #[test]
    fn names_that_others_live_by_cannot_be_taken() {
        for name in ["connect", "disconnect", "room:message", "presence:join", "system:error", "connection:established"]
        {
            let event = EventName::try_from(name).unwrap();
            let refused = content(Some(&event), None, Some("1")).own(&Behaviour::Rooms).unwrap_err();
            assert!(refused.message.starts_with("event: "), "{}", refused.message);
        }
    }

    #[test]
    fn users_get_a_payload_as_a_broadcast() {
        let event = EventName::try_from("a\"b").unwrap();
        let (name, data) = content(Some(&event), Some("{}"), None).for_users(&Behaviour::Rooms).unwrap();
        assert_eq!((name.as_str(), &data[..]), ("broadcast", &br#"{"event":"a\"b","payload":{}}"#[..]));
        let (_, data) = content(None, Some("null"), None).for_users(&Behaviour::Rooms).unwrap();
        assert_eq!(&data[..], br#"{"event":null,"payload":null}"#);
    }
}
