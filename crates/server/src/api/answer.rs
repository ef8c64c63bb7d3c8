//! Requests taken apart and answers put together.

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tidegate_types::ErrorCode;

/// The largest body taken, bytes.
const MAX_BODY: usize = 64 * 1024;

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

/// The parameters of a query, decoded. A `+` is a plus: addresses and names are not forms.
pub(crate) fn parameters<B>(request: &Request<B>) -> Result<Vec<(String, String)>, Refusal> {
    let query = request.uri().query().unwrap_or_default();
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| Ok((decoded(k)?, decoded(v)?))).collect()
}

/// The JSON body of a request; an empty one is an empty object.
pub(crate) async fn body<T: DeserializeOwned>(request: Request<Incoming>) -> Result<T, Refusal> {
    let bytes = Limited::new(request.into_body(), MAX_BODY)
        .collect()
        .await
        .map_err(|_| Refusal::new(ErrorCode::PayloadTooLarge, "The body is incomplete or larger than 64 KiB"))?;
    let bytes = bytes.to_bytes();
    let bytes = if bytes.is_empty() { Bytes::from_static(b"{}") } else { bytes };
    serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::new(ErrorCode::BadRequest, format!("The body is not what is wanted: {error}")))
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
