//! What keeps a client at its server: a cookie that names the server, or a value of the request that is hashed.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use http::header::{COOKIE, HeaderName, HeaderValue};
use http::request::Parts;
use sha2::Sha256;

/// How clients stay at their server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sticky {
    /// The gateway sets a cookie that names the server.
    Cookie(Box<StickyCookie>),
    /// Consistent hash of this header's value; a request without it goes by the algorithm.
    Header(HeaderName),
    /// Consistent hash of this query parameter's value, as it stands in the URL.
    Query(Box<str>),
}

/// The cookie. Its value is a MAC of the server's name and address: it tells nothing about the server, cannot be made up, and
/// is the same after a restart and in every gateway with the same key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name (RFC 6265 section 4.1.1).
    pub name: Box<str>,
    /// The key; without one the process makes one, so that its cookies mean nothing after its end.
    pub key: Option<CookieKey>,
    /// Max-Age; zero: until the browser is closed.
    pub ttl: Duration,
    /// Path.
    pub path: Box<str>,
    /// Domain, unless it is the request's host alone.
    pub domain: Option<Box<str>>,
    /// Secure.
    pub secure: bool,
    /// SameSite: `Lax`, `Strict` or `None`.
    pub same_site: &'static str,
}

/// A key that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct CookieKey(Arc<[u8]>);

impl From<&[u8]> for CookieKey {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for CookieKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl CookieKey {
    fn of_process() -> Self {
        static KEY: OnceLock<CookieKey> = OnceLock::new();
        let make = || {
            let mut key = [0; 32];
            // Without randomness from the system the cookies can be made up: a client could choose its server, no more.
            let _ = getrandom::fill(&mut key);
            Self(key.into())
        };
        KEY.get_or_init(make).clone()
    }
}

/// What a client is given for one server.
#[derive(Clone, Debug)]
pub(crate) struct ServerCookie {
    pub(crate) value: Box<str>,
    pub(crate) set: HeaderValue,
}

/// What a request brings along.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stuck {
    Cookie(Box<[u8]>),
    Value(Box<[u8]>),
}

impl Sticky {
    pub(crate) fn find(&self, parts: &Parts) -> Option<Stuck> {
        match self {
            Self::Cookie(cookie) => cookie.find(parts).map(|value| Stuck::Cookie(value.into())),
            Self::Header(name) => parts.headers.get(name).map(|value| Stuck::Value(value.as_bytes().into())),
            Self::Query(name) => {
                let mut fields =
                    parts.uri.query()?.split('&').map(|field| field.split_once('=').unwrap_or((field, "")));
                let (_, value) = fields.find(|(found, _)| *found == &**name)?;
                Some(Stuck::Value(value.as_bytes().into()))
            }
        }
    }

    /// The cookie of a server, if there are any.
    pub(crate) fn cookie(&self, upstream: &str, server: &str, address: &str) -> Option<ServerCookie> {
        match self {
            Self::Cookie(cookie) => cookie.of(upstream, server, address),
            Self::Header(_) | Self::Query(_) => None,
        }
    }
}

impl StickyCookie {
    fn find<'a>(&self, parts: &'a Parts) -> Option<&'a [u8]> {
        let fields = parts.headers.get_all(COOKIE).iter();
        let mut pairs = fields.flat_map(|field| field.as_bytes().split(|byte| *byte == b';')).map(<[u8]>::trim_ascii);
        pairs.find_map(|pair| pair.strip_prefix(self.name.as_bytes())?.strip_prefix(b"="))
    }

    fn of(&self, upstream: &str, server: &str, address: &str) -> Option<ServerCookie> {
        let key = self.key.clone().unwrap_or_else(CookieKey::of_process);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.0).ok()?;
        for part in ["tidegate sticky cookie", upstream, server, address] {
            mac.update(part.as_bytes());
            mac.update(&[0]);
        }
        let value = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        let mut set = format!("{}={value}; Path={}; HttpOnly; SameSite={}", self.name, self.path, self.same_site);
        if let Some(domain) = &self.domain {
            set.push_str("; Domain=");
            set.push_str(domain);
        }
        if !self.ttl.is_zero() {
            set.push_str(&format!("; Max-Age={}", self.ttl.as_secs().max(1)));
        }
        if self.secure {
            set.push_str("; Secure");
        }
        Some(ServerCookie { value: value.into(), set: HeaderValue::try_from(set).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(key: &[u8]) -> StickyCookie {
        StickyCookie {
            name: "tg_route".into(),
            key: Some(key.into()),
            ttl: Duration::ZERO,
            path: "/".into(),
            domain: None,
            secure: false,
            same_site: "Lax",
        }
    }

    fn parts(uri: &str, fields: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_cookie_is_found_among_others() {
        let cookie = cookie(&[1; 32]);
        let find = |field: &str| cookie.find(&parts("/", &[("cookie", field)])).map(<[u8]>::to_vec);
        assert_eq!(find("a=b; tg_route=xyz; c=d"), Some(b"xyz".to_vec()));
        assert_eq!(find("tg_route=xyz"), Some(b"xyz".to_vec()));
        assert_eq!(find("tg_route_2=xyz;xtg_route=1"), None);
        let parts = parts("/", &[("cookie", "a=b"), ("cookie", "tg_route=")]);
        assert_eq!(cookie.find(&parts), Some(&b""[..]));
    }

    #[test]
    fn a_cookies_value_depends_on_key_upstream_and_server_and_shows_none() {
        let value = |key: u8, upstream, address: &str| cookie(&[key; 32]).of(upstream, address, address).unwrap().value;
        assert_eq!(value(1, "app", "10.0.0.1:80"), value(1, "app", "10.0.0.1:80"));
        assert_ne!(value(1, "app", "10.0.0.1:80"), value(2, "app", "10.0.0.1:80"));
        assert_ne!(value(1, "app", "10.0.0.1:80"), value(1, "api", "10.0.0.1:80"));
        assert_ne!(value(1, "app", "10.0.0.1:80"), value(1, "app", "10.0.0.2:80"));
        assert_eq!(value(1, "app", "10.0.0.1:80").len(), 43);
        assert_eq!(format!("{:?}", cookie(&[7; 32]).key), "Some(***)");
    }

    #[test]
    fn attributes_are_those_of_the_settings() {
        let cookie = StickyCookie {
            ttl: Duration::from_secs(3600),
            path: "/app".into(),
            domain: Some("example.org".into()),
            secure: true,
            same_site: "None",
            ..cookie(&[1; 32])
        };
        let set = cookie.of("app", "a", "a").unwrap().set;
        let (pair, attributes) = set.to_str().unwrap().split_once("; ").unwrap();
        assert!(pair.starts_with("tg_route="));
        assert_eq!(attributes, "Path=/app; HttpOnly; SameSite=None; Domain=example.org; Max-Age=3600; Secure");
    }

    #[test]
    fn a_query_parameter_is_taken_as_it_stands() {
        let sticky = Sticky::Query("session".into());
        let find = |uri| sticky.find(&parts(uri, &[]));
        assert_eq!(find("/?a=b&session=x%20y&session=z"), Some(Stuck::Value((*b"x%20y").into())));
        assert_eq!(find("/?xsession=1"), None);
        assert_eq!(find("/"), None);
    }
}
