//! What a request cannot have, and why.

use std::net::IpAddr;

use ::http::HeaderValue;
use ::http::header::{ALLOW, RETRY_AFTER};
use serde_json::{Value, json};
use tidegate_metrics::{TurnedAway as Reason, TurnedAwayLabels};
use tidegate_types::{ErrorCode, Millis, Phase};

use crate::door::TurnedAway;
use crate::http::{Answer, error};
use crate::node::now_ms;
use crate::shard::Shard;

/// A request is refused. The message names what is wrong and what would be right.
#[derive(Debug)]
pub(crate) struct Refused {
    pub code: ErrorCode,
    pub message: String,
    /// For 405.
    allowed: Option<String>,
    /// For 429 and what else passes by itself.
    retry_after_ms: Option<Millis>,
}

pub(super) type Outcome = Result<Answer, Refused>;

impl Refused {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), allowed: None, retry_after_ms: None }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// 429, to be tried again after so long.
    pub fn too_many(message: impl Into<String>, retry_after_ms: Millis) -> Self {
        Self { retry_after_ms: Some(retry_after_ms), ..Self::new(ErrorCode::RateLimited, message) }
    }

    /// It may be asked again after so long.
    pub fn later(mut self, wait_ms: Millis) -> Self {
        self.retry_after_ms = Some(wait_ms);
        self
    }

    pub fn method(allowed: String) -> Self {
        let message = format!("This method is not supported here; these are: {allowed}");
        Self { allowed: Some(allowed), ..Self::new(ErrorCode::MethodNotAllowed, message) }
    }

    pub fn nothing() -> Self {
        Self::new(ErrorCode::NotFound, "No such endpoint")
    }

    /// The refusal of a part of a request, as it stands in the answer to the whole.
    pub fn detail(&self) -> Value {
        json!({ "code": self.code.as_str(), "message": self.message })
    }

    pub fn into_answer(self, request_id: &str) -> Answer {
        let mut answer = error(self.code, &self.message, request_id);
        let headers = answer.headers_mut();
        if let Some(allowed) = self.allowed.and_then(|allowed| HeaderValue::try_from(allowed).ok()) {
            headers.insert(ALLOW, allowed);
        }
        if let Some(wait) = self.retry_after_ms {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1_000).max(1)));
        }
        answer
    }
}

impl From<TurnedAway> for Refused {
    fn from(turned_away: TurnedAway) -> Self {
        let (code, message, wait) = match turned_away {
            TurnedAway::Full => (ErrorCode::Unavailable, "Too many connections", 5_000),
            TurnedAway::Address => (ErrorCode::RateLimited, "Too many connections from this address", 5_000),
            TurnedAway::Pace { retry_after_ms } => {
                (ErrorCode::RateLimited, "Too many new connections from this address", retry_after_ms)
            }
        };
        Self { retry_after_ms: Some(wait), ..Self::new(code, message) }
    }
}

/// Lets a new connection in; it leaves by [`Shard::end`].
pub(crate) fn come_in(shard: &Shard, address: IpAddr) -> Result<(), Refused> {
    if shard.phase() != Phase::Serving {
        let refused = Refused::unavailable("The server is shutting down");
        return Err(Refused { retry_after_ms: Some(1_000), ..refused });
    }
    shard.node.door.enter(address, now_ms()).map_err(|turned_away| {
        let reason = match turned_away {
            TurnedAway::Full => Reason::Full,
            TurnedAway::Address => Reason::Address,
            TurnedAway::Pace { .. } => Reason::Pace,
        };
        shard.node.metrics.turned_away.get_or_create(&TurnedAwayLabels { reason }).inc();
        turned_away.into()
    })
}
