//! Node servers and Tidegate on one Redis (`node/interop.mjs`): real servers, adapters and emitters of npm, the example
//! `interop`, and a Redis of each test's own.

use crate::harness::{example, run};

fn beside_node(scenario: &str) {
    let example = example("interop").to_string_lossy().into_owned();
    run("interop", scenario, &[("TIDEGATE_INTEROP", example)], |action| panic!("the scenario asks for {action}"));
}

#[test]
fn with_the_redis_adapter_each_side_reaches_the_clients_of_the_other() {
    beside_node("redisAdapter");
}

#[test]
fn with_the_redis_adapter_servers_tell_and_ask_each_other() {
    beside_node("redisServers");
}

#[test]
fn the_redis_emitter_reaches_clients_everywhere() {
    beside_node("emitter");
}

#[test]
fn a_node_server_hears_of_all_rooms() {
    beside_node("allRooms");
}

#[test]
fn a_session_of_a_shared_namespace_is_not_told_that_it_could_recover() {
    beside_node("noRecovery");
}

#[test]
fn garbage_on_the_channels_of_the_redis_adapter_does_nothing() {
    beside_node("redisGarbage");
}

#[test]
fn both_sides_hear_each_other_again_after_a_restart_of_redis() {
    beside_node("redisAdapterRedisRestarts");
}

#[test]
fn the_death_of_a_node_server_leaves_the_others_complete() {
    beside_node("nodeServerDies");
}

#[test]
fn one_server_after_the_other_moves_behind_nginx_there_and_back() {
    beside_node("oneServerAtATime");
}

#[test]
fn with_the_sharded_adapter_each_side_reaches_the_clients_of_the_other() {
    beside_node("shardedAdapter");
}

#[test]
fn with_the_sharded_adapter_servers_tell_and_ask_each_other() {
    beside_node("shardedServers");
}

#[test]
fn garbage_on_the_channels_of_the_sharded_adapter_does_nothing() {
    beside_node("shardedGarbage");
}

#[test]
fn both_sides_of_the_sharded_adapter_hear_each_other_again_after_a_restart_of_redis() {
    beside_node("shardedRedisRestarts");
}

#[test]
fn with_the_streams_adapter_each_side_reaches_the_clients_of_the_other() {
    beside_node("streamsAdapter");
}

#[test]
fn with_the_streams_adapter_servers_tell_and_ask_each_other() {
    beside_node("streamsServers");
}

#[test]
fn garbage_in_the_stream_and_on_its_channels_does_nothing() {
    beside_node("streamsGarbage");
}

#[test]
fn both_sides_of_the_streams_adapter_hear_each_other_again_after_a_restart_of_redis() {
    beside_node("streamsRedisRestarts");
}
