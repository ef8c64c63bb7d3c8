//! Who asks: a backend with its API key.

use std::rc::Rc;

use ::http::{HeaderMap, HeaderName};
use tidegate_auth::ApiKey;
use tidegate_types::ErrorCode;

use super::refused::Refused;
use crate::http::{bearer, header};
use crate::shard::Shard;

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

pub(super) fn api_key<'a>(shard: &'a Rc<Shard>, headers: &HeaderMap) -> Result<&'a ApiKey, Refused> {
    let secret = header(headers, &API_KEY).or_else(|| bearer(headers));
    let secret = secret.ok_or_else(|| {
        Refused::new(ErrorCode::Unauthorized, "An API key is required: Authorization: Bearer KEY, or X-Api-Key: KEY")
    })?;
    let known = shard.node.settings.api_keys.find(secret);
    known.ok_or_else(|| Refused::new(ErrorCode::Unauthorized, "Invalid API key"))
}
