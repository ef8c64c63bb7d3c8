//! What the claims of a token must say, beside who it is about.

use serde::Deserialize;
use serde_json::Number;
use tidegate_types::Millis;

use crate::AuthError;
use crate::claims::millis;

/// What is asked of every token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// One of these must stand in `aud` (RFC 7519 section 4.1.3); empty: `aud` is not looked at.
    pub audience: Vec<Box<str>>,
    /// One of these must be `iss` (RFC 7519 section 4.1.1); empty: `iss` is not looked at.
    pub issuer: Vec<Box<str>>,
    /// How far the clocks of the issuer and of this machine may be apart, ms.
    pub leeway_ms: Millis,
}

/// `aud` is one text or a list of texts.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Audience {
    One(String),
    Many(Vec<String>),
}

/// The claims that terms are about, as they were received.
pub(crate) struct Asked<'a> {
    pub exp: Option<&'a Number>,
    pub nbf: Option<&'a Number>,
    pub aud: Option<&'a Audience>,
    pub iss: Option<&'a str>,
}

impl Terms {
    /// Whether a token counts now. Answers when it ends, the leeway included. That it is expired is said only of a token
    /// with nothing else against it: a client must not renew one that was never meant for us.
    pub(crate) fn check(&self, asked: &Asked<'_>, now: Millis) -> Result<Option<Millis>, AuthError> {
        let date = |date: Option<_>| date.map(|date| millis(date).ok_or(AuthError::Invalid)).transpose();
        let (expires_at, not_before) = (date(asked.exp)?, date(asked.nbf)?);
        let meant = |wanted: &[Box<str>], given: &[String]| {
            wanted.is_empty() || wanted.iter().any(|wanted| given.iter().any(|given| **given == **wanted))
        };
        let for_us = match asked.aud {
            None => self.audience.is_empty(),
            Some(Audience::One(one)) => meant(&self.audience, std::slice::from_ref(one)),
            Some(Audience::Many(many)) => meant(&self.audience, many),
        };
        let from_them = self.issuer.is_empty()
            || asked.iss.is_some_and(|given| self.issuer.iter().any(|wanted| **wanted == *given));
        let begun = not_before.is_none_or(|start| now.saturating_add(self.leeway_ms) >= start);
        if !for_us || !from_them || !begun {
            return Err(AuthError::Invalid);
        }
        let ends_at = expires_at.map(|end| end.saturating_add(self.leeway_ms));
        if ends_at.is_some_and(|end| now >= end) { Err(AuthError::Expired) } else { Ok(ends_at) }
    }
}
