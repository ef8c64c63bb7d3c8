//! Several actions in one request, in their order, each with a result of its own.

use std::rc::Rc;

use serde::Deserialize;
use serde_json::{Value, json};
use tidegate_types::IdempotencyKey;

use super::action::{Action, Done};
use super::caller::Caller;
use super::refused::Refused;
use crate::shard::Shard;

/// Actions of one batch.
const MOST: usize = 100;

/// The body is read whole before anything is done: a malformed action refuses the batch.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Batch<'a> {
    #[serde(borrow)]
    operations: Vec<Action<'a>>,
}

impl Batch<'_> {
    pub async fn perform(
        self,
        shard: &Rc<Shard>,
        caller: &Caller,
        key: Option<&IdempotencyKey>,
    ) -> Result<Done, Refused> {
        let count = self.operations.len();
        if !(1..=MOST).contains(&count) {
            return Err(Refused::bad(format!("operations: there are {count}; from 1 to {MOST} are taken at once")));
        }
        // The batch as a request has been paid for.
        caller.pay(shard, u32::try_from(count - 1).unwrap_or(u32::MAX))?;
        let mut results = Vec::with_capacity(count);
        let mut failed = 0_usize;
        for (index, action) in self.operations.into_iter().enumerate() {
            // Two messages of one batch to one room are two messages.
            let key = key.and_then(|key| IdempotencyKey::try_from(format!("{}#{index}", key.as_ref())).ok());
            results.push(match action.perform(shard, caller, key.as_ref()).await {
                Ok(done) => {
                    let body: Value = serde_json::from_str(&done.body).unwrap_or_default();
                    json!({ "status": done.status.as_u16(), "body": body })
                }
                Err(refused) => {
                    failed += 1;
                    json!({ "status": refused.code.status(), "error": refused.detail() })
                }
            });
        }
        Ok(Done::ok(&json!({ "success": failed == 0, "failed": failed, "results": results })))
    }
}
