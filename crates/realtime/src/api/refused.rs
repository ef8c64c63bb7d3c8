//! What a request cannot have, and why.

use ::http::HeaderValue;
use ::http::header::{ALLOW, RETRY_AFTER};
use tidegate_types::{ErrorCode, Millis};

use crate::http::{Answer, error};

/// A request is refused. The message names what is wrong and what would be right.
#[derive(Debug)]
pub(super) struct Refused {
    pub code: ErrorCode,
    pub message: String,
    /// For 405.
    allowed: Option<String>,
    /// For 429 and what else passes by itself.
    pub retry_after_ms: Option<Millis>,
}

pub(super) type Outcome = Result<Answer, Refused>;

impl Refused {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), allowed: None, retry_after_ms: None }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    pub fn method(allowed: String) -> Self {
        let message = format!("This method is not supported here; these are: {allowed}");
        Self { allowed: Some(allowed), ..Self::new(ErrorCode::MethodNotAllowed, message) }
    }

    pub fn nothing() -> Self {
        Self::new(ErrorCode::NotFound, "No such endpoint")
    }

    pub fn into_answer(self, request_id: &str) -> Answer {
        let mut answer = error(self.code, &self.message, request_id);
        let headers = answer.headers_mut();
        if let Some(allowed) = self.allowed.and_then(|allowed| HeaderValue::try_from(allowed).ok()) {
            headers.insert(ALLOW, allowed);
        }
        if let Some(wait) = self.retry_after_ms {
            headers.insert(RETRY_AFTER, HeaderValue::from(wait.div_ceil(1_000).max(1)));
        }
        answer
    }
}
