//! One-time tickets, for readers that cannot set headers.

use std::rc::Rc;
use std::sync::Arc;

use ::http::{Request, StatusCode};
use tidegate_auth::AuthError;
use tidegate_types::ErrorCode;

use super::refused::{Outcome, Refused};
use crate::http::{bearer, json};
use crate::node::now_ms;
use crate::shard::Shard;
use crate::tickets::{NoTicket, TICKET_LIFE_MS};
use crate::{connect, id};

/// Gives whoever shows a token a ticket for one stream.
pub(super) fn give<B>(shard: &Rc<Shard>, request: &Request<B>) -> Outcome {
    let principal =
        connect::verify(&shard.node, bearer(request.headers())).map_err(|error| unauthorized(shard, error))?;
    let ticket = id::secret_id();
    shard.node.tickets.put(&ticket, Arc::new(principal), now_ms()).map_err(|why| match why {
        NoTicket::Full => Refused::unavailable("Too many tickets are waiting to be used"),
        NoTicket::TooManyOfOne => {
            Refused::too_many("Too many tickets of this user are waiting to be used", TICKET_LIFE_MS)
        }
    })?;
    let seconds = TICKET_LIFE_MS / 1_000;
    Ok(json(StatusCode::CREATED, format!(r#"{{"ticket":"{ticket}","expiresIn":{seconds}}}"#)))
}

/// A token that is not let in.
pub(super) fn unauthorized(shard: &Rc<Shard>, error: AuthError) -> Refused {
    connect::count_failure(&shard.node, error);
    Refused::new(ErrorCode::Unauthorized, error.to_string())
}
