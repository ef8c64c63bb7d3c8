use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

const NOW: Millis = 86_400_000;

fn member(name: &str, settings: PeerSettings) -> Member {
    Member { server: name.into(), address: name.into(), settings }
}

fn weighted(weight: u32) -> PeerSettings {
    PeerSettings { weight, ..PeerSettings::default() }
}

fn group(algorithm: Algorithm, settings: &[PeerSettings]) -> Group {
    let members = settings.iter().enumerate().map(|(index, settings)| member(&format!("10.0.0.{index}:80"), *settings));
    Group::of(algorithm, members, 1)
}

fn asked(key: &str) -> Asked<'_> {
    Asked { client: IpAddr::from([192, 0, 2, 1]), key: key.as_bytes(), stick: b"" }
}

impl Group {
    /// A request that stays.
    fn hold(&mut self, now: Millis) -> Option<usize> {
        self.pick(&asked("key"), &mut Tried::default(), now)
    }

    /// A request that ends at once.
    fn ask(&mut self, key: &str, now: Millis) -> Option<usize> {
        let index = self.pick(&asked(key), &mut Tried::default(), now)?;
        self.end(index);
        Some(index)
    }

    fn end(&self, index: usize) {
        self.load(index).unwrap().release();
    }

    fn asks(&mut self, count: usize, now: Millis) -> Vec<usize> {
        (0..count).map(|_| self.ask("key", now).unwrap()).collect()
    }
}

#[test]
fn weights_five_one_one_interleave_as_in_nginx() {
    let mut group = group(Algorithm::RoundRobin, &[weighted(5), weighted(1), weighted(1)]);
    assert_eq!(group.asks(7, NOW), [0, 0, 1, 0, 2, 0, 0]);
    assert_eq!(group.asks(7, NOW), [0, 0, 1, 0, 2, 0, 0], "the cycle repeats");
}

#[test]
fn one_failure_takes_a_server_out_until_fail_timeout_and_then_gives_it_one_trial() {
    let mut group = group(Algorithm::RoundRobin, &[weighted(1); 2]);
    let first = group.id(0).unwrap();
    assert!(group.failed(first, 100_000));
    assert!(!group.failed(first, 100_000), "it was out already");
    assert_eq!(group.asks(3, 110_000), [1, 1, 1]);
    let trial = group.asks(4, 110_001);
    assert_eq!(trial.iter().filter(|pick| **pick == 0).count(), 1, "{trial:?}");
    assert!(group.succeeded(first, 110_002));
    assert!(!group.load(0).unwrap().is_failing());
    assert_eq!(group.asks(4, 110_002).iter().filter(|pick| **pick == 0).count(), 2);
}

#[test]
fn a_failed_trial_takes_the_server_out_again() {
    let mut group = group(Algorithm::RoundRobin, &[weighted(1); 2]);
    let first = group.id(0).unwrap();
    group.failed(first, 100_000);
    while group.ask("", 110_001) != Some(0) {}
    group.failed(first, 110_005);
    assert_eq!(group.asks(3, 120_005), [1, 1, 1]);
}

#[test]
fn a_late_success_of_an_older_request_does_not_clear_the_failure() {
    let mut group = group(Algorithm::RoundRobin, &[weighted(1); 2]);
    let first = group.id(0).unwrap();
    group.failed(first, 100_000);
    assert!(!group.succeeded(first, 100_001));
    assert_eq!(group.asks(3, 100_001), [1, 1, 1]);
}

#[test]
fn a_group_of_one_never_goes_down_by_failures_but_by_marks_and_orders() {
    let mut group = group(Algorithm::LeastConn, &[weighted(1)]);
    let only = group.id(0).unwrap();
    for now in 0..10 {
        assert!(!group.failed(only, now));
        assert_eq!(group.ask("", now), Some(0));
    }
    assert!(group.mark(only, Mark::Unhealthy, true, NOW));
    assert_eq!(group.ask("", NOW), None);
    assert!(!group.load(0).unwrap().take(0), "nor without the group's lock");
    assert!(group.mark(only, Mark::Unhealthy, false, NOW));
    assert!(group.order(only, Duty::Drain, NOW));
    assert!(!group.is_available(NOW));
    assert!(group.order(only, Duty::Serve, NOW));
    assert_eq!(group.ask("", NOW), Some(0));
}

