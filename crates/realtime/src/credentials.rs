//! What a request shows beside the CONNECT packet: tokens in headers, cookies and the query. Also who is shut out.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use http::header::{COOKIE, HOST, ORIGIN};
use http::{HeaderMap, Uri};
use tidegate_auth::{Principal, Revocation, Revocations, TooManyRevocations};
use tidegate_types::Millis;

use crate::http::{bearer, header, parameter};
use crate::settings::Settings;

/// The tokens of a session's first request, for the namespaces whose CONNECT names none.
#[derive(Debug, Default)]
pub(crate) struct Shown {
    /// From `Authorization`, or else from the cookie.
    pub token: Option<Box<str>>,
    /// From the query, which some namespaces look at last.
    pub in_query: Option<Box<str>>,
}

impl Shown {
    /// `None` if nothing was shown, as by most clients.
    pub fn by(headers: &HeaderMap, uri: &Uri, settings: &Settings) -> Option<Box<Self>> {
        let token = bearer(headers).or_else(|| cookie(headers, settings)).map(Box::from);
        let in_query = if settings.namespaces.look_at_query() { parameter(uri.query(), "token") } else { None };
        let in_query = in_query.filter(|token| !token.is_empty()).map(|token| Box::from(&*token));
        (token.is_some() || in_query.is_some()).then(|| Box::new(Self { token, in_query }))
    }
}

/// The token in the cookie. Browsers send cookies whatever page asks, and WebSockets know no CORS: a page of another
/// origin must not act as the user, unless the config names that origin.
pub(crate) fn cookie<'a>(headers: &'a HeaderMap, settings: &Settings) -> Option<&'a str> {
    let name = settings.token_cookie.as_deref()?;
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, token) = pairs.find(|(known, _)| *known == name)?;
    (!token.is_empty() && is_trusted_origin(headers, settings)).then_some(token)
}

fn is_trusted_origin(headers: &HeaderMap, settings: &Settings) -> bool {
    let Some(origin) = headers.get(ORIGIN) else { return true };
    let Ok(origin) = origin.to_str() else { return false };
    let own = origin.split_once("://").map(|(_, host)| host);
    let is_own = own.zip(header(headers, &HOST)).is_some_and(|(own, host)| own.eq_ignore_ascii_case(host));
    // "*" lets pages in that bring a token of their own; it does not lend them the user's cookie.
    is_own || settings.cors_origins.iter().any(|named| named.eq_ignore_ascii_case(origin))
}

/// Who is shut out, for all workers. Asked at each connect, so it costs nothing while there is nobody.
#[derive(Default)]
pub(crate) struct ShutOut {
    any: AtomicBool,
    revocations: RwLock<Revocations>,
}

impl ShutOut {
    pub fn add(&self, revocation: &Revocation, now: Millis) -> Result<(), TooManyRevocations> {
        let mut revocations = self.revocations.write().unwrap_or_else(PoisonError::into_inner);
        revocations.add(revocation, now)?;
        self.any.store(true, Ordering::Release);
        Ok(())
    }

    pub fn is_revoked(&self, principal: &Principal) -> bool {
        self.any.load(Ordering::Acquire) && self.read().is_revoked(principal)
    }

    fn read(&self) -> RwLockReadGuard<'_, Revocations> {
        self.revocations.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it stands together with what was revoked before of the same token or user.
    pub fn merged(&self, revocation: &Revocation) -> Revocation {
        self.read().merged(revocation)
    }

    /// Whether it adds nothing to what is known.
    pub fn covers(&self, revocation: &Revocation) -> bool {
        self.read().covers(revocation)
    }

    pub fn all(&self) -> Vec<Revocation> {
        self.read().iter().collect()
    }

    /// Forgets what no token can meet any more.
    pub fn sweep(&self, now: Millis) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let mut revocations = self.revocations.write().unwrap_or_else(PoisonError::into_inner);
        revocations.sweep(now);
        self.any.store(!revocations.is_empty(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            token_cookie: Some("tidegate_token".into()),
            cors_origins: vec!["https://app.example".to_owned(), "*".to_owned()],
            ..Settings::default()
        }
    }

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_cookie_is_the_users_only_on_pages_that_are_trusted() {
        let cookies = ("cookie", "a=b; tidegate_token=T; tidegate_token2=x");
        for (origin, expected) in [
            (None, Some("T")),
            (Some("https://rt.example:8443"), Some("T")),
            (Some("https://app.example"), Some("T")),
            (Some("https://evil.example"), None),
            (Some("null"), None),
            (Some("https://rt.example"), None),
        ] {
            let mut fields = vec![("host", "rt.example:8443"), cookies];
            fields.extend(origin.map(|origin| ("origin", origin)));
            assert_eq!(cookie(&headers(&fields), &settings()), expected, "{origin:?}");
        }
        let none = Settings { token_cookie: None, ..settings() };
        assert_eq!(cookie(&headers(&[cookies]), &none), None);
        assert_eq!(cookie(&headers(&[("cookie", "tidegate_token=")]), &settings()), None);
    }

    #[test]
    fn a_header_comes_before_the_cookie_and_the_query_is_looked_at_where_a_namespace_wants_it() {
        let both = headers(&[("authorization", "Bearer H"), ("cookie", "tidegate_token=C")]);
        let uri: Uri = "/socket.io/?EIO=4&token=Q%2B".parse().unwrap();
        let shown = Shown::by(&both, &uri, &settings()).unwrap();
        assert_eq!((shown.token.as_deref(), shown.in_query.as_deref()), (Some("H"), None));
        assert!(Shown::by(&HeaderMap::new(), &uri, &settings()).is_none());
        let mut chat = crate::NamespaceSettings::new(crate::Behaviour::Rooms);
        chat.token_in_query = true;
        let namespaces = crate::Namespaces::none().with("/ws/chat".try_into().unwrap(), chat);
        let settings = Settings { namespaces, ..settings() };
        let shown = Shown::by(&HeaderMap::new(), &uri, &settings).unwrap();
        assert_eq!((shown.token.as_deref(), shown.in_query.as_deref()), (None, Some("Q+")));
    }
}
