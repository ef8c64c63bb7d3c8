use super::super::Registry;
use super::super::member::{Protocol, someone};
use super::*;
use proptest::prelude::*;

const SETTINGS: MembershipSettings = MembershipSettings { heartbeat_ms: 2_000, node_timeout_ms: 5_000 };

/// A node and what came of it.
struct Node {
    state: Membership,
    asleep_until: Millis,
    /// Its own clock is off by so much.
    skew: Millis,
    claims: Vec<(Millis, NodeId)>,
    joins: Vec<NodeNumber>,
    misfits: usize,
    lost: usize,
}

impl Node {
    fn new(id: u64) -> Self {
        let state = Membership::new(someone(id, 0), SETTINGS);
        Self { state, asleep_until: 0, skew: 0, claims: Vec::new(), joins: Vec::new(), misfits: 0, lost: 0 }
    }

    /// Does what is advised at that moment of the registry's clock.
    fn step(&mut self, registry: &mut Registry, now: Millis) {
        let mine = now + self.skew;
        let id = self.state.me().id;
        let noted = match self.state.advice(mine) {
            Advice::Sleep(_) => return,
            Advice::Register(wish) => {
                let answer = registry.register(id, &self.state.me().record(), &[wish, 100 + id.0 as u16], now);
                self.state.registered(answer, mine)
            }
            Advice::Beat { version, record } => {
                let text = self.state.me().record();
                let answer = registry.beat(id, version, record.then_some(&*text), true, now);
                self.state.beaten(answer, record, mine)
            }
            Advice::Withdraw => {
                registry.leave(id, now);
                self.state.withdrawn(mine);
                return;
            }
        };
        self.joins.extend(noted.joined);
        self.misfits += noted.misfits.len();
        self.lost += usize::from(noted.lost);
        self.claims.extend(noted.claimed.iter().map(|(dead, _)| (now, *dead)));
    }

    fn sees(&self) -> Vec<u64> {
        self.state.others().map(|member| member.id.0).collect()
    }
}

/// Runs them all until then, in steps of 10 ms. Who has claimed a dead node buries it at once.
fn run(nodes: &mut [Node], registry: &mut Registry, from: Millis, to: Millis) {
    for now in (from..to).step_by(10) {
        for node in nodes.iter_mut().filter(|node| node.asleep_until <= now) {
            let before = node.claims.len();
            node.step(registry, now);
            node.claims[before..].iter().for_each(|(_, dead)| registry.buried(*dead));
        }
    }
}

fn three() -> (Vec<Node>, Registry) {
    let mut nodes: Vec<Node> = (1..=3).map(Node::new).collect();
    let mut registry = Registry::new(SETTINGS.into());
    run(&mut nodes, &mut registry, 0, 10_000);
    (nodes, registry)
}

#[test]
fn nodes_find_each_other_under_numbers_of_their_own() {
    let (nodes, _) = three();
    assert_eq!(nodes.iter().map(Node::sees).collect::<Vec<_>>(), [[2, 3], [1, 3], [1, 2]]);
    assert_eq!(nodes.iter().map(|node| node.state.me().number.0).collect::<Vec<_>>(), [101, 102, 103]);
    assert!(nodes.iter().all(|node| node.joins.len() == 1 && node.lost == 0 && node.claims.is_empty()));
}

#[test]
fn a_dead_node_is_claimed_by_one_and_gone_for_all_within_the_timeout() {
    let (mut nodes, mut registry) = three();
    nodes[0].asleep_until = u64::MAX;
    run(&mut nodes, &mut registry, 10_000, 17_100);
    let claims: Vec<_> = nodes.iter().flat_map(|node| &node.claims).collect();
    assert_eq!(claims.len(), 1, "{claims:?}");
    // Its last heartbeat was at most 2 s before, and the others look when it becomes dead.
    assert!(claims[0].0 <= 15_020 && claims[0].1 == NodeId(1), "{claims:?}");
    assert_eq!((nodes[1].sees(), nodes[2].sees()), (vec![3], vec![2]));
}

