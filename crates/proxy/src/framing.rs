use http::header::{CONTENT_LENGTH, HOST, HeaderMap, TRANSFER_ENCODING};
use http::{Method, Request, Version};

/// Why a request is not forwarded: its framing or its target means different things to different parsers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ambiguity {
    /// Both Transfer-Encoding and Content-Length, or one of them twice.
    TwoLengths,
    /// A Content-Length that is not plain digits.
    Length,
    /// A transfer coding other than chunked, or one in HTTP/1.0.
    Coding,
    /// No Host (HTTP/1.1), several, or one that is no host.
    Host,
    /// An absolute target with another host than Host.
    TwoHosts,
    /// A target that is neither a path, `*` nor an http URL; CONNECT, or TRACE, which would echo credentials.
    Target,
}

impl Ambiguity {
    /// Stable text: label of `tidegate_bad_requests_total`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TwoLengths => "two_lengths",
            Self::Length => "length",
            Self::Coding => "coding",
            Self::Host => "host",
            Self::TwoHosts => "two_hosts",
            Self::Target => "target",
        }
    }

    /// For the error body; says what is wrong, shows nothing of the request.
    pub fn message(self) -> &'static str {
        match self {
            Self::TwoLengths => "The request has more than one length",
            Self::Length => "The request's Content-Length is not a number",
            Self::Coding => "The request's transfer coding is not supported",
            Self::Host => "The request must have exactly one valid Host",
            Self::TwoHosts => "The request's target and its Host differ",
            Self::Target => "The request's method or target is not supported",
        }
    }
}

/// Refuses what must not be forwarded. Call it before routing; answer a refusal with
/// [`ErrorCode::BadRequest`](tidegate_types::ErrorCode::BadRequest), which also closes the connection.
///
/// hyper's parser hides some shapes by normalising them (a Content-Length next to chunked is dropped, equal lengths are
/// merged, bare line feeds are taken); the bytes themselves are checked by [`crate::Guarded`].
pub fn check_framing<B>(request: &Request<B>) -> Result<(), Ambiguity> {
    let headers = request.headers();
    check_length(headers, request.version())?;
    check_target(request)
}

fn check_length(headers: &HeaderMap, version: Version) -> Result<(), Ambiguity> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match (lengths.next(), codings.next()) {
        (None, None) => Ok(()),
        (Some(length), None) => {
            if lengths.next().is_some() {
                return Err(Ambiguity::TwoLengths);
            }
            let plain = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
            if plain { Ok(()) } else { Err(Ambiguity::Length) }
        }
        (None, Some(coding)) => {
            let chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            if chunked && codings.next().is_none() && version == Version::HTTP_11 {
                Ok(())
            } else {
                Err(Ambiguity::Coding)
            }
        }
        (Some(_), Some(_)) => Err(Ambiguity::TwoLengths),
    }
}

fn check_target<B>(request: &Request<B>) -> Result<(), Ambiguity> {
    let (method, uri) = (request.method(), request.uri());
    if method == Method::CONNECT || method == Method::TRACE {
        return Err(Ambiguity::Target);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => Some(host),
        (None, _) if request.version() < Version::HTTP_11 => None,
        (Some(_) | None, _) => return Err(Ambiguity::Host),
    };
    match (uri.scheme_str(), uri.authority()) {
        (None, None) => {
            let path = uri.path();
            if path.starts_with('/') || (path == "*" && method == Method::OPTIONS) {
                Ok(())
            } else {
                Err(Ambiguity::Target)
            }
        }
        (Some("http" | "https"), Some(authority)) => {
            if !is_host(authority.as_str().as_bytes()) {
                return Err(Ambiguity::Host);
            }
            let same = host.is_none_or(|host| host.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()));
            if same { Ok(()) } else { Err(Ambiguity::TwoHosts) }
        }
        (Some(_), _) | (None, Some(_)) => Err(Ambiguity::Target),
    }
}

/// A name or address with an optional port: no userinfo, no path, no list.
fn is_host(host: &[u8]) -> bool {
    !host.is_empty()
        && host.len() <= 300
        && host.iter().all(|byte| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b':' | b'[' | b']' | b'%')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(target: &str, headers: &[(&str, &str)]) -> Result<(), Ambiguity> {
        let mut request = Request::builder().uri(target);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        check_framing(&request.body(()).unwrap())
    }

    #[test]
    fn plain_requests_pass() {
        assert_eq!(check("/a?b", &[("host", "example.org:8080")]), Ok(()));
        assert_eq!(check("/", &[("host", "[::1]:80"), ("content-length", "12")]), Ok(()));
        assert_eq!(check("/", &[("host", "a_b"), ("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(check("http://a.b/x", &[("host", "A.b")]), Ok(()));
    }

    #[test]
    fn several_lengths_are_refused_even_when_they_agree() {
        let host = ("host", "a");
        for headers in [
            [host, ("content-length", "1"), ("content-length", "1")],
            [host, ("content-length", "1"), ("transfer-encoding", "chunked")],
        ] {
            assert_eq!(check("/", &headers), Err(Ambiguity::TwoLengths));
        }
        for length in ["+1", "1, 1", "", "0x1", "-0"] {
            assert_eq!(check("/", &[host, ("content-length", length)]), Err(Ambiguity::Length), "{length:?}");
        }
    }

    #[test]
    fn only_plain_chunked_is_a_transfer_coding() {
        for coding in ["gzip, chunked", "identity", "chunked, chunked", "xchunked", "chunked;a"] {
            assert_eq!(check("/", &[("host", "a"), ("transfer-encoding", coding)]), Err(Ambiguity::Coding), "{coding}");
        }
        let twice = [("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")];
        assert_eq!(check("/", &twice), Err(Ambiguity::Coding));
    }

    #[test]
    fn a_request_is_for_exactly_one_host() {
        assert_eq!(check("/", &[]), Err(Ambiguity::Host));
        assert_eq!(check("/", &[("host", "a"), ("host", "a")]), Err(Ambiguity::Host));
        for host in ["", "a b", "a/b", "u@a", "a,b", "a\\b"] {
            assert_eq!(check("/", &[("host", host)]), Err(Ambiguity::Host), "{host:?}");
        }
        assert_eq!(check("http://a/x", &[("host", "b")]), Err(Ambiguity::TwoHosts));
        assert_eq!(check("http://u@a/x", &[("host", "a")]), Err(Ambiguity::Host));
    }

    #[test]
    fn tunnels_and_traces_are_not_for_a_gateway() {
        for (method, target) in [("CONNECT", "a:1"), ("TRACE", "/"), ("GET", "*")] {
            let request = Request::builder().method(method).uri(target).header("host", "a").body(()).unwrap();
            assert_eq!(check_framing(&request), Err(Ambiguity::Target), "{method}");
        }
        let request = Request::builder().method("OPTIONS").uri("*").header("host", "a").body(()).unwrap();
        assert_eq!(check_framing(&request), Ok(()));
    }
}
