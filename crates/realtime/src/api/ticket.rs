//! One-time tickets, for readers that cannot set headers.

use std::rc::Rc;

use ::http::StatusCode;
use tidegate_auth::AuthError;
use tidegate_types::ErrorCode;

use super::refused::{Outcome, Refused};
use crate::http::json;
use crate::shard::Shard;
use crate::tickets::{NoTicket, TICKET_LIFE_MS};
use crate::{connect, id};

/// When it may be tried again, ms.
const RETRY_MS: u64 = 1_000;

/// Gives whoever shows a token a ticket for one stream.
pub(super) async fn give(shard: &Rc<Shard>, token: Option<&str>) -> Outcome {
    let principal = connect::verify(&shard.node, token).map_err(|error| unauthorized(shard, error))?;
    let ticket = id::secret_id();
    shard.node.keep_ticket(&ticket, principal).await.map_err(|why| match why {
        NoTicket::Unavailable => Refused::unavailable("The cluster's broker cannot be reached").later(RETRY_MS),
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