#[test]
fn a_server_with_two_marks_comes_back_when_both_are_gone() {
    let mut group = group(Algorithm::RoundRobin, &[weighted(1); 2]);
    let first = group.id(0).unwrap();
    assert!(group.mark(first, Mark::Unhealthy, true, NOW));
    assert!(group.mark(first, Mark::Ejected, true, NOW));
    assert!(!group.mark(first, Mark::Ejected, true, NOW), "no change");
    group.mark(first, Mark::Unhealthy, false, NOW);
    assert_eq!(group.asks(2, NOW), [1, 1]);
    group.mark(first, Mark::Ejected, false, NOW);
    assert!(group.asks(2, NOW).contains(&0));
}

#[test]
fn when_all_are_down_there_is_no_server() {
    let mut group = group(Algorithm::RoundRobin, &[weighted(1); 2]);
    for index in 0..2 {
        group.failed(group.id(index).unwrap(), 50_000);
    }
    assert_eq!(group.ask("", 50_001), None);
}

#[test]
fn max_fails_zero_never_skips() {
    let mut group = group(Algorithm::RoundRobin, &[PeerSettings { max_fails: 0, ..PeerSettings::default() }; 2]);
    group.failed(group.id(0).unwrap(), 50_000);
    assert!(group.asks(2, 50_000).contains(&0));
}

#[test]
fn backups_are_asked_when_no_other_server_can_be_had() {
    let backup = PeerSettings { backup: true, ..PeerSettings::default() };
    for algorithm in [Algorithm::RoundRobin, Algorithm::LeastConn, Algorithm::LeastTime] {
        let mut group = group(algorithm, &[backup, weighted(1), weighted(1)]);
        assert!(!group.asks(10, NOW).contains(&0));
        group.failed(group.id(1).unwrap(), NOW);
        assert_eq!(group.asks(2, NOW), [2, 2]);
        group.failed(group.id(2).unwrap(), NOW);
        assert_eq!(group.asks(2, NOW), [0, 0]);
        assert!(group.asks(4, NOW + 10_001).contains(&1), "and no longer than needed");
    }
}

#[test]
fn a_request_that_has_tried_all_others_gets_the_backup() {
    let backup = PeerSettings { backup: true, ..PeerSettings::default() };
    let mut group = group(Algorithm::RoundRobin, &[weighted(1), weighted(1), backup]);
    let mut tried = Tried::default();
    let order: Vec<_> = std::iter::from_fn(|| group.pick(&asked(""), &mut tried, NOW)).collect();
    assert_eq!(order, [0, 1, 2]);
}

#[test]
fn a_full_server_gets_nothing_until_one_ends() {
    let two = PeerSettings { max_conns: 2, ..PeerSettings::default() };
    let mut group = group(Algorithm::RoundRobin, &[two; 2]);
    let held: Vec<_> = (0..4).map(|_| group.hold(NOW).unwrap()).collect();
    assert_eq!(held, [0, 1, 0, 1]);
    assert_eq!(group.hold(NOW), None);
    group.end(1);
    assert_eq!(group.hold(NOW), Some(1));
}

#[test]
fn the_limit_of_a_single_server_holds_without_the_lock() {
    let group = group(Algorithm::RoundRobin, &[weighted(1)]);
    let load = group.load(0).unwrap();
    assert!(load.take(2) && load.take(2) && !load.take(2));
    load.release();
    assert!(load.take(2));
}

#[test]
fn least_conn_prefers_fewer_connections_for_the_weight() {
    let mut group = group(Algorithm::LeastConn, &[weighted(3), weighted(1)]);
    let held: Vec<_> = (0..8).map(|_| group.hold(NOW).unwrap()).collect();
    assert_eq!(held.iter().filter(|pick| **pick == 0).count(), 6, "{held:?}");
    for _ in 0..6 {
        group.end(0);
    }
    assert_eq!((0..6).map(|_| group.hold(NOW).unwrap()).collect::<Vec<_>>(), [0; 6], "the empty one fills first");
}

