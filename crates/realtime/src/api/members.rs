//! Users put into rooms and taken out of them by a backend. The user's own grants are not asked: the backend decides.

use std::rc::Rc;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tidegate_auth::Scope;
use tidegate_types::{ConnId, ErrorCode, RoomName, TenantId, UserId};

use super::action::Done;
use super::caller::Caller;
use super::refused::Refused;
use super::request::{Parameters, name};
use crate::connection::Conn;
use crate::namespaces::Behaviour;
use crate::node::{SpaceCell, now_ms};
use crate::operations::{self, JoinRefused};
use crate::shard::Shard;
use crate::{ask, dialect_api, rooms_api};

/// All connections of a user, and a room.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Membership {
    pub room: RoomName,
    pub user: UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<TenantId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// What became of one connection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moved {
    Yes,
    TooManyRooms,
    Gone,
}

impl Membership {
    pub fn read(names: &[String], query: Option<&str>) -> Result<Self, Refused> {
        let mut parameters = Parameters::read(query)?;
        let membership = Self {
            room: name("room", names.first().map_or("", String::as_str))?,
            user: name("user", names.get(1).map_or("", String::as_str))?,
            tenant: parameters.take_name("tenant")?,
            namespace: parameters.take("namespace"),
        };
        parameters.end()?;
        Ok(membership)
    }

    pub async fn join(self, shard: &Rc<Shard>, caller: &Caller) -> Result<Done, Refused> {
        let moved = self.move_all(shard, caller, true).await?;
        let joined = moved.iter().filter(|moved| **moved == Moved::Yes).count();
        if joined > 0 {
            return Ok(Done::ok(&json!({ "success": true, "connections": joined })));
        }
        if moved.contains(&Moved::TooManyRooms) {
            return Err(Refused::new(ErrorCode::Conflict, "user: it is in as many rooms as it may be in"));
        }
        Err(Refused::new(ErrorCode::NotFound, "user: it has no connection in this namespace"))
    }

    pub async fn leave(self, shard: &Rc<Shard>, caller: &Caller) -> Result<Done, Refused> {
        let moved = self.move_all(shard, caller, false).await?;
        let left = moved.iter().filter(|moved| **moved == Moved::Yes).count();
        Ok(Done::ok(&json!({ "success": true, "connections": left })))
    }

    async fn move_all(self, shard: &Rc<Shard>, caller: &Caller, join: bool) -> Result<Vec<Moved>, Refused> {
        caller.needs(Scope::Membership)?;
        caller.room(&self.room)?;
        let space = caller.space(shard, self.tenant, self.namespace.as_deref())?;
        let conns: Arc<[ConnId]> = space.lock().connections_of(&self.user).into();
        if conns.is_empty() {
            return Ok(Vec::new());
        }
        let room = self.room;
        let moved = ask::all(shard, move |shard| {
            let (space, conns, room) = (space.clone(), conns.clone(), room.clone());
            Box::pin(async move { move_here(&shard, &space, &conns, &room, join).await })
        });
        Ok(moved.await.map_err(|late| Refused::unavailable(late.to_string()))?.concat())
    }
}

/// Puts those of the connections that are the worker's own into a room, or takes them out of it.
pub(crate) async fn move_here(
    shard: &Rc<Shard>,
    space: &Arc<SpaceCell>,
    conns: &[ConnId],
    room: &RoomName,
    join: bool,
) -> Vec<Moved> {
    let mut moved = Vec::new();
    let here = conns.iter().filter(|id| id.shard == shard.id).filter_map(|id| shard.conn(*id));
    for conn in here.collect::<Vec<_>>() {
        moved.push(if join {
            join_one(shard, &conn, space, room).await
        } else {
            leave_one(shard, &conn, space, room).await
        });
    }
    moved
}

async fn join_one(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &Arc<SpaceCell>, room: &RoomName) -> Moved {
    match operations::join(shard, conn, space, room, now_ms()) {
        Ok(entered) => {
            if entered.settled().await.is_err() {
                return Moved::Gone;
            }
            match &space.settings.behaviour {
                Behaviour::Rooms => rooms_api::tell_joined(shard, conn, space, room),
                // A dialect has no word for it; who is there it may tell all the same.
                Behaviour::Dialect(dialect) => dialect_api::send_snapshot(shard, conn, space, dialect, room),
                // It is the application that tells its clients.
                Behaviour::Handlers(_) => {}
            }
            Moved::Yes
        }
        Err(JoinRefused::TooManyRooms | JoinRefused::TooManyRoomsOfUser { .. }) => Moved::TooManyRooms,
        Err(JoinRefused::NotConnected | JoinRefused::Unavailable) => Moved::Gone,
    }
}

async fn leave_one(shard: &Rc<Shard>, conn: &Rc<Conn>, space: &Arc<SpaceCell>, room: &RoomName) -> Moved {
    if !space.lock().is_member(conn.id, room) {
        return Moved::Gone;
    }
    if let Some(saved) = operations::leave(shard, conn, space, room, now_ms()) {
        let _ = saved.await;
    }
    match &space.settings.behaviour {
        Behaviour::Rooms => rooms_api::tell_left(shard, conn, space, room),
        Behaviour::Dialect(_) | Behaviour::Handlers(_) => {}
    }
    Moved::Yes
}
