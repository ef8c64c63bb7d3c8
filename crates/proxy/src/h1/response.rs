//! Heads of responses (RFC 9112 section 4, framing: section 6.3).

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Response, StatusCode, Version};
use hyper::ext::ReasonPhrase;

use super::Chunks;
use crate::headers::has_token;

/// More fields in a head are refused.
const MAX_FIELDS: usize = 100;

/// Where the body of a response ends, and how far it is.
#[derive(Debug)]
pub(crate) enum Framing {
    /// After so many further bytes.
    Length(u64),
    /// Where the chunks say.
    Chunked(Box<Chunks>),
    /// Where the connection ends.
    UntilClose,
}

/// A response without its body.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) response: Response<()>,
    pub(crate) framing: Framing,
    /// Whether the upstream lets the connection be used again.
    pub(crate) reusable: bool,
}

/// The head breaks the protocol, or says in two ways where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BadResponse;

/// Parses the head at the beginning of `bytes`: the head and its length, or nothing if it is not complete.
pub(crate) fn parse(bytes: &Bytes, method: &Method) -> Result<Option<(Head, usize)>, BadResponse> {
    let mut fields = [const { MaybeUninit::uninit() }; MAX_FIELDS];
    let mut parsed = httparse::Response::new(&mut []);
    let outcome = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut parsed, bytes, &mut fields)
        .map_err(|_| BadResponse)?;
    let httparse::Status::Complete(length) = outcome else { return Ok(None) };
    let version = match parsed.version {
        Some(0) => Version::HTTP_10,
        Some(1) => Version::HTTP_11,
        Some(_) | None => return Err(BadResponse),
    };
    let status = StatusCode::from_u16(parsed.code.unwrap_or_default()).map_err(|_| BadResponse)?;
    let mut headers = HeaderMap::with_capacity(parsed.headers.len() + 4);
    for field in parsed.headers.iter() {
        let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| BadResponse)?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| BadResponse)?;
        headers.append(name, value);
    }
    let body = body(&headers, version, status, method)?;
    let reusable = !matches!(body, Framing::UntilClose)
        && if version == Version::HTTP_11 {
            !has_token(&headers, &CONNECTION, "close")
        } else {
            has_token(&headers, &CONNECTION, "keep-alive")
        };
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    if let Some(reason) = parsed.reason.filter(|reason| status.canonical_reason() != Some(reason))
        && let Ok(reason) = ReasonPhrase::try_from(reason.as_bytes())
    {
        response.extensions_mut().insert(reason);
    }
    Ok(Some((Head { response, framing: body, reusable }, length)))
}

/// Two parties that disagree about which length counts is how responses are smuggled: a Transfer-Encoding beside a
/// Content-Length, either of them twice, or a coding other than chunked makes the response invalid.
fn body(headers: &HeaderMap, version: Version, status: StatusCode, method: &Method) -> Result<Framing, BadResponse> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let (length, coding) = (lengths.next(), codings.next());
    if lengths.next().is_some() || codings.next().is_some() {
        return Err(BadResponse);
    }
    let framing = match (length, coding) {
        (None, None) => Framing::UntilClose,
        (Some(length), None) => Framing::Length(digits(length.as_bytes()).ok_or(BadResponse)?),
        (None, Some(coding)) if version == Version::HTTP_11 && coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
            Framing::Chunked(Box::new(Chunks::new()))
        }
        (_, Some(_)) => return Err(BadResponse),
    };
    let bodyless = method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(if bodyless { Framing::Length(0) } else { framing })
}

fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() || text.len() > 19 {
        return None;
    }
    text.iter().try_fold(0u64, |number, digit| {
        digit.is_ascii_digit().then(|| number.checked_mul(10)?.checked_add(u64::from(digit - b'0')))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str, method: &Method) -> Result<Option<(Head, usize)>, BadResponse> {
        parse(&Bytes::copy_from_slice(text.as_bytes()), method)
    }

    fn head(text: &str) -> Head {
        parsed(text, &Method::GET).unwrap().unwrap().0
    }

    #[test]
    fn a_head_is_told_from_what_follows() {
        let text = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX: \u{fc}\r\n\r\nok";
        let (head, length) = parsed(text, &Method::GET).unwrap().unwrap();
        assert_eq!((&text[length..], head.response.status().as_u16(), head.reusable), ("ok", 200, true));
        assert!(matches!(head.framing, Framing::Length(2)));
        for cut in 0..length {
            let part = &text.as_bytes()[..cut];
            assert!(parse(&Bytes::copy_from_slice(part), &Method::GET).unwrap().is_none(), "{cut}");
        }
    }

    #[test]
    fn some_responses_have_no_body_whatever_they_say() {
        for (status, method) in
            [("204 No Content", Method::GET), ("304 Not Modified", Method::GET), ("200 OK", Method::HEAD)]
        {
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
            let (head, _) = parsed(&text, &method).unwrap().unwrap();
            assert!(matches!(head.framing, Framing::Length(0)), "{status}");
            assert_eq!(head.response.headers()[CONTENT_LENGTH], "5");
        }
    }

    #[test]
    fn a_connection_is_used_again_only_if_its_end_is_not_the_bodys_and_both_sides_agree() {
        assert!(!head("HTTP/1.1 200 OK\r\n\r\n").reusable);
        assert!(!head("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n").reusable);
        assert!(!head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n").reusable);
        assert!(head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: Keep-Alive\r\n\r\n").reusable);
        assert!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n").reusable);
    }

    #[test]
    fn reasons_of_ones_own_are_kept() {
        let reason = |text| head(text).response.extensions().get::<ReasonPhrase>().cloned();
        assert_eq!(reason("HTTP/1.1 200 OK\r\n\r\n"), None);
        assert_eq!(reason("HTTP/1.1 200 Fine\r\n\r\n"), Some(ReasonPhrase::from_static(b"Fine")));
    }
}
