//! Who wants in: what a client said when it connected.

use std::net::IpAddr;
use std::rc::Rc;

use http::header::{AUTHORIZATION, CONNECTION, COOKIE, UPGRADE};
use http::{HeaderName, Request};
use serde_json::value::RawValue;

use crate::connection::Conn;
use crate::http::parameter;

/// Headers of the connection itself, and those whose values are secrets.
fn is_kept(name: &HeaderName) -> bool {
    !(matches!(*name, AUTHORIZATION | CONNECTION | COOKIE | UPGRADE) || name.as_str().starts_with("sec-websocket"))
}

/// The most bytes of headers that are kept of a request.
const MOST_HEADERS: usize = 4 << 10;

/// Headers and query of a connection's first request, in one piece: a map would weigh many times as much.
#[derive(Debug)]
pub(crate) struct Head {
    /// `name: value\n`, names in lower case.
    headers: Box<str>,
    query: Box<str>,
}

impl Head {
    pub fn of<B>(request: &Request<B>) -> Self {
        let mut headers = String::new();
        for (name, value) in request.headers() {
            let Some(value) = value.to_str().ok().filter(|_| is_kept(name)) else { continue };
            if headers.len() + name.as_str().len() + value.len() + 3 > MOST_HEADERS {
                break;
            }
            headers.extend([name.as_str(), ": ", value, "\n"]);
        }
        Self { headers: headers.into(), query: request.uri().query().unwrap_or_default().into() }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (found, value) = line.split_once(": ")?;
            found.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    pub fn query(&self, name: &str) -> Option<String> {
        parameter(Some(&self.query), name).map(std::borrow::Cow::into_owned)
    }
}

/// What a client said when it connected to a namespace.
#[derive(Debug)]
pub struct Handshake {
    auth: Box<RawValue>,
    head: Option<Rc<Head>>,
    address: IpAddr,
}

impl Handshake {
    pub(crate) fn new(conn: &Conn, auth: &str) -> Self {
        let auth = RawValue::from_string(auth.to_owned()).ok();
        // The packet has been checked: what is no JSON is an empty payload.
        let auth = auth.or_else(|| RawValue::from_string("{}".to_owned()).ok()).unwrap_or_default();
        Self { auth, head: conn.head.clone(), address: conn.address }
    }

    /// The auth payload, a JSON object; `{}` if the client sent none.
    pub fn auth(&self) -> &RawValue {
        &self.auth
    }

    /// A header of the connection's first request, the first of that name. `Authorization` and `Cookie` are not kept.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.as_ref()?.header(name)
    }

    /// A parameter of the connection's first request, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        self.head.as_ref()?.query(name)
    }

    /// The client's address, as the listener's `client` settings find it.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_and_query_are_found_but_no_secrets() {
        let request = Request::builder()
            .uri("/socket.io/?EIO=4&room=a%20b")
            .header("User-Agent", "x")
            .header("Cookie", "secret")
            .header("Authorization", "secret")
            .body(())
            .unwrap();
        let head = Head::of(&request);
        assert_eq!(head.header("user-agent"), Some("x"));
        assert_eq!(head.header("USER-AGENT"), Some("x"));
        assert_eq!(head.query("room").as_deref(), Some("a b"));
        assert_eq!(head.query("none"), None);
        assert!(!head.headers.contains("secret"));
    }
}
