//! What a handshake's `Sec-WebSocket-Extensions` asks for (RFC 6455 section 9.1), and the one answer this project knows:
//! permessage-deflate without context takeover (RFC 7692 section 7.1).

/// permessage-deflate, as agreed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deflate {
    /// The window that the peer inflates with, 8 to 15 bits, if it has named one.
    window_bits: Option<u8>,
}

/// The header is not what section 9.1 says; the handshake is to be refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Sec-WebSocket-Extensions is malformed")]
pub struct BadExtensions;

impl Deflate {
    /// The first offer of permessage-deflate that can be taken, from all values of the header. Other extensions, and
    /// offers with parameters that mean nothing, are declined by silence (RFC 7692 section 7).
    ///
    /// # Errors
    /// [`BadExtensions`] if a value does not follow the grammar.
    pub fn negotiate<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Option<Self>, BadExtensions> {
        let mut agreed = None;
        for extension in values.into_iter().flat_map(|value| value.split(',')).map(trim) {
            // A list may have empty elements (RFC 9110 section 5.6.1.2).
            if extension.is_empty() {
                continue;
            }
            let (name, parameters) = extension.split_once(';').map_or((extension, None), |(a, b)| (a, Some(b)));
            let name = token(trim(name))?;
            let mut offer = Some(Offer::default());
            for parameter in parameters.into_iter().flat_map(|all| all.split(';')) {
                let (key, value) = parameter.split_once('=').map_or((parameter, None), |(a, b)| (a, Some(b)));
                let key = token(trim(key))?;
                let value = value.map(|value| token(unquoted(trim(value))?)).transpose()?;
                offer = offer.and_then(|offer| offer.with(key, value));
            }
            if agreed.is_none() && name.eq_ignore_ascii_case("permessage-deflate") {
                agreed = offer.map(|offer| Self { window_bits: offer.server_window_bits });
            }
        }
        Ok(agreed)
    }

    /// The value of `Sec-WebSocket-Extensions` in the answer. Neither side takes its context over, so that neither has to
    /// keep one for a connection.
    pub fn answer(self) -> String {
        let mut answer = "permessage-deflate; server_no_context_takeover; client_no_context_takeover".to_owned();
        if let Some(bits) = self.window_bits {
            answer.push_str("; server_max_window_bits=");
            answer.push_str(&bits.to_string());
        }
        answer
    }

    /// The longest message that may be compressed for the peer, as a power of two: without context takeover no distance
    /// is longer than the message, so that a message as long as the peer's window fits it.
    pub fn message_bits(self) -> Option<u8> {
        self.window_bits.filter(|bits| *bits < 15)
    }
}

/// The parameters of an offer.
#[derive(Clone, Copy, Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_window_bits: Option<u8>,
    client_window_bits: bool,
}

impl Offer {
    /// With one parameter more; `None` if the offer has to be declined: unknown, bad or repeated.
    fn with(mut self, key: &str, value: Option<&str>) -> Option<Self> {
        let seen = match key {
            "server_no_context_takeover" if value.is_none() => {
                std::mem::replace(&mut self.server_no_context_takeover, true)
            }
            "client_no_context_takeover" if value.is_none() => {
                std::mem::replace(&mut self.client_no_context_takeover, true)
            }
            "server_max_window_bits" => self.server_window_bits.replace(window_bits(value?)?).is_some(),
            "client_max_window_bits" => {
                if let Some(value) = value {
                    window_bits(value)?;
                }
                std::mem::replace(&mut self.client_window_bits, true)
            }
            _ => return None,
        };
        (!seen).then_some(self)
    }
}

/// Section 7.1.2: 8 to 15, without leading zeros.
fn window_bits(value: &str) -> Option<u8> {
    if value.starts_with(['0', '+']) {
        return None;
    }
    value.parse().ok().filter(|bits| (8..=15).contains(bits))
}

fn trim(text: &str) -> &str {
    text.trim_matches([' ', '\t'])
}

/// A value in quotes must be a token without them (RFC 6455 section 9.1); one with an escape could be written without.
fn unquoted(value: &str) -> Result<&str, BadExtensions> {
    match value.strip_prefix('"') {
        None => Ok(value),
        Some(rest) => rest.strip_suffix('"').ok_or(BadExtensions),
    }
}

/// RFC 9110 section 5.6.2.
fn token(text: &str) -> Result<&str, BadExtensions> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if !text.is_empty() && text.bytes().all(good) { Ok(text) } else { Err(BadExtensions) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(offer: &str) -> Option<String> {
        Deflate::negotiate([offer]).unwrap().map(Deflate::answer)
    }

    #[test]
    fn the_first_good_offer_is_taken_and_no_context_ever() {
        let plain = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        // What Chromium, Firefox and Node's ws send.
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate;client_max_window_bits=\"10\" ; server_no_context_takeover",
            "x-webkit-deflate-frame, Permessage-Deflate",
            "permessage-deflate; mux=1, permessage-deflate; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=7, , permessage-deflate",
        ] {
            assert_eq!(answer(offer).as_deref(), Some(plain), "{offer}");
        }
        let bits = "permessage-deflate; server_max_window_bits=10, permessage-deflate";
        assert_eq!(answer(bits), Some(format!("{plain}; server_max_window_bits=10")));
    }

    #[test]
    fn an_offer_that_means_nothing_is_declined() {
        for parameters in [
            "server_max_window_bits",
            "server_max_window_bits=16",
            "server_max_window_bits=08",
            "server_max_window_bits=8; server_max_window_bits=8",
            "client_max_window_bits=7",
            "client_max_window_bits; client_max_window_bits",
            "server_no_context_takeover=1",
            "client_no_context_takeover; client_no_context_takeover",
            "context",
        ] {
            assert_eq!(answer(&format!("permessage-deflate; {parameters}")), None, "{parameters}");
        }
        assert_eq!(answer("permessage-bzip2"), None);
        assert_eq!(answer(""), None);
        assert_eq!(Deflate::negotiate([]), Ok(None));
        assert_eq!(Deflate::negotiate(["a", "permessage-deflate"]).unwrap().map(Deflate::message_bits), Some(None));
    }

    #[test]
    fn a_header_outside_the_grammar_is_refused() {
        for header in [
            "permessage-deflate;",
            "permessage-deflate; =1",
            "permessage-deflate; a=",
            "permessage-deflate; a=\"1",
            "permessage-deflate; a=\"1;2\"",
            "permessage deflate",
            "a, b/c",
            "permessage-deflate; a=\u{e9}",
        ] {
            assert_eq!(Deflate::negotiate([header]), Err(BadExtensions), "{header}");
        }
    }

    #[test]
    fn a_small_window_bounds_what_is_compressed() {
        let bits = |bits| Deflate::negotiate([format!("permessage-deflate; server_max_window_bits={bits}").as_str()]);
        assert_eq!(bits(8).unwrap().and_then(Deflate::message_bits), Some(8));
        assert_eq!(bits(15).unwrap().and_then(Deflate::message_bits), None);
    }
}
