//! The opening of a WebSocket (RFC 6455 section 4.2): what a request must have, and what it is answered with.

use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use tidegate_wire::websocket::{self, Deflate};

use crate::body::Body;
use crate::http::{Answer, Streams, full, header};

/// A request that may be answered with a 101.
pub(crate) struct Handshake {
    accept: String,
    protocol: Option<HeaderValue>,
    /// Compression, if it was asked for and is switched on.
    pub deflate: Option<Deflate>,
}

/// Why a request opens no WebSocket.
pub(crate) enum NoHandshake {
    /// Another version of the protocol: the answer names ours (section 4.4).
    Version,
    /// Something is missing or malformed.
    Malformed,
}

impl Handshake {
    /// Checks the request.
    pub fn read<T>(request: &Request<T>, compression: bool) -> Result<Self, NoHandshake> {
        let headers = request.headers();
        if request.method() != Method::GET || request.version() < Version::HTTP_11 || !is_upgrade(headers) {
            return Err(NoHandshake::Malformed);
        }
        if header(headers, &SEC_WEBSOCKET_VERSION) != Some("13") {
            return Err(NoHandshake::Version);
        }
        // The key must not come twice (section 11.3.1).
        let mut keys = headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let key = keys.next().and_then(|key| key.to_str().ok()).filter(|key| websocket::is_valid_key(key));
        let (Some(key), None) = (key, keys.next()) else { return Err(NoHandshake::Malformed) };
        // What means nothing here is not judged either.
        let deflate = if compression {
            let offers = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|offer| offer.to_str().ok());
            Deflate::negotiate(offers).map_err(|_| NoHandshake::Malformed)?
        } else {
            None
        };
        Ok(Self { accept: websocket::accept_key(key), protocol: first_protocol(headers)?, deflate })
    }

    /// The 101.
    pub fn answer(self) -> Answer {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        if let Ok(accept) = HeaderValue::from_str(&self.accept) {
            headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
        }
        if let Some(protocol) = self.protocol {
            headers.insert(SEC_WEBSOCKET_PROTOCOL, protocol);
        }
        if let Some(Ok(agreed)) = self.deflate.map(|deflate| HeaderValue::from_str(&deflate.answer())) {
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, agreed);
        }
        response.extensions_mut().insert(Streams);
        response
    }
}

/// The answer to another version.
pub(crate) fn other_version() -> Answer {
    let mut answer = full(StatusCode::UPGRADE_REQUIRED, "text/html", "");
    answer.headers_mut().insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    answer
}

/// Whether the request asks for a WebSocket at all.
pub(crate) fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, &UPGRADE, "websocket") && has_token(headers, &CONNECTION, "upgrade")
}

fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

/// The subprotocol that is agreed to: as in the reference server the first one, whatever it is. A browser that has asked
/// for one takes no answer without.
fn first_protocol(headers: &HeaderMap) -> Result<Option<HeaderValue>, NoHandshake> {
    let mut first = None;
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        for protocol in value.to_str().map_err(|_| NoHandshake::Malformed)?.split(',').map(str::trim) {
            if !protocol.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
                || protocol.is_empty()
            {
                return Err(NoHandshake::Malformed);
            }
            if first.is_none() {
                first = HeaderValue::from_str(protocol).ok();
            }
        }
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: (&str, &str) = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");

    fn request(changes: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::new(());
        let whole =
            [("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket"), ("sec-websocket-version", "13"), KEY];
        for (name, value) in whole.iter().filter(|(name, _)| !changes.contains(&(*name, ""))).chain(changes) {
            let name: HeaderName = name.parse().unwrap();
            if changes.contains(&(name.as_str(), "")) {
                continue;
            }
            if whole.iter().any(|(known, _)| *known == name) && name != KEY.0 {
                request.headers_mut().insert(name, value.parse().unwrap());
            } else {
                request.headers_mut().append(name, value.parse().unwrap());
            }
        }
        request
    }

    fn answer(changes: &[(&str, &str)]) -> HeaderMap {
        Handshake::read(&request(changes), true).ok().unwrap().answer().headers().clone()
    }

    fn malformed(changes: &[(&str, &str)]) -> bool {
        matches!(Handshake::read(&request(changes), true), Err(NoHandshake::Malformed))
    }

    #[test]
    fn a_request_needs_all_of_its_parts() {
        assert_eq!(answer(&[]).get(SEC_WEBSOCKET_ACCEPT).unwrap(), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        for change in [
            ("connection", ""),
            ("connection", "keep-alive"),
            ("connection", "upgraded"),
            ("upgrade", ""),
            ("upgrade", "h2c"),
            ("sec-websocket-key", ""),
            KEY,
        ] {
            assert!(malformed(&[change]), "{change:?}");
        }
        for version in ["", "8", "12", "14", "13, 8", "013"] {
            let read = Handshake::read(&request(&[("sec-websocket-version", version)]), true);
            assert!(matches!(read, Err(NoHandshake::Version)), "{version}");
        }
        for wrong in ["dGhlIHNhbXBsZSBub25jZQ", "x", "dGhlIHNhbXBsZSBub25jZQ=="] {
            // Beside the right one: twice is once too often.
            assert!(malformed(&[("sec-websocket-key", wrong)]), "{wrong}");
        }
        let mut post = request(&[]);
        *post.method_mut() = Method::POST;
        assert!(Handshake::read(&post, true).is_err());
        let mut old = request(&[]);
        *old.version_mut() = Version::HTTP_10;
        assert!(Handshake::read(&old, true).is_err());
    }

    #[test]
    fn the_first_subprotocol_is_agreed_to() {
        assert_eq!(answer(&[]).get(SEC_WEBSOCKET_PROTOCOL), None);
        let several = [("sec-websocket-protocol", "chat.v2, chat"), ("sec-websocket-protocol", "other")];
        assert_eq!(answer(&several).get(SEC_WEBSOCKET_PROTOCOL).unwrap(), "chat.v2");
        for bad in ["a b", "a,,b", "a/b", ","] {
            assert!(malformed(&[("sec-websocket-protocol", bad)]), "{bad}");
        }
    }

    #[test]
    fn compression_is_agreed_to_only_where_it_is_switched_on() {
        let asked = [("sec-websocket-extensions", "permessage-deflate; client_max_window_bits")];
        let agreed = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        assert_eq!(answer(&asked).get(SEC_WEBSOCKET_EXTENSIONS).unwrap(), agreed);
        let off = Handshake::read(&request(&asked), false).ok().unwrap().answer();
        assert_eq!(off.headers().get(SEC_WEBSOCKET_EXTENSIONS), None);
        assert!(malformed(&[("sec-websocket-extensions", "permessage-deflate;")]));
    }
}
