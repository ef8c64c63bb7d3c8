//! Spaces that follow, against a list: random joins, cuts, deaths and losses over several nodes, and every client has every
//! message once and in order, or has been told.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod cluster;

use cluster::{CLIENTS, Command, NODES, ROOMS, World};
use proptest::prelude::*;

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let (client, node, room) = (0..CLIENTS, 0..NODES, 0..ROOMS);
    let one = prop_oneof![
        5 => (client.clone(), node.clone()).prop_map(|(client, node)| Command::Connect { client, node }),
        10 => (client.clone(), room.clone()).prop_map(|(client, room)| Command::Join { client, room }),
        2 => (client.clone(), room.clone()).prop_map(|(client, room)| Command::Leave { client, room }),
        3 => client.clone().prop_map(|client| Command::Cut { client }),
        2 => client.clone().prop_map(|client| Command::Vanish { client }),
        8 => (client.clone(), node.clone()).prop_map(|(client, node)| Command::ComeBack { client, node }),
        25 => (room.clone(), any::<bool>()).prop_map(|(room, persistent)| Command::Publish { room, persistent }),
        25 => (node.clone(), 1..6usize).prop_map(|(node, most)| Command::Hear { node, most }),
        2 => node.clone().prop_map(|node| Command::LoseTouch { node }),
        3 => node.clone().prop_map(|node| Command::CatchUp { node }),
        2 => (room, 0..5usize).prop_map(|(room, keep)| Command::Trim { room, keep }),
        1 => (0..6u64, any::<bool>()).prop_map(|(back, wiped)| Command::Lose { back, wiped }),
        1 => node.clone().prop_map(|node| Command::Die { node }),
        3 => (client, 0..4u8).prop_map(|(client, status)| Command::Say { client, status }),
        5 => (node, prop_oneof![1..400u64, 1_000..30_000u64]).prop_map(|(node, ms)| Command::Tick { node, ms }),
    ];
    prop::collection::vec(one, 1..160)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn on_whichever_node_a_client_has_everything_once_and_in_order_or_is_told(commands in commands()) {
        let mut world = World::new();
        for client in 0..CLIENTS {
            world.apply(Command::Connect { client, node: client % NODES });
            world.apply(Command::Join { client, room: client % ROOMS });
        }
        for command in commands {
            world.apply(command);
        }
        world.settle();
        world.leave_nothing();
    }
}
