//! The space against a list: random commands, every effect compared with what a naive model expects.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod naive;

use naive::{Command, World};
use proptest::prelude::*;

fn commands() -> impl Strategy<Value = Vec<Command>> {
    let slot = 0..5usize;
    let room = 0..3usize;
    let one = prop_oneof![
        6 => (slot.clone(), 0..3usize).prop_map(|(slot, user)| Command::Connect { slot, user }),
        10 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Join { slot, room }),
        4 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Leave { slot, room }),
        3 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Listen { slot, room }),
        2 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Unlisten { slot, room }),
        5 => (slot.clone(), any::<bool>()).prop_map(|(slot, keep)| Command::Disconnect { slot, keep }),
        24 => (room.clone(), 0..3u8, 0..200usize)
            .prop_map(|(room, class, bytes)| Command::Publish { room, class, bytes, once: None }),
        8 => (0..2usize, 0..3u8, 0..2usize, 0..2u8, prop_oneof![Just(80u64), Just(3_000), Just(90_000)])
            .prop_map(|(room, class, sender, key, window_ms)| Command::Publish {
                room,
                class,
                bytes: 10,
                once: Some((sender, key, window_ms)),
            }),
        16 => (0..8usize).prop_map(|nth| Command::Appended { nth }),
        2 => (0..8usize).prop_map(|nth| Command::AppendFailed { nth }),
        6 => Just(Command::Reserved),
        6 => (1..400u64).prop_map(|ms| Command::Tick { ms }),
        1 => (1_000..70_000u64).prop_map(|ms| Command::Tick { ms }),
        10 => (slot.clone(), 0..6usize, 0..30u64, any::<bool>())
            .prop_map(|(slot, session, back, truncated)| Command::Resume { slot, session, back, truncated }),
        3 => (slot.clone(), 0..6usize).prop_map(|(slot, session)| Command::ResumeAsAnother { slot, session }),
        8 => (slot.clone(), room.clone()).prop_map(|(slot, room)| Command::Show { slot, room }),
        3 => (slot.clone(), any::<bool>()).prop_map(|(slot, idle)| Command::Idle { slot, idle }),
        4 => (slot, prop::option::of(0..4u8), 0..3u8, 0..3u8, 0..4u8)
            .prop_map(|(slot, status, mood, activity, custom)| Command::Say { slot, status, mood, activity, custom }),
        1 => (100..700_000u64).prop_map(|ms| Command::ClockBack { ms }),
        1 => Just(Command::CleanRestart),
        1 => (0..8usize).prop_map(|survive| Command::Kill { survive }),
        4 => (room, 0..20u64).prop_map(|(room, back)| Command::Since { room, back }),
    ];
    prop::collection::vec(one, 1..140)
}

/// Coming, going and looking in one room, with hardly a pause between.
fn comings_and_goings() -> impl Strategy<Value = Vec<Command>> {
    let slot = 0..5usize;
    let one = prop_oneof![
        4 => (slot.clone(), 0..3usize).prop_map(|(slot, user)| Command::Connect { slot, user }),
        10 => slot.clone().prop_map(|slot| Command::Join { slot, room: 0 }),
        8 => slot.clone().prop_map(|slot| Command::Leave { slot, room: 0 }),
        2 => (slot.clone(), any::<bool>()).prop_map(|(slot, keep)| Command::Disconnect { slot, keep }),
        8 => slot.clone().prop_map(|slot| Command::Show { slot, room: 0 }),
        1 => (slot.clone(), any::<bool>()).prop_map(|(slot, idle)| Command::Idle { slot, idle }),
        1 => (slot, 0..4u8).prop_map(|(slot, status)| Command::Say {
            slot,
            status: Some(status),
            mood: 0,
            activity: 0,
            custom: 0,
        }),
        4 => (1..300u64).prop_map(|ms| Command::Tick { ms }),
        1 => (100..1_000u64).prop_map(|ms| Command::ClockBack { ms }),
    ];
    prop::collection::vec(one, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_space_does_what_a_list_would_do(commands in commands()) {
        let mut world = World::new();
        for command in commands {
            world.apply(command);
        }
        world.settle();
    }

    #[test]
    fn whoever_looks_whenever_ends_up_knowing_who_is_there(commands in comings_and_goings()) {
        let mut world = World::new();
        // All there at first: what comes and goes is then told.
        for slot in 0..5 {
            world.apply(Command::Connect { slot, user: slot % 3 });
            world.apply(Command::Join { slot, room: 0 });
        }
        for command in commands {
            world.apply(command);
        }
        world.settle();
    }
}
