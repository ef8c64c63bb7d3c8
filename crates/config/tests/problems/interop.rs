//! Node servers beside this one.

use crate::{SECRET, expect};

#[track_caller]
fn interop(text: &str, expected: &[&str]) {
    expect(&format!("[realtime.auth]\njwt_secret = \"{SECRET}\"\n[realtime.interop]\n{text}"), expected);
}

#[test]
fn node_servers_have_an_adapter_and_one_redis() {
    interop(
        "",
        &[
            "3:1: [realtime.interop] needs \"redis\", where the Node servers find each other, such as \"redis://127.0.0.1:6379\"",
            "3:1: [realtime.interop] needs the adapter of the Node servers: \"redis_adapter\", \"sharded_adapter\" or \"streams_adapter\"",
        ],
    );
    interop("redis = \"redis://r\"\nredis_adapter = {}", &[]);
    let cluster =
        format!("[cluster]\nsecret = \"{SECRET}\"\nredis = [\"redis://r\", \"redis://s\"]\nmode = \"cluster\"");
    interop(
        &format!("redis_adapter = {{}}\n{cluster}"),
        &["3:1: [realtime.interop] needs one Redis server in \"redis\": that of [cluster] is several"],
    );
}

#[test]
fn a_namespace_is_shared_by_one_adapter() {
    interop(
        "redis = \"redis://r\"\nredis_adapter = { namespaces = [\"/\", \"/a\"] }\nsharded_adapter = { namespaces = [\"/a\"] }",
        &["6:35: the namespace \"/a\" is shared with Node servers already: one adapter carries it"],
    );
    interop(
        "redis = \"redis://r\"\nredis_adapter = { namespaces = [], key = \"\" }",
        &["5:32: \"namespaces\" must name at least one", "5:42: \"key\" must not be empty"],
    );
}