#[test]
fn least_conn_takes_turns_among_equals() {
    let mut group = group(Algorithm::LeastConn, &[weighted(1); 3]);
    assert_eq!(group.asks(6, NOW), [0, 1, 2, 0, 1, 2]);
}

#[test]
fn ip_hash_is_that_of_nginx() {
    // h = 89; h = (h × 113 + byte) % 6271 over 192, 0, 2: computed by hand from the module's source.
    let hash = [192u32, 0, 2].iter().fold(89, |hash, byte| (hash * 113 + byte) % 6271);
    let mut group = group(Algorithm::IpHash, &[weighted(2), weighted(1), weighted(4)]);
    let expected = match hash % 7 {
        0..2 => 0,
        2 => 1,
        _ => 2,
    };
    assert_eq!(group.asks(3, NOW), [expected; 3]);
    for last in 0..=255u8 {
        let client = IpAddr::from([192, 0, 2, last]);
        let asked = Asked { client, key: b"", stick: b"" };
        assert_eq!(group.pick(&asked, &mut Tried::default(), NOW), Some(expected), "a /24 stays together");
    }
}

#[test]
fn a_hash_without_a_key_takes_turns() {
    for algorithm in [Algorithm::Hash, Algorithm::ConsistentHash { load_factor: 0 }] {
        let mut group = group(algorithm, &[weighted(1); 2]);
        assert_eq!((0..4).map(|_| group.ask("", NOW).unwrap()).collect::<Vec<_>>(), [0, 1, 0, 1]);
    }
}

#[test]
fn addresses_of_one_name_share_its_places_on_the_ring() {
    let names = [("app:80", "10.0.0.1:80"), ("app:80", "10.0.0.2:80"), ("other:80", "10.0.0.3:80")];
    let members = names.map(|(server, address)| Member {
        server: server.into(),
        address: address.into(),
        settings: PeerSettings::default(),
    });
    let mut group = Group::of(Algorithm::ConsistentHash { load_factor: 0 }, members, 1);
    let picks: Vec<Vec<_>> =
        (0..50).map(|key| (0..4).map(|_| group.ask(&format!("key {key}"), NOW).unwrap()).collect()).collect();
    assert!(picks.contains(&vec![2; 4]));
    assert!(picks.iter().any(|picks| picks.contains(&0) && picks.contains(&1) && !picks.contains(&2)), "{picks:?}");
}

#[test]
fn a_bounded_ring_lets_no_server_have_more_than_its_part() {
    let mut group = group(Algorithm::ConsistentHash { load_factor: 125 }, &[weighted(1); 4]);
    // One key for all: without a bound all would go to one server.
    for total in 1..=400u32 {
        group.hold(NOW).unwrap();
        let most = (0..4).map(|index| group.load(index).unwrap().live()).max().unwrap();
        assert!(most <= (125 * total).div_ceil(400), "{most} of {total}");
    }
}

#[test]
fn a_bounded_ring_is_the_ring_while_there_is_room() {
    let mut bounded = group(Algorithm::ConsistentHash { load_factor: 125 }, &[weighted(1); 4]);
    let mut plain = group(Algorithm::ConsistentHash { load_factor: 0 }, &[weighted(1); 4]);
    for key in 0..200 {
        let key = format!("key {key}");
        assert_eq!(bounded.ask(&key, NOW), plain.ask(&key, NOW));
    }
}

#[test]
fn two_random_choices_keep_servers_even() {
    let mut group = group(Algorithm::RandomTwo, &[weighted(1); 10]);
    for _ in 0..10_000 {
        group.hold(NOW).unwrap();
    }
    let live: Vec<_> = (0..10).map(|index| group.load(index).unwrap().live()).collect();
    assert!(live.iter().all(|live| (990..=1010).contains(live)), "{live:?}");
}

#[test]
fn least_time_leaves_a_slow_server_and_comes_back_to_it() {
    let mut group = group(Algorithm::LeastTime, &[weighted(1); 2]);
    for index in [0, 1] {
        group.observed(group.id(index).unwrap(), if index == 0 { 100_000 } else { 1_000 }, NOW);
    }
    assert_eq!(group.asks(20, NOW), [1; 20]);
    // The fast one goes on being measured, the slow one is forgiven with time.
    let mut now = NOW;
    while now < NOW + 120_000 {
        now += 100;
        let index = group.ask("", now).unwrap();
        if index == 0 {
            return;
        }
        group.observed(group.id(1).unwrap(), 1_000, now);
    }
    panic!("never asked again");
}

