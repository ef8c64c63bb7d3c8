//! What is counted of the connections to Redis.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tidegate_metrics::{Histogram, Metrics, MillisBuckets, RedisTrouble};

use super::error::LinkError;

type Latency = (&'static str, Histogram<MillisBuckets>);

/// The handles of one thread. A series is looked up once per kind of call.
#[derive(Clone)]
pub(super) struct LinkMetrics {
    metrics: Arc<Metrics>,
    latencies: Rc<RefCell<Vec<Latency>>>,
}

impl LinkMetrics {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics, latencies: Rc::default() }
    }

    pub(super) fn took(&self, operation: &'static str, time: Duration) {
        let mut latencies = self.latencies.borrow_mut();
        let millis = time.as_secs_f64() * 1e3;
        match latencies.iter().find(|(name, _)| *name == operation) {
            Some((_, histogram)) => histogram.observe(millis),
            None => {
                let histogram = self.metrics.redis_latency(operation);
                histogram.observe(millis);
                latencies.push((operation, histogram));
            }
        }
    }

    pub(super) fn failed(&self, error: &LinkError) {
        self.metrics.redis_error(match error {
            LinkError::Behind => RedisTrouble::Behind,
            LinkError::Unsent => RedisTrouble::Unreachable,
            LinkError::Unanswered => RedisTrouble::Unanswered,
            LinkError::Answered(_) => RedisTrouble::Refused,
        });
    }

    /// A link is up until what this returns is dropped.
    pub(super) fn up(&self) -> Up {
        self.metrics.redis_connected.inc();
        Up(Arc::clone(&self.metrics))
    }
}

/// A link that is up.
pub(super) struct Up(Arc<Metrics>);

impl Drop for Up {
    fn drop(&mut self) {
        self.0.redis_connected.dec();
        self.0.redis_disconnects.inc();
    }
}
