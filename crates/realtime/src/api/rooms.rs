//! Rooms: which there are, who is in them, what was said in them.

use std::rc::Rc;

use serde_json::{Value, json};
use tidegate_auth::Scope;
use tidegate_hub::RoomSummary;
use tidegate_types::{Position, RoomName};

use super::action::Done;
use super::caller::Caller;
use super::refused::Refused;
use super::request::{Parameters, name};
use crate::history;
use crate::node::now_ms;
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

fn summary(room: &RoomSummary) -> Value {
    json!({ "room": room.room, "users": room.users, "connections": room.connections, "messagesPerSecond": room.rate })
}

fn the_room(names: &[String]) -> Result<RoomName, Refused> {
    name("room", names.first().map_or("", String::as_str))
}

/// The rooms that somebody is in, page by page.
pub(super) fn list(shard: &Rc<Shard>, caller: &Caller, query: Option<&str>) -> Result<Done, Refused> {
    caller.needs(Scope::Rooms)?;
    let mut parameters = Parameters::read(query)?;
    let space = caller.space(shard, parameters.take_name("tenant")?, parameters.take("namespace").as_deref())?;
    let limit = parameters.take_limit(ROOMS, MOST_ROOMS)?;
    let cursor = parameters.take("cursor").map(|cursor| cursor.parse()).transpose();
    let cursor = cursor.map_err(|_| Refused::bad("cursor: it must be the cursor of the answer before"))?;
    parameters.end()?;
    let page = space.lock().rooms_page(cursor, limit, now_ms());
    let rooms: Vec<Value> = page.items.iter().filter(|room| caller.key.opens_room(&room.room)).map(summary).collect();
    let cursor = page.next.map(|next| next.to_string());
    Ok(Done::ok(&json!({ "rooms": rooms, "cursor": cursor })))
}

/// One room. One that nobody is in has no members, and yet its place in its history.
pub(super) fn show(shard: &Rc<Shard>, caller: &Caller, names: &[String], query: Option<&str>) -> Result<Done, Refused> {
    caller.needs(Scope::Rooms)?;
    let room = the_room(names)?;
    caller.room(&room)?;
    let mut parameters = Parameters::read(query)?;
    let space = caller.space(shard, parameters.take_name("tenant")?, parameters.take("namespace").as_deref())?;
    parameters.end()?;
    let (found, position) = {
        let space = space.lock();
        (space.room_summary(&room, now_ms()), space.position(&room))
    };
    let found = found.unwrap_or(RoomSummary { room, users: 0, connections: 0, rate: 0.0 });
    let mut answer = summary(&found);
    if let Some(answer) = answer.as_object_mut() {
        answer.insert("position".to_owned(), position.to_string().into());
    }
    Ok(Done::ok(&answer))
}

/// Who is in a room.
pub(super) fn presence(
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
    let (presence, count) = space.lock().presence(&room, limit);
    let truncated = count > presence.len();
    Ok(Done::ok(&json!({ "room": room, "presence": presence, "count": count, "truncated": truncated })))
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
