//! Rooms: which there are, who is in them, what was said in them.

use std::rc::Rc;

use serde_json::{Value, json};
use tidegate_auth::Scope;
use tidegate_hub::RoomSummary;
use tidegate_types::{Position, RoomName};

use super::action::Done;
use super::caller::Caller;
use super::everywhere;
use super::pages::{self, Page, bad_cursor};
use super::refused::Refused;
use super::request::{self, Parameters, name};
use crate::across;
use crate::elsewhere;
use crate::history;
use crate::node::{SpaceCell, now_ms};
use crate::shard::Shard;

/// Rooms of one answer, by default and at most.
const ROOMS: usize = 100;
const MOST_ROOMS: usize = 1_000;
/// Messages of one answer.
const MESSAGES: usize = 100;
const MOST_MESSAGES: usize = 1_000;
/// Users of one answer.
const USERS: usize = 1_000;
const MOST_USERS: usize = 10_000;

pub(super) fn summary(room: &RoomSummary) -> Value {
    json!({ "room": room.room, "users": room.users, "connections": room.connections, "messagesPerSecond": room.rate })
}

fn the_room(names: &[String]) -> Result<RoomName, Refused> {
    name("room", names.first().map_or("", String::as_str))
}

/// The rooms that somebody is in, page by page.
pub(super) async fn list(shard: &Rc<Shard>, caller: &Caller, query: Option<&str>) -> Result<Done, Refused> {
    caller.needs(Scope::Rooms)?;
    let mut parameters = Parameters::read(query)?;
    let space = caller.space(shard, parameters.take_name("tenant")?, parameters.take("namespace").as_deref())?;
    let limit = parameters.take_limit(ROOMS, MOST_ROOMS)?;
    let cursor = parameters.take("cursor");
    parameters.end()?;
    let cursor = cursor.as_deref();
    let own = shard.node.id().filter(|_| caller.asks_all(shard));
    let Some(own) = own else {
        let page = page(caller, &space, cursor, limit)?;
        return Ok(Done::ok(&json!({ "rooms": page.items, "cursor": page.next })));
    };
    let here = async |cursor: Option<&str>, limit: usize| page(caller, &space, cursor, limit);
    let path = |cursor: Option<&str>, limit: usize| {
        let (tenant, namespace) = (space.key.tenant.as_str(), space.key.namespace.as_str());
        let limit = limit.to_string();
        let query =
            [("tenant", Some(tenant)), ("namespace", Some(namespace)), ("limit", Some(&limit)), ("cursor", cursor)];
        format!("/rooms{}", request::query(&query))
    };
    let mut whole = pages::walk(shard, caller, own, (cursor, limit), "rooms", here, path).await?;
    let mut items = whole.items.into_iter().map(|(node, room)| (Some(node), room)).collect();
    let missing = everywhere::add_up(shard, caller, &space, own, &mut items).await;
    whole.missing.extend(missing);
    let rooms: Vec<Value> = items.into_iter().map(|(_, room)| room).collect();
    let mut answer = json!({ "rooms": rooms, "cursor": whole.next });
    across::mark(&mut answer, &whole.missing);
    Ok(Done::ok(&answer))
}

/// A page of the rooms that somebody is in by way of this node.
fn page(caller: &Caller, space: &SpaceCell, cursor: Option<&str>, limit: usize) -> Result<Page, Refused> {
    let cursor = cursor.map(|cursor| cursor.parse().map_err(|_| bad_cursor())).transpose()?;
    let page = space.lock().rooms_page(cursor, limit, now_ms());
    let items = page.items.iter().filter(|room| caller.key.opens_room(&room.room)).map(summary).collect();
    Ok(Page { items, next: page.next.map(|next| next.to_string()) })
}

/// One room. One that nobody is in has no members, and yet its place in its history.
pub(super) async fn show(
    shard: &Rc<Shard>,
    caller: &Caller,
    names: &[String],
    query: Option<&str>,
) -> Result<Done, Refused> {
    caller.needs(Scope::Rooms)?;
    let room = the_room(names)?;
    caller.room(&room)?;
    let mut parameters = Parameters::read(query)?;
    let space = caller.space(shard, parameters.take_name("tenant")?, parameters.take("namespace").as_deref())?;
    parameters.end()?;
    let (found, known) = {
        let space = space.lock();
        (space.room_summary(&room, now_ms()), space.is_open(&room).then(|| space.position(&room)))
    };
    let position = match known {
        Some(position) => Some(position),
        None => {
            let look = elsewhere::look(&shard.node, &space, &room).await.ok();
            look.map(|look| Position { epoch: look.epoch, offset: look.head.offset })
        }
    };
    let nobody = RoomSummary { room, users: 0, connections: 0, rate: 0.0 };
    let mut missing = Vec::new();
    let mut answer = match shard.node.id().filter(|_| caller.asks_all(shard)) {
        None => summary(&found.unwrap_or(nobody)),
        Some(own) => {
            let mut rooms = vec![(None, summary(&nobody))];
            missing = everywhere::add_up(shard, caller, &space, own, &mut rooms).await;
            rooms.pop().map(|(_, room)| room).unwrap_or_default()
        }
    };
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("position".to_owned(), position.map(|position| position.to_string()).into());
    }
    across::mark(&mut answer, &missing);
    if position.is_none() {
        across::mark_others(&mut answer, shard);
    }
    Ok(Done::ok(&answer))
}

/// Who is in a room.
pub(super) async fn presence(
    shard: &Rc<Shard>,
    caller: &Caller,
    names: &[String],
    query: Option<&str>,
) -> Result<Done, Refused> {
    caller.needs(Scope::Presence)?;
    let room = the_room(names)?;
    caller.room(&room)?;
    let mut parameters = Parameters::read(query)?;
    let space = caller.space(shard, parameters.take_name("tenant")?, parameters.take("namespace").as_deref())?;
    let limit = parameters.take_limit(USERS, MOST_USERS)?;
    parameters.end()?;
    let present = elsewhere::present(&shard.node, &space, &room, limit).await;
    let truncated = present.count > present.listed.len();
    let mut answer =
        json!({ "room": room, "presence": present.listed, "count": present.count, "truncated": truncated });
    if present.is_partial {
        across::mark_others(&mut answer, shard);
    }
    Ok(Done::ok(&answer))
}

/// What was said in a room.
pub(super) async fn history(
    shard: &Rc<Shard>,
    caller: &Caller,
    names: &[String],
    query: Option<&str>,
) -> Result<Done, Refused> {
    caller.needs(Scope::History)?;
    let room = the_room(names)?;
    caller.room(&room)?;
    let mut parameters = Parameters::read(query)?;
    let space = caller.space(shard, parameters.take_name("tenant")?, parameters.take("namespace").as_deref())?;
    let limit = parameters.take_limit(MESSAGES, MOST_MESSAGES)?;
    let since = parameters.take("since").map(|since| since.parse::<Position>()).transpose();
    let since = since.map_err(|_| Refused::bad("since: it must be a position, as answers and messages have it"))?;
    parameters.end()?;
    let page = history::page(shard, &space, &room, since, limit, history::push_entry);
    match page.await {
        Ok(page) => Ok(Done { status: ::http::StatusCode::OK, body: page }),
        Err(error) => {
            tracing::error!(%error, "the history cannot be read");
            Err(Refused::unavailable("The history cannot be read now"))
        }
    }
}
