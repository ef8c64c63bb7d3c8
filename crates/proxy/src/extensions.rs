//! WebSocket extensions (RFC 6455 section 9), as far as one must know them to tell a good frame from a bad one.

use http::HeaderMap;
use http::header::{HeaderValue, SEC_WEBSOCKET_EXTENSIONS};

/// The one that is known (RFC 7692).
const DEFLATE: &str = "permessage-deflate";

/// Leaves out of a client's offer what a strict route could not follow.
pub(crate) fn offer_known(headers: &mut HeaderMap) {
    let known: Vec<&str> = listed(headers).filter(|extension| is_deflate(extension)).collect();
    let offer = HeaderValue::from_str(&known.join(", "));
    headers.remove(SEC_WEBSOCKET_EXTENSIONS);
    if let Ok(offer) = offer
        && !offer.is_empty()
    {
        headers.insert(SEC_WEBSOCKET_EXTENSIONS, offer);
    }
}

/// Whether permessage-deflate was chosen.
pub(crate) fn deflates(headers: &HeaderMap) -> bool {
    listed(headers).any(is_deflate)
}

/// Whether something else was chosen, which nobody may who was not offered it.
pub(crate) fn has_unknown(headers: &HeaderMap) -> bool {
    listed(headers).any(|extension| !is_deflate(extension))
}

fn listed(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|extension| !extension.is_empty())
}

fn is_deflate(extension: &str) -> bool {
    extension.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case(DEFLATE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_offered() {
        for (offered, passed) in [
            (
                "x-other, permessage-deflate; client_max_window_bits, permessage-deflate",
                Some("permessage-deflate; client_max_window_bits, permessage-deflate"),
            ),
            ("x-other; a=b", None),
            ("Permessage-Deflate", Some("Permessage-Deflate")),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(offered));
            assert_eq!(has_unknown(&headers), offered.contains("other"));
            offer_known(&mut headers);
            assert_eq!(headers.get(SEC_WEBSOCKET_EXTENSIONS).map(|value| value.to_str().unwrap()), passed);
            assert_eq!((deflates(&headers), has_unknown(&headers)), (passed.is_some(), false));
        }
    }
}
