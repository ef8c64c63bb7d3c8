//! Messages to many rooms, to users, or to everybody of a namespace.

use std::collections::HashSet;
use std::fmt;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use rustc_hash::FxHashSet;
use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use tidegate_auth::Scope;
use tidegate_types::{Class, EventName, IdempotencyKey, Publication, RoomName, TenantId, UserId};
use tokio::task::yield_now;

use super::action::Done;
use super::caller::Caller;
use super::message::{self, Content};
use super::publish::send;
use super::refused::Refused;
use super::request::present;
use crate::ask;
use crate::connection::{Conn, Io};
use crate::encoded::Encoded;
use crate::mailbox::Except;
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;
use crate::signals::{Said, Signal, ToUsers};

/// Rooms or users of one request.
const MOST_AT_ONCE: usize = 1_000;
/// Rooms published to before the worker's other tasks have their turn.
const CHUNK: usize = 32;

/// A message to more than one room. Exactly one of `rooms`, `users` and `all` says to whom.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Broadcast<'a> {
    #[serde(default, deserialize_with = "not_too_many", skip_serializing_if = "Option::is_none")]
    pub rooms: Option<Vec<RoomName>>,
    #[serde(default, deserialize_with = "not_too_many", skip_serializing_if = "Option::is_none")]
    pub users: Option<Vec<UserId>>,
    #[serde(default)]
    all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<EventName>,
    #[serde(default, borrow, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    persistent: bool,
    #[serde(default)]
    volatile: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub except: Option<message::Except>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