#[test]
fn a_node_that_was_paused_finds_itself_dead_and_comes_back_under_its_number() {
    let (mut nodes, mut registry) = three();
    nodes[0].asleep_until = 18_000;
    run(&mut nodes, &mut registry, 10_000, 25_000);
    assert_eq!((nodes[0].lost, &*nodes[0].joins), (1, &[NodeNumber(101), NodeNumber(101)][..]));
    assert_eq!(nodes[1].sees(), [1, 3]);
}

#[test]
fn after_an_hour_its_number_may_be_another_nodes() {
    let (mut nodes, mut registry) = three();
    nodes[0].asleep_until = 10_000 + 3_700_000;
    run(&mut nodes[1..], &mut registry, 10_000, 20_000);
    let mut newcomer = Node::new(9);
    newcomer.state.me.number = NodeNumber(101);
    nodes.push(newcomer);
    run(&mut nodes, &mut registry, 20_000, 25_000);
    assert_ne!(nodes[3].state.me().number, NodeNumber(101), "it is not cold yet");
    let mut late = Node::new(10);
    late.state.me.number = NodeNumber(101);
    nodes.push(late);
    let hour_later = 10_000 + 3_700_000 - 1_000;
    run(&mut nodes, &mut registry, hour_later, hour_later + 12_000);
    assert_eq!(nodes[4].state.me().number, NodeNumber(101));
    assert_eq!(nodes[0].joins.len(), 2);
    assert_ne!(nodes[0].joins[1], NodeNumber(101));
}

#[test]
fn when_redis_was_away_nobody_is_dead() {
    let (mut nodes, mut registry) = three();
    // Nobody reaches it for 20 s; then all do again.
    nodes.iter_mut().for_each(|node| node.asleep_until = 30_000);
    run(&mut nodes, &mut registry, 10_000, 45_000);
    assert!(nodes.iter().all(|node| node.claims.is_empty() && node.lost == 0));
    assert_eq!(nodes[0].sees(), [2, 3]);
}

#[test]
fn when_redis_has_forgotten_everything_all_come_back_under_their_numbers() {
    let (mut nodes, mut registry) = three();
    registry.forget();
    run(&mut nodes, &mut registry, 10_000, 20_000);
    assert_eq!(nodes.iter().map(|node| node.joins.last().unwrap().0).collect::<Vec<_>>(), [101, 102, 103]);
    assert_eq!(nodes[2].sees(), [1, 2]);
    assert!(nodes.iter().all(|node| node.claims.is_empty()));
}

#[test]
fn a_node_whose_clock_is_off_is_as_good_as_any() {
    let (mut nodes, mut registry) = three();
    nodes.push(Node::new(4));
    nodes[3].skew = 600_000;
    run(&mut nodes, &mut registry, 10_000, 40_000);
    assert_eq!((nodes[0].sees(), nodes[3].sees()), (vec![2, 3, 4], vec![1, 2, 3]));
    assert!(nodes.iter().all(|node| node.claims.is_empty() && node.lost == 0));
}

#[test]
fn who_speaks_another_protocol_stays_outside_and_is_told_on_both_sides() {
    let (mut nodes, mut registry) = three();
    let mut newcomer = Node::new(4);
    newcomer.state.me.protocol = Protocol { speaks: 9, since: 9 };
    nodes.push(newcomer);
    run(&mut nodes, &mut registry, 10_000, 13_000);
    assert!(nodes[3].joins.is_empty() && nodes[3].misfits == 3 && nodes[3].sees().is_empty());
    run(&mut nodes, &mut registry, 13_000, 40_000);
    assert!(nodes[..3].iter().all(|node| node.sees().len() == 2));
    assert!(nodes[3].joins.is_empty());
    // When the old ones are gone, it comes in.
    nodes[..3].iter_mut().for_each(|node| node.asleep_until = u64::MAX);
    for id in 1..=3 {
        registry.leave(NodeId(id), 40_000);
    }
    run(&mut nodes, &mut registry, 40_000, 60_000);
    assert_eq!(nodes[3].joins.len(), 1);
}

#[test]
fn one_that_leaves_is_buried_by_another() {
    let (mut nodes, mut registry) = three();
    nodes[0].asleep_until = u64::MAX;
    registry.leave(NodeId(1), 10_000);
    run(&mut nodes, &mut registry, 10_000, 12_100);
    assert_eq!(nodes.iter().flat_map(|node| &node.claims).count(), 1);
    assert_eq!(nodes[1].sees(), [3]);
}

