//! The node scenarios, each with a server of its own. What they do is in `node/`.

use crate::harness::{scenario, scenario_on_a_small_disk, scenario_with};

#[test]
fn a_client_on_polling_alone_joins_and_talks() {
    scenario("transports", "pollingOnly");
}

#[test]
fn a_client_on_websocket_alone_joins_and_talks() {
    scenario("transports", "websocketOnly");
}

#[test]
fn an_upgrade_under_traffic_loses_and_repeats_nothing() {
    scenario("transports", "upgradeUnderTraffic");
}

#[test]
fn binary_goes_both_ways_over_websocket() {
    scenario("transports", "binaryOverWebsocket");
}

#[test]
fn binary_goes_both_ways_over_polling() {
    scenario("transports", "binaryOverPolling");
}

#[test]
fn a_message_over_the_limit_ends_its_connection_only() {
    scenario("transports", "tooManyBytes");
}

#[test]
fn unknown_namespaces_are_refused_by_name() {
    scenario("transports", "namespaces");
}

#[test]
fn refusals_say_why_in_the_documented_words() {
    scenario("transports", "connectErrors");
}

#[test]
fn connection_established_names_the_socket_and_the_tenant() {
    scenario("transports", "established");
}

#[test]
fn engine_io_handshake_errors_are_those_of_the_protocol() {
    scenario("transports", "handshakeErrors");
}

#[test]
fn a_join_is_told_in_the_documented_order() {
    scenario("rooms", "joinOrder");
}

#[test]
fn a_message_has_the_documented_shape_and_the_tokens_sender() {
    scenario("rooms", "messageShape");
}

#[test]
fn leaving_and_asking_who_and_where() {
    scenario("rooms", "leaveAndQueries");
}

#[test]
fn query_rooms_takes_its_ack_alone() {
    scenario("rooms", "queryRoomsTakesItsAckAlone");
}

#[test]
fn a_user_with_two_connections_is_present_once_and_leaves_once() {
    scenario("rooms", "presenceOfOneUserTwice");
}

#[test]
fn presence_status_and_metadata_merge_and_reach_everybody() {
    scenario("rooms", "presenceStatus");
}

#[test]
fn who_is_not_in_the_room_cannot_send_to_it() {
    scenario("rooms", "notInRoom");
}

#[test]
fn malformed_requests_are_answered_with_their_code() {
    scenario("rooms", "badRequests");
}

#[test]
fn tenants_with_the_same_room_name_never_meet() {
    scenario("rooms", "tenantsAreIsolated");
}

#[test]
fn history_pages_from_a_position() {
    scenario("rooms", "history");
}

#[test]
fn a_room_keeps_its_newest_thousand_messages() {
    scenario("rooms", "historyCap");
}

#[test]
fn a_user_over_the_rate_is_told_so() {
    scenario("rooms", "rateLimit");
}

#[test]
fn a_crowd_that_joins_at_once_sees_itself() {
    scenario("rooms", "manyJoinAtOnce");
}

#[test]
fn who_does_nothing_is_away_until_they_do_something() {
    scenario_with("away_after = \"1s\"\nping_interval = \"1s\"", "presence", "awayAndBack");
}

#[test]
fn a_client_that_vanished_is_gone_with_its_heartbeat() {
    scenario_with("ping_interval = \"1s\"\nping_timeout = \"1s\"", "presence", "vanished");
}

#[test]
fn a_thousand_joins_at_once_cost_thousands_of_events_not_half_a_million() {
    scenario("presence", "joinStorm");
}

#[test]
fn a_message_sent_twice_is_published_once() {
    scenario("presence", "sentTwice");
}

#[test]
fn a_message_sent_again_after_a_cut_is_published_once() {
    scenario("presence", "sentAgainAfterACut");
}

#[test]
fn tenants_with_the_same_users_rooms_and_message_ids_never_meet() {
    scenario("presence", "tenantsInAllButName");
}

#[test]
fn a_cut_websocket_recovers_what_it_missed() {
    scenario("recovery", "afterACut");
}

