//! The breaker of an upstream and its cap of concurrent requests, as the workers share them.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tidegate_balance::{Breaker, BreakerSettings, BreakerState, Permit, Verdict};
use tidegate_metrics::{Counter, UpstreamMetrics};

use crate::chronicle::Chronicle;
use crate::forward::Failure;
use crate::upstream::now;

/// When an upstream refuses requests as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CircuitSettings {
    /// By its failures; `None` never does.
    pub breaker: Option<BreakerSettings>,
    /// Beyond so many requests at a time, event streams and tunnels not counted; 0 is no cap.
    pub max_requests: u32,
}

#[derive(Debug)]
pub(crate) struct Circuit {
    settings: CircuitSettings,
    breaker: Option<Mutex<Breaker>>,
    under_way: AtomicU32,
    chronicle: Arc<Chronicle>,
    refused: Counter,
}

/// A request that may pass; says at its end how it went, or that nobody knows.
#[derive(Debug)]
pub(crate) struct Admission {
    circuit: Arc<Circuit>,
    permit: Option<Permit>,
}

/// Counts a request as under way.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<Circuit>);

impl Circuit {
    /// None if there is nothing to refuse for. One with the same settings goes on.
    pub(crate) fn new(
        settings: CircuitSettings,
        before: Option<&Arc<Self>>,
        chronicle: &Arc<Chronicle>,
        metrics: &UpstreamMetrics,
    ) -> Option<Arc<Self>> {
        if settings == CircuitSettings::default() {
            return None;
        }
        if let Some(same) = before.filter(|before| before.settings == settings) {
            return Some(same.clone());
        }
        Some(Arc::new(Self {
            settings,
            breaker: settings.breaker.map(|settings| Mutex::new(Breaker::new(settings))),
            under_way: AtomicU32::new(0),
            chronicle: chronicle.clone(),
            refused: metrics.refused.clone(),
        }))
    }

    pub(crate) fn state(&self) -> Option<BreakerState> {
        let breaker = self.breaker.as_ref()?;
        Some(breaker.lock().unwrap_or_else(PoisonError::into_inner).state())
    }

    /// Lets a request through, and counts it.
    pub(crate) fn admit(self: &Arc<Self>) -> Result<(Admission, Option<UnderWay>), Failure> {
        let under_way = self.count().inspect_err(|_| _ = self.refused.inc())?;
        let permit = self.permit().inspect_err(|_| _ = self.refused.inc())?;
        Ok((Admission { circuit: self.clone(), permit }, under_way))
    }

    fn count(self: &Arc<Self>) -> Result<Option<UnderWay>, Failure> {
        let most = self.settings.max_requests;
        if most == 0 {
            return Ok(None);
        }
        let more = |count: u32| (count < most).then_some(count + 1);
        match self.under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Some(UnderWay(self.clone()))),
            // Nobody knows when one of them ends.
            Err(_) => Err(Failure::Refused { retry_after_s: 1 }),
        }
    }

    fn permit(&self) -> Result<Option<Permit>, Failure> {
        let Some(breaker) = &self.breaker else { return Ok(None) };
        let (permit, turned) = breaker.lock().unwrap_or_else(PoisonError::into_inner).admit(now());
        self.turned(turned);
        match permit {
            Ok(permit) => Ok(Some(permit)),
            Err(refused) => {
                let seconds = refused.retry_after_ms.div_ceil(1000).max(1);
                Err(Failure::Refused { retry_after_s: u32::try_from(seconds).unwrap_or(u32::MAX) })
            }
        }
    }

    fn ended(&self, permit: Permit, verdict: Verdict) {
        let Some(breaker) = &self.breaker else { return };
        let turned = breaker.lock().unwrap_or_else(PoisonError::into_inner).ended(permit, verdict, now());
        self.turned(turned);
    }

    fn turned(&self, turned: Option<BreakerState>) {
        if let Some(state) = turned {
            self.chronicle.breaker(state);
        }
    }
}

impl Admission {
    /// Whether the breaker decides by this request.
    pub(crate) fn is_trial(&self) -> bool {
        self.permit.is_some_and(Permit::is_trial)
    }

    /// The upstream answered with that status.
    pub(crate) fn answered(mut self, status: u16) {
        let verdict = if status >= 500 { Verdict::Failed } else { Verdict::Good };
        self.end(verdict);
    }

    /// It did not answer.
    pub(crate) fn failed(mut self, failure: Failure) {
        let verdict = if failure.is_of_server() { Verdict::Failed } else { Verdict::Unknown };
        self.end(verdict);
    }

    fn end(&mut self, verdict: Verdict) {
        if let Some(permit) = self.permit.take() {
            self.circuit.ended(permit, verdict);
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.end(Verdict::Unknown);
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