#[test]
fn least_time_tries_an_unknown_server_with_one_request_at_a_time() {
    let mut group = group(Algorithm::LeastTime, &[weighted(1); 2]);
    group.observed(group.id(1).unwrap(), 1_000, NOW);
    assert_eq!(group.hold(NOW), Some(0));
    assert_eq!((0..5).map(|_| group.hold(NOW).unwrap()).collect::<Vec<_>>(), [1; 5]);
}

#[test]
fn a_server_that_comes_back_starts_with_a_tenth_and_grows() {
    let slow = PeerSettings { slow_start_ms: 10_000, ..PeerSettings::default() };
    let mut group = group(Algorithm::RoundRobin, &[slow; 2]);
    let share = |group: &mut Group, now| group.asks(1100, now).iter().filter(|pick| **pick == 0).count();
    assert_eq!(share(&mut group, NOW), 550, "at the start all are warm");
    let first = group.id(0).unwrap();
    group.mark(first, Mark::Unhealthy, true, NOW);
    group.mark(first, Mark::Unhealthy, false, NOW);
    assert_eq!(share(&mut group, NOW), 100);
    assert_eq!(share(&mut group, NOW + 5_000), 390, "0.55 of 1.55");
    assert_eq!(share(&mut group, NOW + 10_000), 550);
}

#[test]
fn a_server_that_recovers_from_failures_and_one_that_is_added_start_slowly() {
    let slow = PeerSettings { slow_start_ms: 10_000, ..PeerSettings::default() };
    let mut group = group(Algorithm::RoundRobin, &[slow; 2]);
    let first = group.id(0).unwrap();
    group.failed(first, NOW - 20_000);
    while group.ask("", NOW) != Some(0) {}
    assert!(group.succeeded(first, NOW));
    let picks = group.asks(110, NOW);
    // The cycle does not begin anew: one more or less.
    assert!((9..=11).contains(&picks.iter().filter(|pick| **pick == 0).count()), "{picks:?}");

    let members = (0..3).map(|index| member(&format!("10.0.0.{index}:80"), slow));
    group.update(members, NOW + 60_000);
    let picks = group.asks(210, NOW + 60_000);
    assert!((9..=11).contains(&picks.iter().filter(|pick| **pick == 2).count()), "{picks:?}");
}

#[test]
fn a_client_that_sticks_reaches_a_draining_server_but_not_one_that_is_down_failing_or_full() {
    let drains = PeerSettings { duty: Duty::Drain, max_conns: 1, ..PeerSettings::default() };
    let mut group = group(Algorithm::RoundRobin, &[drains, weighted(1)]);
    let first = group.id(0).unwrap();
    assert_eq!(group.asks(3, NOW), [1; 3]);
    assert_eq!(group.pick_this(first, &mut Tried::default(), NOW), Some(0));
    assert_eq!(group.pick_this(first, &mut Tried::default(), NOW), None, "full");
    group.end(0);
    let mut tried = Tried::default();
    tried.insert(first);
    assert_eq!(group.pick_this(first, &mut tried, NOW), None, "tried");
    group.failed(first, NOW);
    assert_eq!(group.pick_this(first, &mut Tried::default(), NOW), None, "failing");
    group.order(first, Duty::Down, NOW);
    assert_eq!(group.pick_this(first, &mut Tried::default(), NOW + 60_000), None, "down");
}

#[test]
fn an_update_keeps_what_is_known_about_those_that_stay() {
    let mut group = group(Algorithm::LeastConn, &[weighted(1); 3]);
    while group.hold(NOW) != Some(2) {}
    let last = group.id(2).unwrap();
    group.failed(last, NOW);
    group.mark(last, Mark::Ejected, true, NOW);
    group.observed(last, 5_000, NOW);
    group.update([member("10.0.0.2:80", weighted(7)), member("10.0.0.9:80", weighted(1))], NOW);
    assert_eq!((group.index(last), group.len()), (Some(0), 2));
    let peer = group.peers(NOW).next().unwrap();
    assert_eq!((peer.live, peer.fails, peer.weight, peer.ejected, peer.failing), (1, 1, 7, true, true));
    assert_eq!(peer.latency_micros, Some(5_000));
    assert_ne!(group.id(1), Some(PeerId(0)), "ids are never used twice");
}

