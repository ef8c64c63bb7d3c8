//! What a backend is sent, as JSON.

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use tidegate_auth::Principal;
use tidegate_types::{Millis, SpaceKey};

/// One event. What it has beside the first lines depends on its kind; see docs/webhooks.md.
#[derive(Debug, Serialize)]
pub(super) struct Event<'a> {
    pub event: &'static str,
    /// Milliseconds since the Unix epoch.
    pub time: Millis,
    pub tenant: &'a str,
    pub namespace: &'a str,
    /// The Socket.IO id; an event stream, and a client that is not in yet, have none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<&'a str>,
    pub user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<&'a str>,
    #[serde(flatten)]
    pub what: What<'a>,
}

#[derive(Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub(super) enum What<'a> {
    Connect {
        address: String,
        transport: &'static str,
        roles: &'a [Box<str>],
        permissions: &'a [Box<str>],
        /// Told, not asked: whether a session that was cut has come back.
        #[serde(skip_serializing_if = "Option::is_none")]
        recovered: Option<bool>,
    },
    Disconnect {
        reason: &'static str,
        /// Whether the session may come back.
        recoverable: bool,
        rooms: &'a [String],
    },
    Room {
        room: &'a str,
    },
    Publish {
        room: &'a str,
        /// The event that the members get, and its data.
        name: &'a str,
        data: &'a RawValue,
        persistent: bool,
        volatile: bool,
    },
    Client {
        name: &'a str,
        /// All arguments.
        args: &'a RawValue,
        /// Whether the client waits for an answer.
        ack: bool,
    },
}

impl<'a> Event<'a> {
    pub fn new(
        event: &'static str,
        time: Millis,
        space: &'a SpaceKey,
        principal: &'a Principal,
        socket: Option<&'a str>,
        what: What<'a>,
    ) -> Self {
        Self {
            event,
            time,
            tenant: space.tenant.as_str(),
            namespace: space.namespace.as_str(),
            socket,
            user: principal.user.as_str(),
            username: principal.username.as_deref(),
            what,
        }
    }

    pub fn json(&self) -> Bytes {
        serde_json::to_vec(self).unwrap_or_default().into()
    }
}

/// The body that tells of several events.
pub(super) fn batch(events: &[Bytes]) -> Bytes {
    let mut body = Vec::with_capacity(events.iter().map(|event| event.len() + 1).sum::<usize>() + 16);
    body.extend_from_slice(br#"{"events":["#);
    for (index, event) in events.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        body.extend_from_slice(event);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

#[cfg(test)]
mod tests {
    use tidegate_types::{Namespace, TenantId, UserId};

    use super::*;

    fn json(event: &'static str, socket: Option<&str>, what: What<'_>) -> String {
        let space = SpaceKey { tenant: TenantId::try_from("acme").unwrap(), namespace: Namespace::root() };
        let principal = Principal::new(space.tenant.clone(), UserId::try_from("ada").unwrap());
        String::from_utf8(Event::new(event, 1_700_000_000_000, &space, &principal, socket, what).json().to_vec())
            .unwrap()
    }

    #[test]
    fn an_event_says_who_and_where_and_then_what() {
        assert_eq!(
            json("join", Some("s1"), What::Room { room: "quay" }),
            r#"{"event":"join","time":1700000000000,"tenant":"acme","namespace":"/","socket":"s1","user":"ada","room":"quay"}"#
        );
        let rooms = ["quay".to_owned()];
        let left = What::Disconnect { reason: "ping_timeout", recoverable: true, rooms: &rooms };
        assert!(
            json("disconnect", None, left)
                .ends_with(r#""user":"ada","reason":"ping_timeout","recoverable":true,"rooms":["quay"]}"#)
        );
    }

    #[test]
    fn data_stands_in_it_as_the_client_wrote_it() {
        let data = RawValue::from_string(r#"{"n": 1.50,"text":"\u00e9"}"#.to_owned()).unwrap();
        let sent = What::Publish { room: "quay", name: "room:message", data: &data, persistent: true, volatile: false };
        let sent = json("publish", Some("s1"), sent);
        assert!(sent.contains(r#""data":{"n": 1.50,"text":"\u00e9"},"persistent":true"#), "{sent}");
    }

    #[test]
    fn a_batch_is_an_object_with_a_list() {
        assert_eq!(batch(&[Bytes::from_static(b"{}"), Bytes::from_static(b"{}")]), r#"{"events":[{},{}]}"#);
    }
}
