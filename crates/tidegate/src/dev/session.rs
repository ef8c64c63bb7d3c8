//! `GET /dev/session?name=NAME`: a token for whoever asks. Only `dev` has it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tidegate_auth::KeySet;
use tidegate_types::UserId;

const TENANT: &str = "default";
const TTL: Duration = Duration::from_secs(24 * 3600);
const MAX_NAME_BYTES: usize = 64;

/// A token for somebody of the default tenant.
pub fn token(keys: &KeySet, name: &str) -> String {
    let mut claims = crate::token::claims(name, TENANT, TTL);
    claims.username = Some(name.to_owned());
    keys.sign(&claims)
}

/// Answers the page's wish for a token.
pub fn answer<B>(keys: &KeySet, request: &Request<B>, loopback: bool) -> Response<Bytes> {
    if *request.method() != Method::GET {
        return super::plain(StatusCode::METHOD_NOT_ALLOWED, "only GET");
    }
    if loopback && !super::names_this_machine(request) {
        return super::plain(StatusCode::FORBIDDEN, "ask by address or as localhost");
    }
    let name = name(request.uri().query().unwrap_or_default());
    if name.len() > MAX_NAME_BYTES || UserId::try_from(name.as_str()).is_err() {
        return super::plain(StatusCode::BAD_REQUEST, "name must have 1 to 64 bytes and no control characters");
    }
    let body = serde_json::json!({ "token": token(keys, &name), "tenant": TENANT, "user": name, "name": name });
    let mut response = Response::new(Bytes::from(body.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The query's `name`, decoded; empty if there is none.
fn name(query: &str) -> String {
    let value = query.split('&').find_map(|pair| pair.strip_prefix("name=")).unwrap_or_default();
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        let decoded = match byte {
            b'+' => b' ',
            b'%' => {
                let digits =
                    [rest.next(), rest.next()].map(|digit| digit.and_then(|digit| char::from(digit).to_digit(16)));
                match digits {
                    [Some(high), Some(low)] => u8::try_from(high * 16 + low).unwrap_or(b'?'),
                    // What is no escape makes no name.
                    [_, _] => return String::new(),
                }
            }
            other => other,
        };
        bytes.push(decoded);
    }
    String::from_utf8(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn ask(uri: &str, host: &str) -> Response<Bytes> {
        let request = Request::builder().uri(uri).header("host", host).body(()).unwrap();
        answer(&KeySet::hs256("secret"), &request, true)
    }

    #[test]
    fn a_name_gets_a_token_of_that_user() {
        let response = ask("/dev/session?name=Gr%C3%A4fin+%26", "127.0.0.1:8080");
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        assert_eq!(body["user"], "Gräfin &");
        let principal = KeySet::hs256("secret").verify(body["token"].as_str().unwrap(), 1).unwrap();
        assert_eq!(principal.user.as_str(), "Gräfin &");
        assert_eq!(principal.tenant.as_str(), "default");
    }

    #[test]
    fn impossible_names_are_refused() {
        for query in
            ["", "?name=", "?name=%", "?name=%zz", "?name=%ff", "?name=%0a", &format!("?name={}", "x".repeat(65))]
        {
            assert_eq!(ask(&format!("/dev/session{query}"), "localhost").status(), 400, "{query}");
        }
    }

    #[test]
    fn a_page_of_another_name_that_points_here_gets_no_token() {
        assert_eq!(ask("/dev/session?name=a", "evil.example:8080").status(), 403);
        for host in ["localhost:1", "127.0.0.1", "[::1]:8080", "LOCALHOST"] {
            assert_eq!(ask("/dev/session?name=a", host).status(), 200, "{host}");
        }
    }
}