#[test]
fn a_cut_websocket_recovers_persistent_messages() {
    scenario("recovery", "afterACutPersistent");
}

#[test]
fn a_cut_polling_client_recovers_what_it_missed() {
    scenario("recovery", "afterACutPolling");
}

#[test]
fn a_client_that_never_got_a_message_recovers_too() {
    scenario("recovery", "idleClientRecovers");
}

#[test]
fn cuts_under_traffic_lose_and_repeat_nothing() {
    scenario("recovery", "underTraffic");
}

#[test]
fn cut_again_and_again_every_client_sees_everything_once_and_in_order() {
    scenario("fire", "shortly");
}

#[test]
fn a_graceful_restart_brings_everybody_back_and_loses_nothing() {
    scenario("restart", "wave");
}

#[test]
fn a_clean_restart_is_recovered_from() {
    scenario("recovery", "afterAStop");
}

#[test]
fn a_killed_server_is_recovered_from() {
    scenario("recovery", "afterAKill");
}

#[test]
fn acknowledged_history_survives_a_kill() {
    scenario("recovery", "historySurvivesAKill");
}

#[test]
fn another_user_cannot_take_a_session() {
    scenario("recovery", "anotherUserCannotTakeASession");
}

#[test]
fn an_expired_token_recovers_nothing() {
    scenario("recovery", "anExpiredTokenRecoversNothing");
}

#[test]
fn unknown_sessions_are_not_recovered() {
    scenario("recovery", "unknownSessionsAreNotRecovered");
}

#[test]
fn a_session_is_held_by_one_connection_the_last() {
    scenario("recovery", "twoCannotRecoverTheSameSession");
}

#[test]
fn a_client_is_back_with_its_session_before_its_loss_is_noticed() {
    scenario("recovery", "comesBackBeforeTheLossIsNoticed");
}

#[test]
fn a_join_from_a_position_brings_what_was_missed_and_then_what_is_live() {
    scenario("since", "fromAPosition");
}

#[test]
fn a_join_from_where_nothing_can_be_proven_is_told_so() {
    scenario("since", "whatCannotBeProvenIsTold");
}

#[test]
fn joining_again_and_again_under_traffic_makes_one_sequence() {
    scenario("since", "againAndAgainUnderTraffic");
}

#[test]
fn a_join_after_a_kill_is_answered_from_the_store() {
    scenario("since", "fromTheStoreAfterAKill");
}

#[test]
fn a_slow_consumer_is_closed_and_recovers() {
    scenario("recovery", "slowConsumerIsClosedAndRecovers");
}

#[test]
fn on_a_full_disk_persistent_messages_are_refused_and_the_rest_goes_on() {
    scenario_on_a_small_disk("store", "aFullDisk");
}

#[test]
fn a_torn_end_of_the_journal_is_cut_off_with_a_line_in_the_log() {
    scenario("store", "aTornJournal");
}

#[test]
fn a_wiped_store_is_told_apart() {
    scenario("recovery", "aWipedStoreIsToldApart");
}

#[test]
fn a_stream_is_the_same_room_as_socket_io() {
    scenario("sse", "sameRoomAsSocketIo");
}

#[test]
fn last_event_id_resumes_without_a_seam() {
    scenario("sse", "lastEventIdResumes");
}

#[test]
fn resuming_again_and_again_under_traffic_makes_one_sequence() {
    scenario("sse", "resumeUnderTraffic");
}

#[test]
fn a_stream_resumes_after_a_restart() {
    scenario("sse", "resumeAfterARestart");
}

#[test]
fn a_token_is_taken_from_header_and_cookie_but_not_from_the_query() {
    scenario("sse", "waysToShowAToken");
}

#[test]
fn a_ticket_opens_one_stream_once() {
    scenario("sse", "aTicketOpensOneStreamOnce");
}

#[test]
fn streams_of_two_tenants_never_meet() {
    scenario("sse", "tenantsOfStreamsAreIsolated");
}

