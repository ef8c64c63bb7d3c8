//! The health of upstreams: what the config says about it, and the tasks that watch servers by it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tidegate_balance::{ActiveSettings, BreakerSettings, OutlierSettings};
use tidegate_config::{Breaker, Health, Initially, Outlier, Probe, Retry, RetryOn};
use tidegate_proxy::{
    CircuitSettings, LiveStreams, ProbeKind, ProbeSettings, RetryReasons, RetrySettings, Upstream, UpstreamSettings,
};
use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};

use crate::plan::Plan;

/// Settings with everything that the config says about the health of the upstream, and nothing else.
pub(crate) fn settings(upstream: &tidegate_config::Upstream) -> UpstreamSettings {
    UpstreamSettings {
        probe: upstream.health.as_ref().map(probe),
        outlier: upstream.outlier.as_ref().map(outlier),
        circuit: upstream.breaker.as_ref().map(circuit).unwrap_or_default(),
        retry: retry(&upstream.retry),
        close_rate: upstream.close_rate,
        ..UpstreamSettings::default()
    }
}

fn probe(health: &Health) -> ProbeSettings {
    let owned = |host: &Option<Arc<str>>| host.as_deref().map(str::to_owned);
    let kind = match &health.probe {
        Probe::Http { path, host, status } => {
            ProbeKind::Http { path: path.to_string(), host: owned(host), status: status.ranges().to_vec() }
        }
        Probe::Tcp => ProbeKind::Tcp,
        Probe::WebSocket { path, host } => ProbeKind::WebSocket { path: path.to_string(), host: owned(host) },
    };
    let schedule = ActiveSettings {
        interval_ms: millis(health.interval),
        jitter_percent: health.jitter,
        rise: health.rise,
        fall: health.fall,
        initially_up: health.initially == Initially::Up,
    };
    ProbeSettings { kind, port: health.port, timeout: health.timeout, schedule }
}

fn outlier(outlier: &Outlier) -> OutlierSettings {
    OutlierSettings {
        interval_ms: millis(outlier.interval),
        min_requests: outlier.min_requests,
        error_rate: outlier.error_rate,
        latency_factor: outlier.latency_factor,
        ejection_ms: millis(outlier.ejection_time),
        max_ejected: outlier.max_ejected,
    }
}

fn circuit(breaker: &Breaker) -> CircuitSettings {
    let settings = BreakerSettings {
        error_rate: breaker.error_rate,
        min_requests: breaker.min_requests,
        interval_ms: millis(breaker.interval),
        open_for_ms: millis(breaker.open_for),
        half_open_requests: breaker.half_open_requests,
    };
    CircuitSettings { breaker: Some(settings), max_requests: breaker.max_requests }
}

fn retry(retry: &Retry) -> RetrySettings {
    let reason = |on: &RetryOn| match on {
        RetryOn::Connect => RetryReasons::CONNECT,
        RetryOn::Reset => RetryReasons::RESET,
        RetryOn::Timeout => RetryReasons::TIMEOUT,
        RetryOn::Status500 => RetryReasons::STATUS_500,
        RetryOn::Status502 => RetryReasons::STATUS_502,
        RetryOn::Status503 => RetryReasons::STATUS_503,
        RetryOn::Status504 => RetryReasons::STATUS_504,
        RetryOn::Status429 => RetryReasons::STATUS_429,
    };
    RetrySettings {
        on: retry.on.iter().map(reason).fold(RetryReasons::default(), RetryReasons::and),
        tries: u8::try_from(retry.tries).unwrap_or(u8::MAX),
        timeout: retry.timeout,
        budget: u32::from(retry.budget),
        non_idempotent: retry.non_idempotent,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Watches the servers of each plan's upstreams, one task for each upstream of the process. It ends with the plan that the
/// upstream was part of: streams keep an upstream alive for longer.
pub(crate) async fn follow(mut plans: watch::Receiver<Arc<Plan>>, live: LiveStreams) {
    let mut watched: Vec<(Weak<Upstream>, AbortHandle)> = Vec::new();
    loop {
        let plan = plans.borrow_and_update().clone();
        watched.retain(|(known, task)| {
            let stays = plan.upstreams.iter().any(|(_, upstream)| std::ptr::eq(known.as_ptr(), Arc::as_ptr(upstream)));
            if !stays {
                task.abort();
            }
            stays
        });
        for (_, upstream) in plan.upstreams.iter().filter(|(_, upstream)| upstream.wants_watching()) {
            let upstream = Arc::downgrade(upstream);
            if !watched.iter().any(|(known, _)| known.ptr_eq(&upstream)) {
                let task = spawn_local(Upstream::watch(upstream.clone(), live.clone()));
                watched.push((upstream, task.abort_handle()));
            }
        }
        drop(plan);
        if plans.changed().await.is_err() {
            return;
        }
    }
}
