//! The promises of a cluster under many seeds, and proof that the checker would notice if they were broken.
//!
//! One seed again: `SEED=7 cargo nextest run -p tidegate-sim a_named_seed_of_the_cluster --no-capture`.
//! More of them: `cargo run -p tidegate-sim --example cluster -- --from 1000 --seeds 5000`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use tidegate_sim::Violation;
use tidegate_sim::cluster::{Report, Sabotage, run};

const STEPS: u64 = 2_000;

fn all(seeds: std::ops::Range<u64>) -> Report {
    let mut total = Report::default();
    for seed in seeds {
        match run(seed, STEPS, Sabotage::Nothing) {
            Ok(report) => total.add(&report),
            Err(Violation { seed, at_ms, what }) => panic!(
                "{at_ms} ms: {what}\nSEED={seed} cargo nextest run -p tidegate-sim a_named_seed_of_the_cluster --no-capture"
            ),
        }
    }
    total
}

/// Of every kind of trouble there was some.
fn worth_something(report: &Report) {
    println!("{report:?}");
    assert!(report.published > 20_000 && report.delivered > 50_000 && report.acked > 20_000, "{report:?}");
    assert!(report.recovered_here > 200 && report.recovered_elsewhere > 500 && report.afresh > 100, "{report:?}");
    assert!(report.cuts > 500 && report.kills > 100 && report.freezes > 300 && report.mistaken > 50, "{report:?}");
    assert!(report.buried > 100 && report.gaps > 100 && report.repeats > 300 && report.jumps > 100, "{report:?}");
    assert!(report.restarts > 50 && report.losses > 50 && report.lost > 500 && report.renewals > 50, "{report:?}");
}

#[test]
fn no_gap_no_duplicate_no_reorder_over_nodes_under_seeds_0_to_127() {
    worth_something(&all(0..128));
}

#[test]
fn no_gap_no_duplicate_no_reorder_over_nodes_under_seeds_128_to_255() {
    worth_something(&all(128..256));
}

#[test]
fn a_named_seed_of_the_cluster_holds() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    println!("{:?}", all(seed..seed + 1));
}

#[test]
fn a_seed_of_the_cluster_replays_its_run_exactly() {
    let outcome = |_| format!("{:?}", run(11, STEPS, Sabotage::Nothing).unwrap());
    assert_eq!(outcome(()), outcome(()));
}

fn caught(sabotage: Sabotage) {
    let violation = (0..64).find_map(|seed| run(seed, STEPS, sabotage).err());
    println!("{sabotage:?}: {violation:?}");
    assert!(violation.is_some(), "{sabotage:?} went unnoticed under 64 seeds");
}

macro_rules! catches {
    ($($name:ident: $sabotage:ident,)*) => {
        $(#[test]
        fn $name() {
            caught(Sabotage::$sabotage);
        })*
    };
}

catches! {
    the_checker_notices_an_epoch_that_is_not_renewed: RenewSkipped,
    the_checker_notices_a_cut_that_is_ignored: CutsIgnored,
    the_checker_notices_an_answer_before_the_record_is_stored: AckBeforeSave,
    the_checker_notices_the_dead_among_the_present: LeasesOfTheDeadKept,
    the_checker_notices_leases_that_the_broker_has_lost: LeasesNotRepeated,
    the_checker_notices_a_message_published_twice_over_nodes: RepeatsUnnamed,
    the_checker_notices_a_comeback_without_what_was_missed: MissedSkipped,
    the_checker_notices_mixed_tenants_over_nodes: TenantsMixed,
    the_checker_notices_a_gap_that_nobody_is_told: GapsUntold,
}