#[test]
fn a_backend_publishes_with_its_key_and_gets_the_position() {
    scenario("sse", "publishing");
}

#[test]
fn health_and_stats_have_the_documented_shapes() {
    scenario("ops", "healthAndStats");
}

#[test]
fn the_largest_and_the_busiest_rooms_are_shown() {
    scenario("ops", "topRoomsAndMonitoring");
}

#[test]
fn counters_move_with_what_happens() {
    scenario("ops", "countersMove");
}

#[test]
fn requests_go_through_the_proxy_as_they_came() {
    scenario("ops", "proxiedRequests");
}

#[test]
fn a_report_run_streams_through_the_proxy() {
    scenario("ops", "reportRun");
}

#[test]
fn a_websocket_echoes_through_the_proxy() {
    scenario("ops", "echoThroughTheProxy");
}

#[test]
fn sigterm_tells_everybody_before_it_closes() {
    scenario("ops", "goingDownPolitely");
}

#[test]
fn a_second_sigterm_ends_at_once() {
    scenario("ops", "aSecondSignalEndsAtOnce");
}

#[test]
fn a_request_under_way_is_finished_on_sigterm() {
    scenario("ops", "aRequestUnderWayIsFinishedOnTerm");
}

#[test]
fn a_client_of_json_lines_talks_with_socket_io_clients() {
    scenario("lines", "talksWithSocketIo");
}

#[test]
fn json_lines_reach_every_namespace_and_what_is_no_line_is_explained() {
    scenario("lines", "namespacesAndRefusals");
}

#[test]
fn a_client_of_json_lines_recovers_what_it_missed() {
    scenario("lines", "recovers");
}

#[test]
fn every_type_of_json_line_is_described() {
    scenario("lines", "described");
}

#[test]
fn several_rooms_on_one_stream_come_in_one_sequence() {
    scenario("streams", "oneSequence");
}

#[test]
fn a_stream_of_several_rooms_resumes_without_a_seam() {
    scenario("streams", "resumes");
}

#[test]
fn streams_of_several_rooms_opened_again_and_again_under_traffic_make_one_sequence() {
    scenario("streams", "resumesUnderTraffic");
}

#[test]
fn a_stream_of_several_rooms_resumes_after_a_restart_and_after_a_kill() {
    scenario("streams", "resumesAfterRestarts");
}

#[test]
fn a_stream_of_several_rooms_is_told_which_rooms_it_has_lost() {
    scenario("streams", "aLossIsTold");
}

#[test]
fn an_event_stream_tells_of_presence_if_it_is_asked_to() {
    scenario("streams", "presenceIfAskedFor");
}

#[test]
fn an_event_stream_tells_of_presence_in_the_words_of_a_dialect() {
    scenario("streams", "presenceOfADialect");
}

#[test]
fn a_stream_of_several_rooms_is_opened_if_the_token_opens_all_of_them() {
    scenario("streams", "whoMayOpenThem");
}

#[test]
fn streams_of_several_rooms_of_two_tenants_never_meet() {
    scenario("streams", "tenantsNeverMeet");
}

#[test]
fn an_event_stream_that_ends_leaves_its_rooms() {
    scenario("streams", "aStreamThatEndsLeavesItsRooms");
}

#[test]
fn a_user_has_so_many_connections_and_rooms() {
    scenario_with("connections_per_user = 2\nrooms_per_user = 3", "limits", "ofUsers");
}

#[test]
fn a_user_has_so_many_events_a_minute_on_all_connections() {
    scenario_with("events_per_minute = 20", "limits", "ofEvents");
}

#[test]
fn a_tenants_users_share_its_budget() {
    scenario_with("tenant_messages_per_second = 1\ntenant_message_burst = 20", "limits", "ofTenants");
}

#[test]
fn an_address_has_so_many_connections() {
    scenario_with("connections_per_ip = 5", "limits", "ofAddresses");
}

#[test]
fn an_address_brings_new_connections_at_its_pace() {
    scenario_with("connects_per_second = 1\nconnect_burst = 5", "limits", "ofArrivals");
}
