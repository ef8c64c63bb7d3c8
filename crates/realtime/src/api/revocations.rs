//! Tokens that count no more.

use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use tidegate_auth::{Revocation, Scope};
use tidegate_types::{Millis, TenantId, UserId};

use super::action::Done;
use super::caller::Caller;
use super::refused::Refused;
use crate::node::now_ms;
use crate::shard::Shard;

/// When it may be tried again, ms.
const RETRY_MS: u64 = 1_000;
/// The longest name of a token, in bytes.
const MOST_TOKEN_ID: usize = 256;

/// One token by its `jti`, or all tokens of a user that are older than a time.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Revoke {
    token_id: Option<String>,
    user: Option<UserId>,
    /// Tokens issued before this are revoked; by default all up to now.
    before: Option<Millis>,
    /// When the last of them expires by itself; without it the revocation is kept for good: as long as the process
    /// lives, in a cluster for ten years.
    until: Option<Millis>,
    tenant: Option<TenantId>,
}

impl Revoke {
    pub async fn perform(self, shard: &Rc<Shard>, caller: &Caller) -> Result<Done, Refused> {
        caller.needs(Scope::Revoke)?;
        let (tenant, until) = (caller.tenant(self.tenant)?, self.until);
        let revocation = match (self.token_id, self.user) {
            (Some(id), None) => {
                if !(1..=MOST_TOKEN_ID).contains(&id.len()) {
                    return Err(Refused::bad(format!("tokenId: it must have from 1 to {MOST_TOKEN_ID} bytes")));
                }
                if self.before.is_some() {
                    return Err(Refused::bad("before: it goes with a user; a token is revoked as a whole"));
                }
                Revocation::Token { tenant, id: Arc::from(id), until }
            }
            (None, Some(user)) => Revocation::User { tenant, user, before: self.before.unwrap_or_else(now_ms), until },
            (Some(_), Some(_)) | (None, None) => {
                return Err(Refused::bad("tokenId, user: exactly one of them says what is revoked"));
            }
        };
        shard.node.revoke(revocation).await.map_err(|not| Refused::unavailable(not.to_string()).later(RETRY_MS))?;
        Ok(Done::ok(&json!({ "success": true })))
    }
}