impl Broadcast<'_> {
    /// What another node is told that cannot be asked to tell its users; `None` for what goes to rooms, or is refused.
    pub fn signal(&self, shard: &Rc<Shard>, caller: &Caller) -> Option<Signal> {
        let space = caller.space(shard, self.tenant.clone(), self.namespace.as_deref()).ok()?;
        let content = Content { event: self.event.as_ref(), payload: self.payload, data: self.data };
        let (event, data) = content.for_users(&space.settings.behaviour).ok()?;
        let except = self.except.clone().map(|except| except.members(Class::Volatile)).transpose().ok()?;
        let said = Said { event, data, attachments: message::no_attachments() };
        let (space, users) = ((*space.key).clone(), self.users.clone());
        Some(Signal::ToUsers(ToUsers { space, users, except, said }))
    }

    pub async fn perform(
        self,
        shard: &Rc<Shard>,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Done, Refused> {
        caller.needs(Scope::Publish)?;
        let space = caller.space(shard, self.tenant, self.namespace.as_deref())?;
        let content = Content { event: self.event.as_ref(), payload: self.payload, data: self.data };
        let from = message::sender(caller, self.from)?;
        match (self.rooms, self.users, self.all) {
            (Some(rooms), None, false) => {
                rooms.iter().try_for_each(|room| caller.room(room))?;
                let class = message::class(self.persistent, self.volatile);
                let except = self.except.map(|except| except.members(class)).transpose()?;
                to_rooms(shard, caller, &space, &content, rooms, &from, class, except.as_ref(), key).await
            }
            (None, users, all) if users.is_some() != all => {
                caller.every_room()?;
                if self.persistent {
                    return Err(Refused::bad("persistent: only rooms keep messages; name the rooms"));
                }
                let except = self.except.map(|except| except.members(Class::Volatile)).transpose()?;
                to_users(shard, &space, &content, users, except).await
            }
            _ => Err(Refused::bad("rooms, users, all: exactly one of them says to whom")),
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "each is one thing that a request says, or that it is held against")]
async fn to_rooms(
    shard: &Rc<Shard>,
    caller: &Caller,
    space: &Arc<SpaceCell>,
    content: &Content<'_>,
    rooms: Vec<RoomName>,
    from: &UserId,
    class: Class,
    except: Option<&Except>,
    key: Option<&IdempotencyKey>,
) -> Result<Done, Refused> {
    // What is wrong with the message is wrong in every room.
    content.own(&space.settings.behaviour)?;
    let mut seen: HashSet<RoomName> = HashSet::with_capacity(rooms.len());
    let mut results = Vec::with_capacity(rooms.len());
    let mut failed = 0_usize;
    for room in rooms {
        if !seen.insert(room.clone()) {
            continue;
        }
        results.push(match send(shard, caller, space, content, room.clone(), from, class, except, key).await {
            Ok(sent) => json!({ "room": room, "messageId": &*sent.id, "position": sent.position }),
            Err(refused) => {
                failed += 1;
                json!({ "room": room, "error": refused.detail() })
            }
        });
        if results.len() % CHUNK == 0 {
            yield_now().await;
        }
    }
    Ok(Done::ok(&json!({ "success": failed == 0, "failed": failed, "rooms": results })))
}

/// Users are told where they are connected now; nothing of it is kept.
async fn to_users(
    shard: &Rc<Shard>,
    space: &Arc<SpaceCell>,
    content: &Content<'_>,
    users: Option<Vec<UserId>>,
    except: Option<Except>,
) -> Result<Done, Refused> {
    let (event, data) = content.for_users(&space.settings.behaviour)?;
    let Ok(nowhere) = RoomName::try_from("*") else { return Err(Refused::unavailable("Send it again")) };
    let publication = Publication {
        space: space.key.clone(),
        room: nowhere,
        event,
        data,
        attachments: message::no_attachments(),
        class: Class::Volatile,
        position: None,
        seq: 0,
        timestamp_ms: now_ms(),
    };
    let event = Arc::new(space.encode(Arc::new(publication)));
    let users: Option<Arc<FxHashSet<UserId>>> = users.map(|users| Arc::new(users.into_iter().collect()));
    let index = space.index;
    let told = ask::all(shard, move |shard| {
        let (event, users, except) = (event.clone(), users.clone(), except.clone());
        Box::pin(async move { tell_users(&shard, index, &event, users.as_deref(), except.as_ref()).await })
    });
    let told: u64 = told.await.map_err(|late| Refused::unavailable(late.to_string()))?.into_iter().sum();
    Ok(Done::ok(&json!({ "success": true, "connections": told })))
}

/// Tells the worker's own connections of those users, or all in the space. How many were told.
pub(crate) async fn tell_users(
    shard: &Rc<Shard>,
    space: u32,
    event: &Arc<Encoded>,
    users: Option<&FxHashSet<UserId>>,
    except: Option<&Except>,
) -> u64 {
    let mut told = 0;
    ask::walk(shard, |conn| {
        if hears(conn, space, users, except) && shard.tell(conn, event) {
            told += 1;
        }
    })
    .await;
    told
}

/// Whether a connection is among those addressed. Event streams listen to rooms, and to nothing else.
fn hears(conn: &Conn, space: u32, users: Option<&FxHashSet<UserId>>, except: Option<&Except>) -> bool {
    if matches!(*conn.io.borrow(), Io::Events(_) | Io::Closed) {
        return false;
    }
    let is_there =
        conn.sockets.borrow().iter().any(|socket| {
            socket.space.index == space && users.is_none_or(|users| users.contains(&socket.principal.user))
        });
    is_there && !except.is_some_and(|except| except.is(conn, space))
}

/// A list of bounded length: the rest of a longer one is not even read.
fn not_too_many<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Vec<T>>, D::Error> {
    struct Bounded<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST_AT_ONCE} names")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut given: A) -> Result<Vec<T>, A::Error> {
            let mut list = Vec::new();
            while let Some(one) = given.next_element()? {
                if list.len() == MOST_AT_ONCE {
                    return Err(A::Error::custom(format!("more than {MOST_AT_ONCE} at once are not taken")));
                }
                list.push(one);
            }
            if list.is_empty() {
                return Err(A::Error::custom("there must be at least one"));
            }
            Ok(list)
        }
    }

    deserializer.deserialize_seq(Bounded(PhantomData)).map(Some)
}
