use serde::{Deserialize, Serialize};
use serde_json::{Number, Value};
use tidegate_types::Millis;

use crate::terms::Audience;

/// The claims of a token, as they are signed. Times are seconds since the Unix epoch (RFC 7519, NumericDate).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// The subject; the user when `user_id` is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The tenant; `default` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant_id: Option<String>,
    /// The name to show.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// What the user is: `user`, `agent` or `anonymous`; `user` when missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Roles.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<String>,
    /// Permissions, room grants among them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    /// Not valid at or after this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<u64>,
    /// Not valid before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<u64>,
    /// When it was signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iat: Option<u64>,
    /// Its own name, by which it can be revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Who signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// Whom it is meant for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub aud: Vec<String>,
}

/// The claims as other issuers write them. A claim of another type makes the whole token invalid; `null` is as missing.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Received {
    pub sub: Option<String>,
    pub user_id: Option<String>,
    pub tenant_id: Option<String>,
    pub username: Option<String>,
    pub name: Option<String>,
    pub roles: Option<Vec<Box<str>>>,
    pub permissions: Option<Vec<Box<str>>>,
    pub exp: Option<Number>,
    pub nbf: Option<Number>,
    pub iat: Option<Number>,
    pub aud: Option<Audience>,
    /// Asked for only where an issuer is configured; then it must be text.
    pub iss: Option<Value>,
    /// Issuers that count write a number.
    pub jti: Option<Value>,
    /// Applications have uses of their own for both; only our three words count.
    pub kind: Option<Value>,
    #[serde(rename = "type")]
    pub type_: Option<Value>,
}

/// A NumericDate, which may have a fraction, in milliseconds. What is beyond the range stays at its end, so that a
/// negative time lies in the past and a huge one in the future.
pub(crate) fn millis(date: &Number) -> Option<Millis> {
    if let Some(seconds) = date.as_u64() {
        return Some(seconds.saturating_mul(1_000));
    }
    let seconds = date.as_f64().filter(|seconds| seconds.is_finite())?;
    // A float-to-integer cast saturates.
    Some((seconds * 1_000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_saturate_and_keep_their_fraction() {
        let millis = |text: &str| millis(&serde_json::from_str(text).unwrap());
        assert_eq!(millis("0"), Some(0));
        assert_eq!(millis("1700000000"), Some(1_700_000_000_000));
        assert_eq!(millis("1700000000.25"), Some(1_700_000_000_250));
        assert_eq!(millis("-5"), Some(0));
        assert_eq!(millis("18446744073709551615"), Some(u64::MAX));
        assert_eq!(millis("1e300"), Some(u64::MAX));
    }
}