#[test]
fn a_successor_counts_in_the_same_loads() {
    let mut old = group(Algorithm::RoundRobin, &[weighted(1); 2]);
    let held = old.hold(NOW).unwrap();
    let mut new = old.succeeded_by(Algorithm::LeastConn, false);
    new.update([member("10.0.0.0:80", weighted(1)), member("10.0.0.1:80", weighted(1))], NOW);
    assert_eq!(new.load(held).unwrap().live(), 1);
    assert_eq!(new.hold(NOW), Some(1));
    old.end(held);
    assert_eq!(new.load(held).unwrap().live(), 0);
}

#[test]
fn orders_of_an_operator_hold_until_the_servers_configuration_changes() {
    let mut group = group(Algorithm::RoundRobin, &[weighted(1); 2]);
    let first = group.id(0).unwrap();
    assert!(group.weigh(first, 3) && group.order(first, Duty::Down, NOW));
    let members = |weight| [member("10.0.0.0:80", weighted(weight)), member("10.0.0.1:80", weighted(1))];
    group.update(members(1), NOW);
    let peer = group.peers(NOW).next().unwrap();
    assert_eq!((peer.weight, peer.duty, peer.serves), (3, Duty::Down, false));
    group.update(members(2), NOW);
    let peer = group.peers(NOW).next().unwrap();
    assert_eq!((peer.weight, peer.duty, peer.serves), (2, Duty::Serve, true));
}

#[test]
fn those_above_their_fair_part_are_named_when_a_server_comes_back() {
    let backup = PeerSettings { backup: true, ..PeerSettings::default() };
    let mut group = group(Algorithm::LeastConn, &[weighted(1), weighted(2), weighted(1), backup]);
    let last = group.id(2).unwrap();
    group.mark(last, Mark::Unhealthy, true, NOW);
    for _ in 0..12 {
        group.hold(NOW).unwrap();
    }
    assert_eq!(group.excess(NOW), [], "4 and 8 are fair while there are two");
    group.mark(last, Mark::Unhealthy, false, NOW);
    assert_eq!(group.excess(NOW), [(0, 1), (1, 2)], "of 12, 3 and 6 stay");
    group.hold(NOW).unwrap();
    assert_eq!(group.excess(NOW), [(1, 1)], "of 13, 4 and 7: nobody is asked for a part of a stream");
}

#[test]
fn a_sticky_value_goes_to_one_server_whatever_the_algorithm_is() {
    let mut group = Group::new(Algorithm::RoundRobin, true, 1);
    group.update((0..4).map(|index| member(&format!("10.0.0.{index}:80"), weighted(1))), NOW);
    let mut seen = HashMap::new();
    for round in 0..3 {
        for value in 0..40 {
            let value = format!("session {value}");
            let asked = Asked { stick: value.as_bytes(), ..asked("") };
            let index = group.pick(&asked, &mut Tried::default(), NOW).unwrap();
            assert_eq!(*seen.entry(value).or_insert(index), index, "round {round}");
        }
    }
    assert_eq!(seen.values().collect::<std::collections::HashSet<_>>().len(), 4);
}

const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RoundRobin,
    Algorithm::LeastConn,
    Algorithm::IpHash,
    Algorithm::Hash,
    Algorithm::ConsistentHash { load_factor: 0 },
    Algorithm::ConsistentHash { load_factor: 125 },
    Algorithm::RandomTwo,
    Algorithm::LeastTime,
];

fn settings() -> impl Strategy<Value = PeerSettings> {
    let duty = prop_oneof![4 => Just(Duty::Serve), 1 => Just(Duty::Drain), 1 => Just(Duty::Down)];
    (0..6u32, 0..3u32, 0..3u32, prop::bool::weighted(0.2), duty, 0..2u64).prop_map(
        |(weight, max_fails, max_conns, backup, duty, slow)| PeerSettings {
            weight,
            max_fails,
            fail_timeout_ms: 10_000,
            max_conns,
            backup,
            duty,
            slow_start_ms: slow * 5_000,
        },
    )
}