#[test]
fn who_dies_over_a_burial_is_followed_by_another() {
    let (mut nodes, mut registry) = three();
    nodes[0].asleep_until = u64::MAX;
    let mut claimed = Vec::new();
    for now in (10_000..60_000).step_by(10) {
        for node in nodes.iter_mut().filter(|node| node.asleep_until <= now) {
            let before = node.claims.len();
            node.step(&mut registry, now);
            if node.claims[before..].iter().any(|(_, dead)| *dead == NodeId(1)) {
                claimed.push(now);
                // The first one dies of it.
                if claimed.len() == 1 {
                    node.asleep_until = u64::MAX;
                } else {
                    registry.buried(NodeId(1));
                }
            }
        }
    }
    assert_eq!(claimed.len(), 2, "{claimed:?}");
    assert!(claimed[1] - claimed[0] <= 12_100, "{claimed:?}");
}

#[test]
fn records_that_cannot_be_read_are_left_out_and_told_once() {
    let (mut nodes, mut registry) = three();
    registry.register(NodeId(0x66), "garbage", &[7], 10_000);
    let mut told = 0;
    for now in (10_000..12_000).step_by(10) {
        registry.beat(NodeId(0x66), 1, None, true, now);
        let node = &mut nodes[0];
        if let Advice::Beat { version, record } = node.state.advice(now) {
            let answer = registry.beat(NodeId(1), version, None, true, now);
            told += node.state.beaten(answer, record, now).unreadable.len();
        }
    }
    assert_eq!((told, nodes[0].sees()), (1, vec![2, 3]));
}

#[test]
fn a_change_is_told_at_once() {
    let (mut nodes, mut registry) = three();
    nodes[0].state.change(|me| me.draining = true, 10_000);
    assert!(matches!(nodes[0].state.advice(10_000), Advice::Beat { record: true, .. }));
    run(&mut nodes, &mut registry, 10_000, 12_100);
    assert!(nodes[1].state.others().any(|member| member.id.0 == 1 && member.draining));
    assert!(!matches!(nodes[0].state.advice(99_000), Advice::Beat { record: true, .. }));
}

proptest! {
    /// Whatever pauses there are: numbers are unique, the paused come back, and in the end all see all.
    #[test]
    fn any_pauses_are_survived(
        pauses in proptest::collection::vec((0usize..5, 0u64..60_000, 100u64..20_000), 0..12),
        forget in proptest::option::of(5_000u64..50_000),
    ) {
        let mut nodes: Vec<Node> = (1..=5).map(Node::new).collect();
        let mut registry = Registry::new(SETTINGS.into());
        let mut buried: BTreeMap<(usize, NodeId), usize> = BTreeMap::new();
        for now in (0..120_000u64).step_by(20) {
            if forget.is_some_and(|at| at / 20 == now / 20) {
                registry.forget();
            }
            for (index, node) in nodes.iter_mut().enumerate() {
                let paused = pauses.iter().any(|(who, from, length)| *who == index && (*from..from + length).contains(&now));
                if paused {
                    continue;
                }
                let before = node.claims.len();
                node.step(&mut registry, now);
                for (_, dead) in &node.claims[before..] {
                    *buried.entry((index, *dead)).or_default() += 1;
                    registry.buried(*dead);
                }
            }
            let mut held = BTreeSet::new();
            for entry in registry_numbers(&registry) {
                prop_assert!(held.insert(entry.1), "a node has two numbers");
            }
        }
        for (index, node) in nodes.iter().enumerate() {
            prop_assert!(node.state.is_member(), "node {index}");
            prop_assert_eq!(node.sees().len(), 4, "node {}", index);
            prop_assert_eq!(node.joins.len(), node.lost + 1);
        }
        let numbers: BTreeSet<u16> = nodes.iter().map(|node| node.state.me().number.0).collect();
        prop_assert_eq!(numbers.len(), 5);
        // Nobody is buried more often than he was lost.
        let lost: usize = nodes.iter().map(|node| node.lost).sum();
        prop_assert!(buried.values().sum::<usize>() <= lost + 5);
    }
}

fn registry_numbers(registry: &Registry) -> Vec<(u16, NodeId)> {
    registry.numbers().collect()
}
