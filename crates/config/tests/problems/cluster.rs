//! Many processes as one server.

use crate::{ROUTE, SECRET, expect, problems};

const REDIS: &str = "redis = \"redis://r\"";

#[track_caller]
fn cluster(text: &str, expected: &[&str]) {
    expect(&format!("[cluster]\nsecret = \"{SECRET}\"\n{text}"), expected);
}

#[test]
fn a_cluster_needs_a_redis_and_a_secret() {
    expect(
        "[cluster]",
        &[
            "1:1: [cluster] needs \"redis\", such as \"redis://127.0.0.1:6379\"",
            "1:1: [cluster] needs the \"secret\" that all nodes share: openssl rand -hex 32",
        ],
    );
    expect(
        &format!("[cluster]\n{REDIS}\nsecret = \"short\""),
        &["3:10: the cluster's secret has 5 bytes; it must have at least 32"],
    );
    cluster(
        &format!("{REDIS}\nsecret_file = \"good\""),
        &["4:15: there is a \"secret\" already; only one of both can be"],
    );
    cluster("redis = []", &["3:9: \"redis\" in [cluster] must not be empty"]);
    cluster(
        "redis = 6379",
        &["3:9: \"redis\" in [cluster] must be a URL such as \"redis://127.0.0.1:6379\", not an integer"],
    );
    cluster(
        "redis = \"r:6379\"",
        &["3:10: \"redis\" in [cluster]: must begin with \"redis://\", or \"rediss://\" for TLS"],
    );
}

#[test]
fn a_password_in_a_url_is_not_shown() {
    for url in ["redis://:hunter2@r/x", "redis://:hunter2@", "http://:hunter2@r", "redis://:hunter2 @r"] {
        let found = problems(&format!("[cluster]\nsecret = \"{SECRET}\"\nredis = \"{url}\"\n{ROUTE}"));
        assert!(found.len() == 1 && !found[0].contains("hunter2"), "{url}: {found:?}");
    }
}

#[test]
fn the_addresses_of_redis_agree_with_each_other_and_with_the_mode() {
    cluster(
        "redis = [\"redis://a\", \"redis://b\"]",
        &["3:23: mode = \"standalone\" is one server; for several set mode = \"sentinel\" or mode = \"cluster\""],
    );
    cluster(
        "mode = \"sentinel\"\nredis = [\"redis://a\", \"rediss://b\"]",
        &["4:23: all URLs must have the same scheme, user, password and database"],
    );
    cluster("mode = \"cluster\"\nredis = \"redis://a/1\"", &["4:9: a Redis Cluster has only the database 0"]);
    cluster(
        "redis = \"redis://u:p@a\"\nuser = \"v\"\npassword = \"q\"",
        &[
            "4:8: the URL names a user already; take one of both out",
            "5:12: the URL has a password already; take one of both out",
        ],
    );
    cluster(
        &format!("{REDIS}\nsentinel_password = \"q\""),
        &["4:21: \"sentinel_password\" has no effect without mode = \"sentinel\""],
    );
    cluster(
        &format!("{REDIS}\nprefix = \"a b\"\n[cluster.redis_tls]"),
        &[
            "4:10: \"prefix\" must have 1 to 64 letters, digits and \"-\", \"_\", \".\", \":\"",
            "5:1: [cluster.redis_tls] has no effect without \"rediss://\" in the URL",
        ],
    );
}

#[test]
fn nodes_can_be_reached_and_are_not_dead_at_once() {
    cluster(
        &format!("{REDIS}\ninternal_listen = \"0.0.0.0:7946\""),
        &["4:19: others cannot reach every address of this machine: say in \"internal_address\" which one they can"],
    );
    cluster(
        &format!("{REDIS}\ninternal_address = \"0.0.0.0:1\""),
        &[
            "4:20: \"internal_address\" in [cluster]: \"0.0.0.0:1\" is no address that others can reach: write the machine's own",
        ],
    );
    cluster(
        &format!("{REDIS}\ninternal_address = \"node\""),
        &[
            "4:20: \"internal_address\" in [cluster]: \"node\" must be an IP address, such as \"10.0.0.5\", \"10.0.0.5:7946\" or \"[fd00::5]:7946\"",
        ],
    );
    cluster(
        &format!("{REDIS}\nheartbeat = \"3s\""),
        &["4:13: \"node_timeout\" must be at least twice \"heartbeat\", or one late heartbeat would be death"],
    );
    cluster(&format!("{REDIS}\nheartbeat = \"10ms\""), &["4:13: \"heartbeat\" must be at least 100ms"]);
    cluster(
        &format!("{REDIS}\n[cluster.internal_tls]\nca = \"a\"\nkey = \"k\""),
        &["4:1: [cluster.internal_tls] needs a \"certificate\"", "4:1: [cluster.internal_tls] needs a \"server_name\""],
    );
}

#[test]
fn what_needs_a_cluster_says_so() {
    expect(
        &format!("[realtime]\nbroker = \"redis\"\n[realtime.auth]\njwt_secret = \"{SECRET}\""),
        &["2:10: broker = \"redis\" needs a [cluster] section that says where Redis is"],
    );
    expect(
        "[upstream.a]\ndiscover = \"realtime\"",
        &["2:12: \"discover\" needs a [cluster] section: its nodes are the servers"],
    );
    cluster(
        &format!("{REDIS}\n[realtime]\nbroker = \"redis\"\nauth.jwt_secret = \"{SECRET}\"\n[store]\npath = \"d\""),
        &["8:8: with realtime's broker = \"redis\" messages are kept in Redis: take \"kind\" and \"path\" out"],
    );
    cluster(
        &format!("{REDIS}\n[upstream.a]\ndiscover = \"realtime\"\nservers = [\"a:1\"]\nprotocol = \"http2\""),
        &[
            "6:11: an upstream has servers or discovers them; take one of both out",
            "7:12: \"protocol\" has no effect with \"discover\": nodes are reached as [cluster] says",
        ],
    );
    cluster(
        &format!("{REDIS}\n[upstream.a]\ndiscover = \"realtme\""),
        &["5:12: \"discover\" in [upstream.a]: \"realtme\" must be one of \"realtime\"; did you mean \"realtime\"?"],
    );
}
