//! The promises of delivery under 256 seeds, and proof that the checker would notice if they were broken.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use tidegate_sim::{Report, Sabotage, Violation, run};

const STEPS: u64 = 1_500;

fn all(seeds: std::ops::Range<u64>) -> Report {
    let mut total = Report::default();
    for seed in seeds {
        match run(seed, STEPS, Sabotage::Nothing) {
            Ok(report) => total.add(&report),
            Err(Violation { seed, at_ms, what }) => panic!("seed {seed}, {at_ms} ms: {what}"),
        }
    }
    total
}

fn worth_something(report: &Report) {
    println!("{report:?}");
    assert!(report.delivered > 10_000 && report.acks > 1_000, "{report:?}");
    assert!(report.recovered > 100 && report.afresh > 100 && report.recovered_after_kill > 5, "{report:?}");
    assert!(report.kills > 50 && report.restarts > 20 && report.upgrades > 100, "{report:?}");
    assert!(report.repeats > 20 && report.jumps > 100, "{report:?}");
    assert!(report.store_reads > 5 && report.refused > 20, "{report:?}");
}

#[test]
fn no_gap_no_duplicate_no_reorder_under_seeds_0_to_127() {
    worth_something(&all(0..128));
}

#[test]
fn no_gap_no_duplicate_no_reorder_under_seeds_128_to_255() {
    worth_something(&all(128..256));
}

/// One more seed, named on the command line: `SEED=7 cargo nextest run -p tidegate-sim a_named_seed`.
#[test]
fn a_named_seed_holds() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0);
    all(seed..seed + 1);
}

#[test]
fn a_seed_replays_its_run_exactly() {
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
    the_checker_notices_a_forgotten_reservation: ReservationForgotten,
    the_checker_notices_an_ack_before_the_append: AckBeforeAppend,
    the_checker_notices_a_join_acknowledged_before_its_record_is_stored: JoinAckBeforeSave,
    the_checker_notices_a_seam_that_repeats: SeamIgnored,
    the_checker_notices_a_replay_that_skips_one: ReplaySkipsOne,
    the_checker_notices_a_replay_before_connect: ReplayBeforeConnect,
    the_checker_notices_mixed_tenants: TenantsMixed,
    the_checker_notices_a_reordered_mailbox: MailboxReordered,
    the_checker_notices_a_presence_that_is_out_of_date: PresenceNotShown,
    the_checker_notices_a_message_published_twice: RepeatsForgotten,
}
