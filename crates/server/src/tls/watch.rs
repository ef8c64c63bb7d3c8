use std::sync::Arc;
use std::time::Duration;

use tidegate_metrics::Metrics;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Termination;
use crate::plan::Plan;

/// While no listener has TLS.
const NOTHING_TO_DO: Duration = Duration::from_secs(3600);

/// Looks at the files of every listener, each at its interval, for as long as there are plans. Looking reads files, which
/// blocks: this belongs on a thread that serves no clients.
pub(crate) async fn watch(mut plans: watch::Receiver<Arc<Plan>>, metrics: Arc<Metrics>) {
    loop {
        let plan = plans.borrow_and_update().clone();
        let now = Instant::now();
        let terminations = plan.sites.iter().filter_map(|site| site.tls.clone());
        let mut due: Vec<(Instant, Arc<Termination>)> =
            terminations.map(|tls| (now + tls.settings.reload_interval, tls)).collect();
        drop(plan);
        loop {
            let next = due.iter().map(|(at, _)| *at).min().unwrap_or(now + NOTHING_TO_DO);
            tokio::select! {
                changed = plans.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(next) => {}
            }
            let now = Instant::now();
            for (at, tls) in due.iter_mut().filter(|(at, _)| *at <= now) {
                tls.look(&metrics);
                *at = now + tls.settings.reload_interval;
            }
        }
    }
}
