//! Opens many connections at a steady rate.

use std::future::Future;
use std::io::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinSet;

use super::args::Ramp;
use super::report::{Failures, grouped};

/// Runs `open(index)` for each of `count` connections; what fails is noted. The first is opened alone, and when it
/// fails nothing else is tried: its error says why. How many were opened.
pub async fn open_all<F, Opening>(
    count: usize,
    ramp: &Ramp,
    quiet: bool,
    failures: &Rc<Failures>,
    open: F,
) -> anyhow::Result<usize>
where
    F: Fn(usize) -> Opening,
    Opening: Future<Output = anyhow::Result<()>> + 'static,
{
    if count == 0 {
        return Ok(0);
    }
    open(0).await.context("the first connection failed")?;
    let mut opened = 1;
    let mut settle = |result: Result<anyhow::Result<()>, tokio::task::JoinError>| match result {
        Ok(Ok(())) => opened += 1,
        Ok(Err(error)) => failures.note(&error),
        Err(error) => failures.note(&anyhow::Error::new(error)),
    };
    let started = Instant::now();
    let mut said = started;
    let mut opening = JoinSet::new();
    for index in 1..count {
        // Due times, not pauses: what one wait oversleeps, the next makes up.
        let due = started + Duration::from_secs_f64(index as f64 / f64::from(ramp.ramp.max(1)));
        if due > Instant::now() {
            tokio::time::sleep_until(due.into()).await;
        }
        while opening.len() >= ramp.opening.max(1) {
            if let Some(result) = opening.join_next().await {
                settle(result);
            }
        }
        while let Some(result) = opening.try_join_next() {
            settle(result);
        }
        opening.spawn_local(open(index));
        if !quiet && said.elapsed() >= Duration::from_secs(1) {
            said = Instant::now();
            let _ = writeln!(
                std::io::stderr(),
                "{:>6.1} s  opening: {} of {}",
                started.elapsed().as_secs_f64(),
                grouped(index as u64),
                grouped(count as u64)
            );
        }
    }
    while let Some(result) = opening.join_next().await {
        settle(result);
    }
    Ok(opened)
}