proptest! {
    #[test]
    fn nobody_gets_a_server_that_is_down_draining_marked_full_skipped_or_tried(
        algorithm in prop::sample::select(&ALGORITHMS[..]),
        settings in prop::collection::vec(settings(), 1..7),
        steps in prop::collection::vec((0..8u8, 0..7usize, 0..4_000u64, "[a-z]{0,6}"), 1..60),
    ) {
        let mut group = group(algorithm, &settings);
        let mut now = NOW;
        let mut held: Vec<usize> = Vec::new();
        for (step, place, later, key) in steps {
            now += later;
            let place = place % settings.len();
            let id = group.id(place).unwrap();
            match step {
                0 => _ = group.failed(id, now),
                1 => _ = group.succeeded(id, now),
                2 => _ = group.mark(id, Mark::Ejected, later % 2 == 0, now),
                3 => group.observed(id, later, now),
                4 => if let Some(index) = held.pop() { group.end(index); },
                _ => {
                    let mut tried = Tried::default();
                    loop {
                        let before: Vec<(bool, bool)> =
                            group.peers(now).map(|peer| (peer.serves && !tried.contains(peer.id), peer.settings.backup)).collect();
                        let primary = before.iter().any(|(may, backup)| *may && !*backup);
                        let picked = group.pick(&asked(&key), &mut tried, now);
                        let Some(index) = picked else {
                            prop_assert!(before.iter().all(|(may, _)| !may), "there was a server");
                            break;
                        };
                        held.push(index);
                        prop_assert!(before[index].0, "{index} of {before:?}");
                        prop_assert_eq!(before[index].1, !primary, "a backup, or not");
                    }
                }
            }
            for index in 0..settings.len() {
                let count = held.iter().filter(|held| **held == index).count();
                prop_assert_eq!(group.load(index).unwrap().live() as usize, count);
            }
        }
    }

    #[test]
    fn shares_of_round_robin_are_exact(weights in prop::collection::vec(1..50u32, 2..8)) {
        let settings: Vec<_> = weights.iter().map(|weight| weighted(*weight)).collect();
        let mut group = group(Algorithm::RoundRobin, &settings);
        let total: u32 = weights.iter().sum();
        let picks = group.asks(2 * total as usize, NOW);
        for (index, weight) in weights.iter().enumerate() {
            prop_assert_eq!(picks.iter().filter(|pick| **pick == index).count(), 2 * *weight as usize);
        }
    }

    #[test]
    fn a_server_that_is_added_takes_its_part_of_the_keys_and_moves_no_others(count in 2..12usize, seed in 0..1000u32) {
        let ring = Algorithm::ConsistentHash { load_factor: 0 };
        let mut before = group(ring, &vec![weighted(1); count]);
        let mut after = group(ring, &vec![weighted(1); count + 1]);
        let mut moved = 0;
        for key in 0..2000 {
            let key = format!("{seed} {key}");
            let (old, new) = (before.ask(&key, NOW), after.ask(&key, NOW));
            if old != new {
                prop_assert_eq!(new, Some(count));
                moved += 1;
            }
        }
        let part = 2000 / (count + 1);
        prop_assert!(moved > part / 2 && moved < part * 2, "{} of 2000, not about {}", moved, part);
    }

    #[test]
    fn updates_in_any_order_never_lose_a_count(orders in prop::collection::vec(prop::collection::vec(0..6usize, 1..6), 1..12)) {
        let mut group = Group::new(Algorithm::LeastConn, false, 3);
        let mut loads: Vec<Arc<Load>> = Vec::new();
        for mut order in orders {
            order.dedup();
            group.update(order.iter().map(|number| member(&format!("10.0.0.{number}:80"), weighted(1))), NOW);
            prop_assert_eq!(group.len(), order.len());
            let index = group.hold(NOW).unwrap();
            loads.push(group.load(index).unwrap().clone());
        }
        for load in &loads {
            load.release();
        }
        prop_assert!(loads.iter().all(|load| load.live() == 0));
    }
}
