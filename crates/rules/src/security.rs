use http::header::{
    CONTENT_SECURITY_POLICY, HeaderMap, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
    X_FRAME_OPTIONS, X_XSS_PROTECTION,
};
use http::{HeaderName, HeaderValue};

use crate::TemplateError;

/// The preset of security headers. An empty value leaves a header out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Security {
    /// `Strict-Transport-Security` (RFC 6797); only sent over https.
    pub hsts: String,
    /// `Content-Security-Policy`.
    pub csp: String,
    /// `X-Frame-Options`.
    pub frame: String,
    /// `X-Content-Type-Options: nosniff`.
    pub nosniff: bool,
    /// `Referrer-Policy`.
    pub referrer: String,
    /// `X-XSS-Protection`; browsers have given it up.
    pub xss: String,
}

impl Default for Security {
    fn default() -> Self {
        Self {
            hsts: "max-age=31536000; includeSubDomains".to_owned(),
            csp: "default-src 'self'".to_owned(),
            frame: "SAMEORIGIN".to_owned(),
            nosniff: true,
            referrer: "strict-origin-when-cross-origin".to_owned(),
            xss: String::new(),
        }
    }
}

impl Security {
    /// The fields, made once.
    ///
    /// # Errors
    /// A value that no header can hold.
    pub fn headers(&self) -> Result<SecurityHeaders, TemplateError> {
        let nosniff = if self.nosniff { "nosniff" } else { "" };
        let fields = [
            (CONTENT_SECURITY_POLICY, self.csp.as_str()),
            (X_FRAME_OPTIONS, &self.frame),
            (X_CONTENT_TYPE_OPTIONS, nosniff),
            (REFERRER_POLICY, &self.referrer),
            (X_XSS_PROTECTION, &self.xss),
        ];
        let always = fields.into_iter().filter_map(|(name, text)| field(name, text).transpose());
        Ok(SecurityHeaders {
            always: always.collect::<Result<_, _>>()?,
            https: field(STRICT_TRANSPORT_SECURITY, &self.hsts)?,
        })
    }
}

fn field(name: HeaderName, text: &str) -> Result<Option<(HeaderName, HeaderValue)>, TemplateError> {
    if text.is_empty() {
        return Ok(None);
    }
    match HeaderValue::from_str(text) {
        Ok(value) => Ok(Some((name, value))),
        Err(_) => Err(TemplateError { at: 0, message: format!("{name} cannot hold control characters") }),
    }
}

/// Fields ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecurityHeaders {
    always: Box<[(HeaderName, HeaderValue)]>,
    https: Option<(HeaderName, HeaderValue)>,
}

impl SecurityHeaders {
    /// Writes the fields that the response does not have already.
    pub fn apply(&self, headers: &mut HeaderMap, https: bool) {
        for (name, value) in self.always.iter().chain(self.https.as_ref().filter(|_| https)) {
            headers.entry(name).or_insert_with(|| value.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_upstream_says_is_kept_and_hsts_is_for_https_only() {
        let preset = Security { referrer: String::new(), ..Security::default() }.headers().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        preset.apply(&mut headers, false);
        assert_eq!(headers[X_FRAME_OPTIONS], "DENY");
        assert_eq!(headers[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(headers[CONTENT_SECURITY_POLICY], "default-src 'self'");
        assert_eq!(headers.len(), 3, "{headers:?}");
        preset.apply(&mut headers, true);
        assert_eq!(headers[STRICT_TRANSPORT_SECURITY], "max-age=31536000; includeSubDomains");
        assert!(Security { csp: "a\nb".to_owned(), ..Security::default() }.headers().is_err());
    }
}
