use serde::Deserialize;
use serde_json::{Map, Value};
use tidegate_types::Millis;

use crate::AuthError;
use crate::terms::{Asked, Audience, Terms};

/// The claims of a token whose signature and times were checked, as text by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifiedClaims(Vec<(Box<str>, Box<str>)>);

impl VerifiedClaims {
    pub(crate) fn new(claims: Map<String, Value>, terms: &Terms, now: Millis) -> Result<Self, AuthError> {
        let date = |name| match claims.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Number(date)) => Ok(Some(date)),
            Some(Value::Bool(_) | Value::String(_) | Value::Array(_) | Value::Object(_)) => Err(AuthError::Invalid),
        };
        let aud = claims.get("aud").filter(|aud| !aud.is_null()).map(Audience::deserialize).transpose();
        let aud = aud.map_err(|_| AuthError::Invalid)?;
        let asked = Asked {
            exp: date("exp")?,
            nbf: date("nbf")?,
            aud: aud.as_ref(),
            iss: claims.get("iss").and_then(Value::as_str),
        };
        terms.check(&asked, now)?;
        Ok(Self(claims.into_iter().filter_map(|(name, value)| Some((name.into(), text(&value)?.into()))).collect()))
    }

    /// Names and values: a text as it is, numbers and truth values as JSON writes them, a list of such with commas between
    /// them. Others are left out.
    pub fn as_slice(&self) -> &[(Box<str>, Box<str>)] {
        &self.0
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Array(items) => {
            let texts = items.iter().map(|item| if item.is_array() { None } else { text(item) });
            Some(texts.collect::<Option<Vec<_>>>()?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(json: &str, now: Millis) -> Result<VerifiedClaims, AuthError> {
        VerifiedClaims::new(serde_json::from_str(json).unwrap(), &Terms::default(), now)
    }

    #[test]
    fn claims_are_texts_by_name() {
        let claims =
            claims(r#"{"sub":"u","n":1.5,"ok":true,"roles":["a","b"],"x":null,"deep":{"a":1},"l":[[1]]}"#, 0).unwrap();
        let mut found: Vec<_> = claims.as_slice().iter().map(|(name, value)| format!("{name}={value}")).collect();
        found.sort();
        assert_eq!(found, ["n=1.5", "ok=true", "roles=a,b", "sub=u"]);
    }

    #[test]
    fn times_count_without_leeway() {
        assert_eq!(claims(r#"{"exp":2}"#, 1_999).map(drop), Ok(()));
        assert_eq!(claims(r#"{"exp":2}"#, 2_000), Err(AuthError::Expired));
        assert_eq!(claims(r#"{"nbf":2}"#, 1_999), Err(AuthError::Invalid));
        assert_eq!(claims(r#"{"exp":"2"}"#, 0), Err(AuthError::Invalid));
    }
}
