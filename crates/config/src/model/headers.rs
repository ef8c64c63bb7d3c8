//! Changes of headers: plain ones, security headers, CORS.

use std::sync::Arc;
use std::time::Duration;

/// Changes of a message's headers, in this order: remove, set, add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChanges {
    /// `Name: template`, in place of what was there; an empty value removes it (nginx proxy_set_header).
    pub set: Vec<Arc<str>>,
    /// `Name: template`, beside what was there.
    pub add: Vec<Arc<str>>,
    /// Names.
    pub remove: Vec<Arc<str>>,
}

impl HeaderChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

/// Security headers of responses that do not have them yet; the default is the preset, `None` leaves one out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityHeaders {
    /// `Strict-Transport-Security`, only over https.
    pub hsts: Option<Arc<str>>,
    /// `Content-Security-Policy`.
    pub csp: Option<Arc<str>>,
    /// `X-Frame-Options`.
    pub frame: Option<Arc<str>>,
    /// `X-Content-Type-Options: nosniff`.
    pub nosniff: bool,
    /// `Referrer-Policy`.
    pub referrer: Option<Arc<str>>,
    /// `X-XSS-Protection`.
    pub xss: Option<Arc<str>>,
}

impl Default for SecurityHeaders {
    fn default() -> Self {
        Self {
            hsts: Some("max-age=31536000; includeSubDomains".into()),
            csp: Some("default-src 'self'".into()),
            frame: Some("SAMEORIGIN".into()),
            nosniff: true,
            referrer: Some("strict-origin-when-cross-origin".into()),
            xss: None,
        }
    }
}

/// Cross-origin requests, answered by the gateway (Fetch standard, section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cors {
    /// `https://app.example.org`, `https://*.example.org` or `*`, lower case.
    pub origins: Vec<Arc<str>>,
    /// Methods a page may use.
    pub methods: Vec<Arc<str>>,
    /// Request headers a page may set; empty is those it asks for.
    pub headers: Vec<Arc<str>>,
    /// Response headers a page may read.
    pub expose: Vec<Arc<str>>,
    /// Whether cookies may go along; never with `*`.
    pub credentials: bool,
    /// How long a preflight's answer holds.
    pub max_age: Duration,
}

impl Default for Cors {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            methods: ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"].map(Arc::from).to_vec(),
            headers: Vec::new(),
            expose: Vec::new(),
            credentials: false,
            max_age: Duration::from_secs(600),
        }
    }
}
