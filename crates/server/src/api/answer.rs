//! Requests taken apart and answers put together.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use serde::Serialize;
use tidegate_types::ErrorCode;

pub(crate) type Answer = Result<Response<Bytes>, Refusal>;

/// Why a request is not done.
#[derive(Debug)]
pub(crate) struct Refusal {
    code: ErrorCode,
    message: String,
    allow: Option<&'static str>,
}

impl Refusal {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), allow: None }
    }

    pub fn method(allow: &'static str) -> Self {
        Self { allow: Some(allow), ..Self::new(ErrorCode::MethodNotAllowed, format!("Only {allow} is allowed here")) }
    }

    pub fn unauthorized() -> Self {
        Self::new(ErrorCode::Unauthorized, "Send the token of [admin] as Authorization: Bearer TOKEN")
    }

    pub fn into_response(self) -> Response<Bytes> {
        let status = StatusCode::from_u16(self.code.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = respond(status, "application/json", self.code.body(&self.message, ""));
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        if self.code == ErrorCode::Unauthorized {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Response<Bytes> {
    // Our own types have no keys that are not text, which is all that could fail.
    respond(status, "application/json", serde_json::to_string(body).unwrap_or_default())
}

pub(crate) fn text(content_type: &'static str, body: String) -> Response<Bytes> {
    respond(StatusCode::OK, content_type, body)
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The segments of a path, percent-decoded: an upstream's name may hold a slash.
pub(crate) fn segments(path: &str) -> Result<Vec<String>, Refusal> {
    path.split('/').map(decoded).collect()
}

/// A percent-encoded text (RFC 3986 section 2.1).
pub(crate) fn decoded(text: &str) -> Result<String, Refusal> {
    let bad = || Refusal::new(ErrorCode::BadRequest, "The URL holds an invalid percent-encoding");
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|digit| char::from(digit).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else { return Err(bad()) };
        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    String::from_utf8(out).map_err(|_| bad())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_slashes_and_addresses_come_through() {
        assert_eq!(
            segments("upstreams/a%2Fb/servers/%5B::1%5D:80").unwrap(),
            ["upstreams", "a/b", "servers", "[::1]:80"]
        );
        for bad in ["%", "%4", "%zz", "%ff"] {
            assert!(decoded(bad).is_err(), "{bad}");
        }
    }
}
