//! The trace that an exchange is part of (W3C Trace Context, level 1): who asked, and what each try with a server was.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tidegate_types::hex;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Tries that are told of one by one; an exchange has few.
const MAX_ATTEMPTS: usize = 16;

/// A place in a trace, as a `traceparent` header names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanContext {
    /// Of the whole trace, not 0.
    pub trace: u128,
    /// Of one span of it, not 0.
    pub span: u64,
    /// Whether whoever sent it records it.
    pub sampled: bool,
}

impl SpanContext {
    /// What a request's header says; `None` if it says nothing, or nothing valid (section 3.2).
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        let mut fields = value.to_str().ok()?.split('-');
        let [version, trace, span, flags] = [fields.next()?, fields.next()?, fields.next()?, fields.next()?];
        let more = fields.next().is_some();
        let version = number(version, 2)?;
        // A later version may say more behind what this one knows.
        if version == 0xff || (version == 0 && more) {
            return None;
        }
        let context = Self {
            trace: number(trace, 32)?,
            span: u64::try_from(number(span, 16)?).ok()?,
            sampled: number(flags, 2)? & 1 == 1,
        };
        (context.trace != 0 && context.span != 0).then_some(context)
    }

    /// As a value of `traceparent`.
    pub fn header(&self) -> String {
        let Self { trace, span, sampled } = self;
        format!("00-{trace:032x}-{span:016x}-{:02x}", u8::from(*sampled))
    }
}

/// Lower-case hexadecimal digits, exactly so many.
fn number(text: &str, digits: usize) -> Option<u128> {
    let plain = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if text.len() != digits || !plain {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

/// One try with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its span; the server was told of it as its parent.
    pub span: u64,
    /// The server's address.
    pub server: Arc<str>,
    /// When it began, since the exchange did.
    pub began: Duration,
}

/// The trace of one exchange: its own span, and one for each try with a server.
#[derive(Debug)]
pub struct Trace {
    /// The exchange's own span.
    pub context: SpanContext,
    /// Whose child it is: the client's span, if it sent one.
    pub parent: Option<u64>,
    id: [u8; 32],
    next: Cell<u64>,
    attempts: RefCell<Vec<Attempt>>,
}

impl Trace {
    /// A trace for an exchange. The ids of its tries are made from `seed`.
    pub fn new(context: SpanContext, parent: Option<u64>, seed: u64) -> Self {
        let mut id = [0; 32];
        let (high, low) = id.split_at_mut(16);
        high.copy_from_slice(&hex::<16>(u64::try_from(context.trace >> 64).unwrap_or(0)));
        low.copy_from_slice(&hex::<16>(u64::try_from(context.trace & u128::from(u64::MAX)).unwrap_or(0)));
        Self { context, parent, id, next: Cell::new(seed), attempts: RefCell::default() }
    }

    /// The trace's id in hexadecimal digits.
    pub fn id(&self) -> &str {
        std::str::from_utf8(&self.id).unwrap_or_default()
    }

    /// The tries so far, the last one still running unless the exchange has ended.
    pub fn attempts(&self) -> Vec<Attempt> {
        self.attempts.borrow().clone()
    }

    /// Takes out what the client said: the server is told of our span. What other systems said belongs to the client's
    /// trace, and goes on only with it.
    pub(crate) fn strip(&self, headers: &mut HeaderMap) {
        headers.remove(TRACEPARENT);
        if self.parent.is_none() {
            headers.remove(TRACESTATE);
        }
    }

    pub(crate) fn attempt(&self, server: &Arc<str>, began: Duration) {
        let span = splitmix(&self.next).max(1);
        let mut attempts = self.attempts.borrow_mut();
        if attempts.len() < MAX_ATTEMPTS {
            attempts.push(Attempt { span, server: server.clone(), began });
        }
    }

    /// What the server of the current try is told.
    pub(crate) fn header(&self) -> String {
        let span = self.attempts.borrow().last().map_or(self.context.span, |attempt| attempt.span);
        SpanContext { span, ..self.context }.header()
    }
}

/// The next of a sequence of numbers that look random (SplitMix64).
pub fn splitmix(state: &Cell<u64>) -> u64 {
    let next = state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
    state.set(next);
    let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn parse(values: &[&str]) -> Option<SpanContext> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(TRACEPARENT, HeaderValue::from_str(value).unwrap());
        }
        SpanContext::of(&headers)
    }

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_example_of_the_recommendation_is_read_and_written() {
        let context = parse(&[EXAMPLE]).unwrap();
        assert_eq!(context.trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.span, context.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.header(), EXAMPLE);
        let trace = Trace::new(context, None, 1);
        assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn what_is_not_valid_is_not_followed() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(parse(&[bad]), None, "{bad}");
        }
        assert_eq!(parse(&[EXAMPLE, EXAMPLE]), None);
        assert!(parse(&["cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-09-more"]).unwrap().sampled);
    }

    #[test]
    fn each_try_is_a_span_of_its_own() {
        let trace = Trace::new(SpanContext { trace: 1, span: 2, sampled: false }, None, 7);
        assert!(trace.header().ends_with("-0000000000000002-00"));
        let server: Arc<str> = "a:1".into();
        for _ in 0..2 {
            trace.attempt(&server, Duration::ZERO);
        }
        let attempts = trace.attempts();
        assert_ne!(attempts[0].span, attempts[1].span);
        assert!(trace.header().ends_with(&format!("-{:016x}-00", attempts[1].span)));
    }
}
