//! What is tried again, with which server, and how often.

use std::time::Duration;

use crate::Upstream;
use crate::flow::Flow;
use crate::forward::Failure;
use crate::upstream::now;

/// What an upstream's requests are tried again for. A request goes to each server once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// The reasons.
    pub on: RetryReasons,
    /// Tries in all, the first one included; 0 counts as 1.
    pub tries: u8,
    /// No retry after the request has taken so long; zero is no limit.
    pub timeout: Duration,
    /// Percent of the requests that may be retries, at least 10 per second; 0 is no limit.
    pub budget: u32,
    /// Whether requests are repeated that may have had an effect although their method is not idempotent.
    pub non_idempotent: bool,
}

impl Default for RetrySettings {
    fn default() -> Self {
        let on = RetryReasons::CONNECT.and(RetryReasons::RESET);
        Self { on, tries: 3, timeout: Duration::ZERO, budget: 20, non_idempotent: false }
    }
}

/// A set of reasons to try another server (nginx `proxy_next_upstream`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetryReasons(u8);

impl RetryReasons {
    /// No connection came about.
    pub const CONNECT: Self = Self(1);
    /// The connection broke before a response head.
    pub const RESET: Self = Self(2);
    /// No response head in time.
    pub const TIMEOUT: Self = Self(4);
    /// 500.
    pub const STATUS_500: Self = Self(8);
    /// 502.
    pub const STATUS_502: Self = Self(16);
    /// 503.
    pub const STATUS_503: Self = Self(32);
    /// 504.
    pub const STATUS_504: Self = Self(64);
    /// 429.
    pub const STATUS_429: Self = Self(128);

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn has(self, reason: Self) -> bool {
        self.0 & reason.0 != 0
    }

    /// Whether a response with that status is a reason. False for all that are below 429, which is most: asked per response.
    pub(crate) fn has_status(self, status: u16) -> bool {
        status >= 429
            && self.has(match status {
                429 => Self::STATUS_429,
                500 => Self::STATUS_500,
                502 => Self::STATUS_502,
                503 => Self::STATUS_503,
                504 => Self::STATUS_504,
                _ => return false,
            })
    }

    /// Whether a failed try is a reason.
    pub(crate) fn has_failure(self, failure: Failure) -> bool {
        self.has(match failure {
            // Nobody has looked at the request, so that nothing speaks against another try.
            Failure::Unprocessed => return true,
            Failure::Connect(_) => Self::CONNECT,
            Failure::Reset => Self::RESET,
            Failure::Timeout => Self::TIMEOUT,
            Failure::NoServer
            | Failure::NoTunnel
            | Failure::Refused { .. }
            | Failure::Invalid
            | Failure::ClientSilent
            | Failure::ClientBroken
            | Failure::ClientSlow
            | Failure::TooLarge => return false,
        })
    }
}

/// The tries of one request with different servers.
#[derive(Debug)]
pub(crate) struct Tries<'a> {
    upstream: &'a Upstream,
    flow: &'a Flow,
    begun: bool,
    left: u8,
}

impl<'a> Tries<'a> {
    /// Before the first try. One that the breaker decides by is the only one.
    pub(crate) fn begin(upstream: &'a Upstream, flow: &'a Flow, trial: bool) -> Self {
        if let Some(budget) = &upstream.budget {
            budget.request(flow.began());
        }
        let left = if trial { 0 } else { upstream.settings.retry.tries.saturating_sub(1) };
        Self { upstream, flow, begun: false, left }
    }

    /// Whether a server is worth looking for after a failure.
    pub(crate) fn may_follow(&self, failure: Failure) -> bool {
        self.upstream.settings.retry.on.has_failure(failure) && self.may_another()
    }

    /// Whether a server is worth looking for.
    pub(crate) fn may_another(&self) -> bool {
        let timeout = self.upstream.settings.retry.timeout;
        self.left > 0 && (timeout.is_zero() || self.flow.age() < timeout)
    }

    /// A server was found: whether it is tried. Asks the budget for all but the first, and counts.
    pub(crate) fn next(&mut self) -> bool {
        if !self.begun {
            self.begun = true;
            return true;
        }
        if self.upstream.budget.as_ref().is_some_and(|budget| !budget.retry(now())) {
            self.upstream.metrics.retries_denied.inc();
            return false;
        }
        self.left = self.left.saturating_sub(1);
        self.count();
        true
    }

    /// Nothing came of a first try: its server was only a name.
    pub(crate) fn not_made(&mut self) {
        if self.flow.retries.get() == 0 {
            self.begun = false;
        }
    }

    /// A connection died while it was idle: the same server again, on a new one. A pool holds
    /// few of them, so that neither the number of tries nor the budget needs to limit it.
    pub(crate) fn over_again(&self) {
        self.count();
    }

    fn count(&self) {
        self.flow.retries.set(self.flow.retries.get().saturating_add(1));
        self.upstream.metrics.retries.inc();
    }
}
