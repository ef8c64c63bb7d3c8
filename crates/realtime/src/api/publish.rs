//! Messages to one room.

use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tidegate_auth::Scope;
use tidegate_hub::{Idempotency, Message};
use tidegate_types::{Class, EventName, IdempotencyKey, RoomName, TenantId, UserId};

use super::action::Done;
use super::caller::Caller;
use super::message::{self, Content};
use super::refused::Refused;
use super::request::present;
use crate::mailbox::Except;
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;

/// A message to a room.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Publish<'a> {
    /// In a batch; else the path names it.
    pub room: Option<RoomName>,
    event: Option<EventName>,
    #[serde(default, borrow, deserialize_with = "present")]
    payload: Option<&'a RawValue>,
    #[serde(default, borrow, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    #[serde(default)]
    persistent: bool,
    #[serde(default)]
    volatile: bool,
    from: Option<UserId>,
    except: Option<message::Except>,
    tenant: Option<TenantId>,
    namespace: Option<String>,
}

impl Publish<'_> {
    pub async fn perform(
        self,
        shard: &Rc<Shard>,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Done, Refused> {
        caller.needs(Scope::Publish)?;
        let room = self.room.ok_or_else(|| Refused::bad("room: it is missing"))?;
        caller.room(&room)?;
        let space = caller.space(shard, self.tenant, self.namespace.as_deref())?;
        let class = message::class(self.persistent, self.volatile);
        let except = self.except.map(|except| except.members(class)).transpose()?;
        let from = message::sender(caller, self.from)?;
        let content = Content { event: self.event.as_ref(), payload: self.payload, data: self.data };
        let sent = send(shard, caller, &space, &content, room, &from, class, except.as_ref(), key).await?;
        let mut answer = json!({ "success": true, "messageId": &*sent.id, "position": sent.position });
        if let (true, Some(answer)) = (sent.duplicate, answer.as_object_mut()) {
            answer.insert("duplicate".to_owned(), true.into());
        }
        Ok(Done::ok(&answer))
    }
}

/// A message that is on its way.
pub(super) struct Sent {
    pub id: Arc<str>,
    /// `None` for a volatile message.
    pub position: Option<String>,
    /// It had been sent before.
    pub duplicate: bool,
}

/// Publishes; a persistent message is stored when this resolves.
#[allow(clippy::too_many_arguments, reason = "each is one thing that a request says, or that it is held against")]
pub(super) async fn send(
    shard: &Rc<Shard>,
    caller: &Caller,
    space: &Arc<SpaceCell>,
    content: &Content<'_>,
    room: RoomName,
    from: &UserId,
    class: Class,
    except: Option<&Except>,
    key: Option<&IdempotencyKey>,
) -> Result<Sent, Refused> {
    shard.node.publishable().await;
    let now = now_ms();
    let id: Arc<str> = shard.node.message_ids.next(now).into();
    let (event, data) = content.for_room(&space.settings.behaviour, &room, from, &id, now)?;
    let idempotency = match key {
        None => None,
        Some(key) => {
            let (sender, key) = (message::sender(caller, None)?, key.clone());
            let window_ms = shard.node.settings.idempotency_window_ms;
            Some(Box::new(Idempotency { sender, key, message_id: id.clone(), window_ms }))
        }
    };
    let attachments = message::no_attachments();
    let message = Message { room, event, data, attachments, class, idempotency };
    let published = match except {
        Some(except) => Ok(shard.node.tell(space, message, now, Some(except))),
        None => match shard.node.publish(space, message, now) {
            Ok(publishing) => publishing.settled().await,
            Err(refused) => Err(refused),
        },
    };
    let published = published.map_err(|refused| Refused::unavailable(refused.to_string()))?;
    Ok(Sent {
        position: published.publication.position.map(|position| position.to_string()),
        duplicate: published.duplicate.is_some(),
        id: published.duplicate.unwrap_or(id),
    })
}
