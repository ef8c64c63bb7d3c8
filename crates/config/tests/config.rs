//! What a right file means, and that no text at all is too wrong.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use tidegate_auth::{KeyRate, Scope, Scopes};
use tidegate_config::{
    AccessFormat, AccessLog, Action, Config, Fsync, JwtMode, LogFormat, LogLevel, PathMatch, Problems, Rate, Route,
    StoreKind, Surroundings, load,
};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn try_read(file: &str, text: &str) -> Result<Config, Problems> {
    let variable = |name: &str| (name == "JWT").then(|| SECRET.to_owned());
    let file_text = |path: &std::path::Path| Ok(format!("{SECRET}-{}\r\n", path.display()));
    load(file, text, Surroundings { variable: &variable, read_file: &file_text })
}

#[track_caller]
fn read(text: &str) -> Config {
    try_read("tidegate.toml", text).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn a_secret_alone_is_a_realtime_server() {
    let config = read("realtime.auth.jwt_secret = \"${JWT}\"");
    let realtime = config.realtime.as_ref().unwrap();
    assert_eq!(realtime.auth.tokens.secret.as_ref().unwrap().expose(), SECRET);
    assert_eq!(realtime.listeners, ["public".into()]);
    assert_eq!((&*realtime.path, &*realtime.api_path), ("/socket.io/", "/realtime"));
    assert_eq!(config.listeners[0].address, ([0, 0, 0, 0], 8080).into());
    assert_eq!(config.admin.unwrap().address, ([127, 0, 0, 1], 9090).into());
    assert_eq!(config.store.kind, StoreKind::Memory);
    assert!(config.routes.is_empty());
}

#[test]
fn a_route_alone_is_a_gateway() {
    let config = read("upstream.a.servers = [\"a:1\"]\nroute = [{ upstream = \"a\" }]");
    assert!(config.realtime.is_none());
    assert_eq!(config.routes, [Route::new("/", "/", Action::upstream("a"))]);
    assert_eq!(config.upstreams[0], tidegate_config::Upstream::new("a", &["a:1"]));
}

#[test]
fn every_part_of_a_file_is_read() {
    let config = read(
        r#"
        workers = 0x2
        [[listener]]
        name = "a"
        address = "[::1]:1"
        [[listener]]
        name = "b"
        address = "localhost:2"
        [admin]
        enabled = false
        [upstream.z]
        servers = ["one:1"]
        connect_timeout = "1s"
        tunnel_idle_timeout = "1d"
        keepalive = 0
        [[upstream.z.server]]
        address = "[::1]:3"
        weight = 5
        [upstream."a b"]
        servers = ["x:1"]
        [[route]]
        name = "first"
        listener = "b"
        host = "Example.ORG."
        path = "/p"
        upstream = "z"
        [[route]]
        host = "other"
        upstream = "a b"
        [realtime]
        listeners = ["b"]
        path = "/ws/io"
        api_path = "/rt/"
        max_payload = "64KiB"
        cors_origins = ["HTTPS://A.example:8443"]
        messages_per_second = 0
        [realtime.auth]
        jwt_secret_file = "s"
        api_keys = [
            { id = "k", secret = "0123456789abcdef", tenant = "t" },
            { id = "l", secret = "0123456789abcdeg", scopes = ["history", "rooms"], rooms = ["case:*"], namespaces = ["/events"], requests_per_second = 5 },
        ]
        [store]
        path = "data"
        fsync = "interval"
        fsync_interval = "250ms"
        ttl = "1h30m"
        [log]
        level = "debug"
        format = "text"
        access = "access.log"
        [drain]
        timeout = "0s"
        "#,
    );
    assert_eq!(config.workers, 2);
    assert_eq!(config.listeners[1].address, ([127, 0, 0, 1], 2).into());
    assert_eq!(config.admin, None);
    let names: Vec<&str> = config.upstreams.iter().map(|upstream| &*upstream.name).collect();
    assert_eq!(names, ["z", "a b"], "in the order of the file");
    let z = &config.upstreams[0];
    let servers: Vec<(&str, u32)> = z.servers.iter().map(|server| (&*server.address, server.weight)).collect();
    assert_eq!(servers, [("one:1", 1), ("[::1]:3", 5)]);
    assert_eq!((z.connect_timeout, z.tunnel_idle_timeout), (Duration::from_secs(1), Duration::from_secs(86_400)));
    assert_eq!(z.keepalive, 0);
    assert_eq!(config.routes[0].hosts, ["example.org".into()]);
    assert_eq!(config.routes[0].listeners, ["b".into()]);
    assert_eq!(&*config.routes[1].name, "other/");
    let realtime = config.realtime.unwrap();
    assert_eq!((&*realtime.path, &*realtime.api_path), ("/ws/io/", "/rt"));
    assert_eq!((realtime.max_payload, realtime.messages_per_second), (65_536, 0));
    assert_eq!(realtime.cors_origins, ["https://a.example:8443"]);
    assert_eq!(realtime.auth.tokens.secret.as_ref().unwrap().expose(), format!("{SECRET}-s"), "without the line's end");
    let [plain, narrow] = &realtime.auth.api_keys[..] else { panic!() };
    assert_eq!(plain.tenant().unwrap().as_str(), "t");
    assert_eq!((plain.scopes(), plain.rooms(), plain.namespaces(), plain.rate()), (Scopes::PUBLISH, None, None, None));
    assert_eq!(narrow.scopes().iter().collect::<Vec<_>>(), [Scope::History, Scope::Rooms]);
    assert!(narrow.opens_room(&"case:1".try_into().unwrap()) && !narrow.opens_room(&"lobby".try_into().unwrap()));
    assert_eq!(narrow.namespaces().unwrap()[0].as_str(), "/events");
    assert_eq!(narrow.rate(), Some(KeyRate { per_second: 5, burst: 10 }));
    let fsync = Fsync::Interval(Duration::from_millis(250));
    assert_eq!(config.store.kind, StoreKind::Embedded { path: PathBuf::from("data"), fsync });
    assert_eq!(config.store.ttl, Duration::from_secs(5_400));
    assert_eq!((config.log.level, config.log.format), (LogLevel::Debug, LogFormat::Text));
    assert_eq!(config.log.access, AccessLog::File("access.log".into()));
    assert_eq!(config.drain.timeout, Duration::ZERO);
}

#[test]
fn paths_are_relative_to_the_file() {
    let text = "[realtime.auth]\njwt_secret_file = \"s\"\n[store]\npath = \"data\"\n[log]\naccess = \"/var/log/a.log\"";
    let config = try_read("/etc/tidegate/tidegate.toml", text).unwrap();
    assert_eq!(config.realtime.unwrap().auth.tokens.secret.unwrap().expose(), format!("{SECRET}-/etc/tidegate/s"));
    let path = PathBuf::from("/etc/tidegate/data");
    assert_eq!(config.store.kind, StoreKind::Embedded { path, fsync: Fsync::Always });
    assert_eq!(config.log.access, AccessLog::File("/var/log/a.log".into()));
}

#[test]
fn a_section_that_is_switched_off_may_lack_its_secret() {
    let config = read(
        "[realtime]\nenabled = false\n[upstream.a]\nservers = [\"a:1\"]\n[[route]]\nupstream = \"a\"\npath = \"/socket.io/\"",
    );
    assert!(config.realtime.is_none());
}

#[track_caller]
fn survives_being_written_out(text: &str) {
    let config = read(text);
    let effective = config.effective();
    assert!(!effective.contains(SECRET), "{effective}");
    assert!(!format!("{config:?}").contains(SECRET));
    assert_eq!(read(&effective.replace("\"***\"", "\"${JWT}\"")), config, "{effective}");
}

#[test]
fn the_effective_config_is_a_file_that_means_the_same() {
    // The secret that comes from a file is this one too, so that all are alike when they are filled in again.
    let everything = include_str!("everything.toml").replace("secret_file = \"jwt\"", "secret = \"${JWT}\"");
    survives_being_written_out(&everything);
    survives_being_written_out(include_str!("../../../examples/gateway.toml"));
    let example = include_str!("../../../examples/tidegate.toml")
        .replace("${TIDEGATE_JWT_SECRET}", "${JWT}")
        .replace("${TIDEGATE_BILLING_KEY:-change-this-before-use}", "${JWT}")
        .replace("${TIDEGATE_WEBHOOK_SECRET:-change-this-before-use}", "${JWT}");
    survives_being_written_out(&example);
}

#[test]
fn the_defaults_are_in_the_routes() {
    let config = read(include_str!("everything.toml"));
    let route = |path: &str| config.routes.iter().find(|route| route.path.to_string() == path).unwrap();
    let plain = route("/defaults");
    assert_eq!(plain.limits.as_ref().unwrap()[0].zone, "count".into());
    assert_eq!(plain.access, ["deny 192.0.2.1".into()]);
    assert_eq!(plain.jwt, JwtMode::Optional);
    assert_eq!((&plain.log, &plain.log_format), (&Some(AccessLog::Stderr), &Some(AccessFormat::Combined)));
    let security = plain.security.as_ref().unwrap();
    assert_eq!((security.csp.as_deref(), security.xss.as_deref()), (None, Some("1; mode=block")));
    assert_eq!(security.frame.as_deref(), Some("SAMEORIGIN"));
    assert_eq!(plain.cors.as_ref().unwrap().origins, ["*".into()]);
    assert_eq!(plain.request_headers.set, ["X-A: {client_ip}".into()]);
    let own = route("^~ /p/");
    assert_eq!((own.access.len(), own.jwt), (0, JwtMode::Required));
    let uses = own.limits.as_ref().unwrap();
    assert_eq!((&*uses[0].zone, &*uses[1].zone), ("count", "rate"));
    assert_eq!((uses[1].burst, uses[1].nodelay, uses[1].delay, uses[1].status), (9, false, 1, 429));
    assert_eq!(own.request_headers.remove, ["X-B".into()], "its own as a whole");
    let off = route("/replaced/");
    assert_eq!((&off.limits, &off.security, off.jwt), (&Some(Vec::new()), &None, JwtMode::Off));
    // What is as much as per second where it is not said.
    assert_eq!(config.listeners[0].limits[0].burst, 5, "the zone's own");
    assert_eq!(config.jwt.unwrap().tokens.secret.unwrap().expose(), format!("{SECRET}-jwt"));
    assert_eq!(config.trace.unwrap().sample, 1_000);
    assert_eq!(config.upstreams[0].servers[1].address, "unix:/run/App.sock".into());
}

#[test]
fn bursts_are_as_many_as_per_second_unless_they_are_given() {
    let config = read(
        "admission.streams_per_second = 7\n[[listener]]\ntls = { certificate = \"c\", key = \"k\", handshakes_per_second = 5, handshake_burst = 0 }\n\
         [[route]]\nstub_status = true\nwebsocket = { inspect = \"meter\", messages_per_second = 3 }",
    );
    assert_eq!(config.admission.burst, 7);
    assert_eq!(config.listeners[0].tls.as_ref().unwrap().handshake_burst, 5);
    assert_eq!(config.routes[0].websocket.message_burst, 3);
}

#[test]
fn rates_are_counted_as_nginx_counts_them() {
    assert_eq!(Rate::parse("10r/s").unwrap().per_1000_seconds(), 10_000);
    assert_eq!(Rate::parse("30r/m").unwrap().per_1000_seconds(), 500);
    assert_eq!(Rate::parse("1r/m").unwrap().per_1000_seconds(), 16);
    assert_eq!(Rate::parse("1000000r/s").unwrap().to_string(), "1000000r/s");
    for text in ["", "10", "r/s", "10r/h", "-1r/s", "1.5r/s", "0r/s", "1000001r/s", "10 r/s"] {
        assert!(Rate::parse(text).is_err(), "{text}");
    }
}

#[test]
fn the_effective_config_keeps_strange_characters() {
    let config = read(
        "upstream.\"a\\\"b $ \\\\\".servers = [\"a:1\"]\nroute = [{ upstream = \"a\\\"b $ \\\\\", path = \"/$$x\" }]\nlog.access = \"/a b/'c'.log\"",
    );
    assert_eq!(config.routes[0].path, PathMatch::Prefix("/$x".into()));
    let effective = config.effective();
    assert_eq!(read(&effective), config, "{effective}");
}

/// What stands in config files, as words: patterns are slow to draw from.
const HEADERS: &[&str] = &[
    "[[route]]",
    "[[listener]]",
    "[upstream.a]",
    "[[upstream.a.server]]",
    "[realtime]",
    "[realtime.auth]",
    "[store]",
    "[log]",
    "[client]",
    "[admin]",
    "[listener.tls]",
    "[limit.a]",
    "[admission]",
    "[jwt]",
    "production = true",
    "[defaults]",
    "[defaults.security]",
    "[trace]",
    "[drain]",
    "[upstream.a.sticky]",
    "[upstream.a.tls]",
    "[upstream.a.health]",
    "[upstream.a.outlier]",
    "[upstream.a.breaker]",
    "[upstream.a.retry]",
    "[[route.limit]]",
    "[route.respond]",
    "[route.security]",
    "[route.cors]",
    "[route.request_headers]",
    "[route.response_headers]",
    "[route.websocket]",
    "[route.sse]",
    "\n",
];
const KEYS: &[&str] = &[
    "name",
    "address",
    "servers",
    "path",
    "host",
    "hosts",
    "upstream",
    "listener",
    "listeners",
    "weight",
    "jwt_secret",
    "algorithms",
    "public_keys",
    "jwks_url",
    "jwks_file",
    "leeway",
    "api_keys",
    "ttl",
    "fsync",
    "kind",
    "level",
    "x",
    "key",
    "rate",
    "burst",
    "connections",
    "status",
    "limits",
    "zone",
    "access",
    "headers",
    "methods",
    "set",
    "add",
    "remove",
    "origins",
    "credentials",
    "redirect",
    "balance",
    "hash_key",
    "consistent",
    "load_factor",
    "cookie",
    "secret",
    "type",
    "on",
    "interval",
    "inspect",
    "idle_timeout",
    "log_format",
    "sample",
    "endpoint",
    "token",
    "jwt",
    "backup",
    "certificate",
    "trusted_proxies",
    "security_headers",
    "stub_status",
    "route",
    "limit",
    "defaults",
    "store",
    "realtime",
    "limit.a",
    "upstream.a",
    "route.cors",
    "listener.tls",
];
const VALUES: &[&str] = &[
    "true",
    "false",
    "-1",
    "0",
    "1",
    "7",
    "101",
    "70000",
    "99999999999999999999",
    "1.5",
    "nan",
    "1979-05-27",
    "[",
    "]",
    "{",
    "}",
    ",",
    "'''",
    "\"\"\"",
    "#",
    "[]",
    "\"\"",
    "\"a\"",
    "[\"a\"]",
    "\"a:1\"",
    "[\"a:1\", \"unix:/a\"]",
    "\"/a\"",
    "\"= /a\"",
    "\"^~ /a\"",
    "\"~ ^/(a\"",
    "\"~* ^/a$\"",
    "\"1r/s\"",
    "\"30r/m\"",
    "\"200-399\"",
    "\"1s\"",
    "\"64KiB\"",
    "\"{client_ip}\"",
    "\"{clinet_ip}\"",
    "\"{claim.a}{{\"",
    "\"ü{\"",
    "[\"X-A: {upstream}\"]",
    "[\"X-A: ü{status\"]",
    "[\"deny all\", \"allow ::1\"]",
    "[\"*\", \"https://*.a\"]",
    "\"hash\"",
    "\"ip_hash\"",
    "\"required\"",
    "\"meter\"",
    "\"${JWT}\"",
    "\"${JWT} {\"",
    "\"${X}\"",
    "\"combined\"",
];

/// Text that is made of what stands in config files.
fn like_toml() -> impl Strategy<Value = String> {
    let word = |words: &'static [&'static str]| proptest::sample::select(words).prop_map(str::to_owned);
    let piece = prop_oneof![
        2 => word(HEADERS),
        4 => word(KEYS).prop_map(|key| format!("{key} = ")),
        4 => word(VALUES),
        1 => "\"[a-z0-9:/.$\\{\\}ü-]{0,12}\"",
        1 => "\\PC{0,6}",
    ];
    proptest::collection::vec(piece, 0..40).prop_map(|pieces| {
        pieces.into_iter().fold(String::new(), |mut text, piece| {
            if !text.is_empty() && !text.ends_with("= ") && (text.len() + piece.len()) % 5 > 0 {
                text.push('\n');
            }
            text.push_str(&piece);
            text
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_a_config_or_has_problems_inside_it(text in prop_oneof![like_toml(), "\\PC{0,80}"]) {
        match try_read("t", &text) {
            Ok(config) => { let _ = config.effective(); }
            Err(found) => {
                prop_assert!(!found.problems.is_empty());
                let lines = text.split('\n').count();
                for problem in &found.problems {
                    prop_assert!(problem.line >= 1 && problem.line <= lines && problem.column >= 1);
                    prop_assert!(!problem.message.contains('\n'));
                }
                prop_assert!(found.problems.is_sorted_by_key(|problem| (problem.line, problem.column)));
            }
        }
    }

    #[test]
    fn a_cut_example_never_panics(cut in 0..8_000usize) {
        let text = include_str!("../../../examples/tidegate.toml");
        let cut = (0..=cut.min(text.len())).rev().find(|cut| text.is_char_boundary(*cut)).unwrap();
        let _ = try_read("t", &text[..cut]);
    }
}
