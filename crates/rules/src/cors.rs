use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, HeaderMap, ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue, Method};
use thiserror::Error;

/// Why a text is no pattern of origins.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no origin: write \"https://app.example.org\", \"https://*.example.org\" or \"*\"")]
pub struct InvalidOrigin(String);

/// Which origins (RFC 6454) may read a route's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginPattern {
    /// `*`: all.
    Any,
    /// One, in small letters.
    Exact(Box<str>),
    /// `https://*.example.org`: every host below that name, but not the name itself.
    Below {
        /// With `://`.
        scheme: Box<str>,
        /// With the dot before it, and the port behind it.
        suffix: Box<str>,
    },
}

impl OriginPattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A text that is no origin: without a scheme, with a path, or with a star elsewhere.
    pub fn parse(text: &str) -> Result<Self, InvalidOrigin> {
        let invalid = || InvalidOrigin(text.to_owned());
        if text == "*" {
            return Ok(Self::Any);
        }
        let lower = text.to_ascii_lowercase();
        if lower == "null" {
            // Sandboxed frames and local files; an operator may mean it.
            return Ok(Self::Exact(lower.into()));
        }
        let (scheme, host) = lower.split_once("://").ok_or_else(invalid)?;
        let letters = |text: &str, more: &[u8]| {
            !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
        };
        if !letters(scheme, b"+-.") {
            return Err(invalid());
        }
        match host.strip_prefix('*') {
            Some(suffix) if suffix.len() > 1 && suffix.starts_with('.') && letters(suffix, b"-._:") => {
                Ok(Self::Below { scheme: format!("{scheme}://").into(), suffix: suffix.into() })
            }
            None if letters(host, b"-._:[]") => Ok(Self::Exact(lower.into())),
            Some(_) | None => Err(invalid()),
        }
    }

    fn allows(&self, origin: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(known) => origin.eq_ignore_ascii_case(known),
            Self::Below { scheme, suffix } => {
                let parts = origin.split_at_checked(scheme.len()).and_then(|(head, host)| {
                    let (name, tail) = host.split_at_checked(host.len().checked_sub(suffix.len())?)?;
                    Some((head, name, tail))
                });
                parts.is_some_and(|(head, name, tail)| {
                    head.eq_ignore_ascii_case(scheme)
                        && tail.eq_ignore_ascii_case(suffix)
                        && !name.is_empty()
                        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
                })
            }
        }
    }
}

/// Cross-origin rules of a route (the Fetch standard, "CORS protocol").
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    origins: Vec<OriginPattern>,
    any: bool,
    credentials: bool,
    methods: HeaderValue,
    /// `None`: those that were asked for.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
}

/// The answer to a preflight request: a 204, or a 403 if the origin may not.
#[derive(Clone, Debug)]
pub struct Preflight {
    /// Whether the origin may.
    pub allowed: bool,
    /// The fields of the answer.
    pub headers: HeaderMap,
}

impl Cors {
    /// The rules, with their fields made once. `headers` empty: a client may send what it asks for. `max_age` in seconds.
    pub fn new(
        origins: Vec<OriginPattern>,
        methods: &[Method],
        headers: &[HeaderName],
        expose: &[HeaderName],
        credentials: bool,
        max_age: u64,
    ) -> Self {
        let any = origins.contains(&OriginPattern::Any);
        let names = |names: &[HeaderName]| (!names.is_empty()).then(|| list(names.iter().map(HeaderName::as_str)));
        Self {
            origins,
            any,
            credentials,
            methods: list(methods.iter().map(Method::as_str)),
            headers: names(headers),
            expose: names(expose),
            max_age: HeaderValue::from(max_age),
        }
    }

