//! Tokens checked at the edge, for routes that want one.

use std::time::SystemTime;

use http::HeaderMap;
use http::HeaderName;
use tidegate_auth::{AuthError, LiveKeys, VerifiedClaims, bearer};
use tidegate_config::Jwt;
use tidegate_rules::{Facts, Place, Template, TemplateError};

use crate::token_keys;

/// Where tokens are found, and whose they may be.
#[derive(Debug)]
pub(crate) struct EdgeTokens {
    keys: LiveKeys,
    header: Option<HeaderName>,
    /// Of a cookie and a query parameter, in the order in which they are asked.
    elsewhere: Vec<Template>,
}

impl EdgeTokens {
    pub fn new(jwt: &Jwt, keys: Option<LiveKeys>) -> Result<Self, TemplateError> {
        let fault = |message: &str| TemplateError { at: 0, message: format!("[jwt] header: {message}") };
        let header = jwt.header.as_deref().map(HeaderName::try_from).transpose();
        let cookie = jwt.cookie.iter().map(|name| format!("{{cookie.{name}}}"));
        let query = jwt.query.iter().map(|name| format!("{{query.{name}}}"));
        let elsewhere = cookie.chain(query).map(|template| Template::parse(&template, Place::Key));
        Ok(Self {
            keys: keys.unwrap_or_else(|| token_keys::open(&jwt.tokens)),
            header: header.map_err(|error| fault(&error.to_string()))?,
            elsewhere: elsewhere.collect::<Result<_, _>>()?,
        })
    }

    /// The keys, which change.
    pub fn keys(&self) -> &LiveKeys {
        &self.keys
    }

    /// What a request's token says; the first that is found counts.
    pub fn check(&self, facts: &Facts<'_>) -> Result<VerifiedClaims, AuthError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        if let Some(token) = facts.headers.and_then(|headers| self.in_header(headers)) {
            return self.keys.claims(token, now);
        }
        for place in &self.elsewhere {
            let found = place.text(facts);
            if !found.is_empty() {
                let token = std::str::from_utf8(&found).map_err(|_| AuthError::Invalid)?;
                return self.keys.claims(token, now);
            }
        }
        Err(AuthError::Missing)
    }

    /// `Bearer TOKEN`. A header of another scheme, such as `Basic`, is not about us.
    fn in_header<'a>(&self, headers: &'a HeaderMap) -> Option<&'a str> {
        bearer(headers.get(self.header.as_ref()?)?.to_str().ok()?)
    }
}
