//! The counters of what limits hold back. All names come from the config.

use crate::labels::*;
use crate::{Counter, Gauge, Metrics};

/// What a zone did to the requests of one route.
#[derive(Clone, Debug)]
pub struct LimitMetrics {
    /// Refused.
    pub rejected: Counter,
    /// Served later.
    pub delayed: Counter,
    /// Would have been refused or delayed, were it not a dry run.
    pub dry_run: Counter,
}

impl Metrics {
    /// Where is counted what a zone does to the requests of a route.
    pub fn limit(&self, route: &str, zone: &str) -> LimitMetrics {
        let counter = |outcome| {
            let labels = LimitedLabels { route: Name::new(route), zone: Name::new(zone), outcome };
            self.limited.get_or_create_owned(&labels)
        };
        LimitMetrics {
            rejected: counter(LimitOutcome::Rejected),
            delayed: counter(LimitOutcome::Delayed),
            dry_run: counter(LimitOutcome::DryRun),
        }
    }

    /// How many keys a zone remembers.
    pub fn zone_keys(&self, zone: &str) -> Gauge {
        self.limit_keys.get_or_create_owned(&ZoneLabels { zone: Name::new(zone) })
    }

    /// Connections of a listener that were closed at once, for that reason.
    pub fn connections_refused(&self, listener: &str, reason: RefusedConnection) -> Counter {
        let labels = RefusedConnectionLabels { listener: Name::new(listener), reason };
        self.connections_refused.get_or_create_owned(&labels)
    }
}