    /// Whether a request is a preflight: a browser asks what it may, before it asks what it wants.
    pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
        *method == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
    }

    /// Answers a preflight.
    pub fn preflight(&self, request: &HeaderMap) -> Preflight {
        let mut headers = HeaderMap::new();
        let allowed = self.allow(request.get(ORIGIN), &mut headers);
        if allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
            let asked = || request.get(ACCESS_CONTROL_REQUEST_HEADERS).cloned();
            if let Some(names) = self.headers.clone().or_else(asked) {
                headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, names);
            }
            headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        }
        if self.headers.is_none() {
            headers.append(VARY, HeaderValue::from_static("access-control-request-headers"));
        }
        Preflight { allowed, headers }
    }

    /// Writes the fields of an actual response. The upstream's own are taken out: two values of one field, or its looser
    /// ones, would undo these rules. `origin` is the request's `Origin`.
    pub fn apply(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
        for name in [
            ACCESS_CONTROL_ALLOW_ORIGIN,
            ACCESS_CONTROL_ALLOW_CREDENTIALS,
            ACCESS_CONTROL_EXPOSE_HEADERS,
            ACCESS_CONTROL_ALLOW_METHODS,
            ACCESS_CONTROL_ALLOW_HEADERS,
            ACCESS_CONTROL_MAX_AGE,
        ] {
            headers.remove(name);
        }
        if self.allow(origin, headers)
            && let Some(names) = &self.expose
        {
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, names.clone());
        }
    }

    /// Writes who may read the response; false if the origin may not.
    fn allow(&self, origin: Option<&HeaderValue>, headers: &mut HeaderMap) -> bool {
        if self.any && !self.credentials {
            // The same for everybody: caches need not tell origins apart.
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
            return origin.is_some();
        }
        vary_by_origin(headers);
        let Some(origin) = origin else { return false };
        let Ok(text) = origin.to_str() else { return false };
        if !self.origins.iter().any(|pattern| pattern.allows(text)) {
            return false;
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        if self.credentials {
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        true
    }
}

/// Tells caches that the answer depends on the origin, also where this origin may not read it: otherwise one origin's copy
/// would be served to another.
fn vary_by_origin(headers: &mut HeaderMap) {
    let named = headers.get_all(VARY).iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    if !named.map(str::trim).any(|name| name == "*" || name.eq_ignore_ascii_case("origin")) {
        headers.append(VARY, HeaderValue::from_static("origin"));
    }
}

/// Names and methods are tokens, which any header can hold.
fn list<'a>(items: impl Iterator<Item = &'a str>) -> HeaderValue {
    HeaderValue::from_str(&items.collect::<Vec<_>>().join(", ")).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> OriginPattern {
        OriginPattern::parse(text).unwrap()
    }

    fn cors(origins: &[&str], credentials: bool) -> Cors {
        let origins = origins.iter().map(|text| pattern(text)).collect();
        let expose = [HeaderName::from_static("x-total")];
        Cors::new(origins, &[Method::GET, Method::POST], &[], &expose, credentials, 600)
    }

    fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
        headers.get(name).map(|value| value.to_str().unwrap())
    }

    #[test]
    fn a_star_is_one_or_more_labels_and_nothing_else() {
        let below = pattern("https://*.Example.org");
        for origin in ["https://app.example.org", "HTTPS://a.b.example.ORG"] {
            assert!(below.allows(origin), "{origin}");
        }
        for origin in [
            "https://example.org",
            "https://.example.org",
            "https://evilexample.org",
            "http://app.example.org",
            "https://app.example.org:8443",
            "https://app.example.org.evil.com",
            "https://evil.com/.example.org",
            "https://evil.com#.example.org",
            "https://evil.com:1@a.example.org",
            "null",
            "",
        ] {
            assert!(!below.allows(origin), "{origin}");
        }
        assert!(pattern("http://*.localhost:3000").allows("http://a.localhost:3000"));
        assert!(!pattern("https://app.example.org").allows("https://app.example.org.evil.com"));
        for text in
            ["example.org", "https://", "https://*", "https://a.*.org", "https://a.org/", "*.a.org", "https://*a.org"]
        {
            assert!(OriginPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_preflight_gets_what_it_asked_for() {
        let mut request = HeaderMap::new();
        request.insert(ORIGIN, HeaderValue::from_static("https://app.example.org"));
        assert!(!Cors::is_preflight(&Method::OPTIONS, &request));
        request.insert(ACCESS_CONTROL_REQUEST_METHOD, HeaderValue::from_static("POST"));
        request.insert(ACCESS_CONTROL_REQUEST_HEADERS, HeaderValue::from_static("x-one,x-two"));
        assert!(Cors::is_preflight(&Method::OPTIONS, &request));
        assert!(!Cors::is_preflight(&Method::GET, &request));
        let answer = cors(&["https://app.example.org"], true).preflight(&request);
        assert!(answer.allowed);
        assert_eq!(header(&answer.headers, "access-control-allow-origin"), Some("https://app.example.org"));
        assert_eq!(header(&answer.headers, "access-control-allow-credentials"), Some("true"));
        assert_eq!(header(&answer.headers, "access-control-allow-methods"), Some("GET, POST"));
        assert_eq!(header(&answer.headers, "access-control-allow-headers"), Some("x-one,x-two"));
        assert_eq!(header(&answer.headers, "access-control-max-age"), Some("600"));
        assert_eq!(header(&answer.headers, "vary"), Some("origin"));
        let answer = cors(&["https://other.example.org"], true).preflight(&request);
        assert!(!answer.allowed);
        assert_eq!(header(&answer.headers, "access-control-allow-origin"), None);
        assert_eq!(header(&answer.headers, "vary"), Some("origin"));
    }

    #[test]
    fn the_upstreams_own_rules_do_not_get_through() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding, Origin"));
        let rules = cors(&["https://app.example.org"], false);
        rules.apply(Some(&HeaderValue::from_static("https://evil.example")), &mut headers);
        assert_eq!(header(&headers, "access-control-allow-origin"), None);
        rules.apply(Some(&HeaderValue::from_static("https://app.example.org")), &mut headers);
        assert_eq!(header(&headers, "access-control-allow-origin"), Some("https://app.example.org"));
        assert_eq!(header(&headers, "access-control-expose-headers"), Some("x-total"));
        assert_eq!(headers.get_all(VARY).iter().count(), 1);
    }

    #[test]
    fn a_star_is_the_same_for_everybody_but_never_with_credentials() {
        let mut headers = HeaderMap::new();
        cors(&["*"], false).apply(None, &mut headers);
        assert_eq!(header(&headers, "access-control-allow-origin"), Some("*"));
        assert_eq!(header(&headers, "vary"), None);
        let mut headers = HeaderMap::new();
        cors(&["*"], true).apply(Some(&HeaderValue::from_static("https://a.org")), &mut headers);
        assert_eq!(header(&headers, "access-control-allow-origin"), Some("https://a.org"));
        assert_eq!(header(&headers, "vary"), Some("origin"));
    }
}
