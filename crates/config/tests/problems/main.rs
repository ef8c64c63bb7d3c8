//! Each kind of problem, with its exact place and words.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

mod cluster;
mod dialects;
mod gateway;
mod interop;
mod routing;
mod tokens;
mod webhooks;

use std::path::Path;

use tidegate_config::{Config, Problems, Surroundings, load};

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn read(text: &str) -> Result<Config, Problems> {
    let variable = |name: &str| match name {
        "JWT" => Some(SECRET.to_owned()),
        "PORT" => Some("eighty".to_owned()),
        "LEAK" => Some("hunter2-hunter2".to_owned()),
        _ => None,
    };
    let file = |path: &Path| match path.to_str() {
        Some("conf/good") => Ok(format!("{SECRET}\n")),
        Some("conf/ec.pem") => Ok(tokens::PUBLIC_KEY.to_owned()),
        Some("conf/private.pem") => Ok("-----BEGIN PRIVATE KEY-----\nAA==\n-----END PRIVATE KEY-----\n".to_owned()),
        Some("conf/jwks.json") => Ok(tokens::JWKS.to_owned()),
        Some("conf/strong" | "conf/.tidegate/jwt-secret") => Ok("0123456789abcdef".repeat(4)),
        Some("conf/short") => Ok("abc\n".to_owned()),
        _ => Err(std::io::Error::new(std::io::ErrorKind::NotFound, "no such file")),
    };
    load("conf/tidegate.toml", text, Surroundings { variable: &variable, read_file: &file })
}

/// Something to serve, so that only what a case is about is wrong.
const ROUTE: &str = "[upstream.zz]\nservers = [\"zz:1\"]\n[[route]]\npath = \"/zz\"\nupstream = \"zz\"\n";

/// The problems of a text without the file's name.
fn problems(text: &str) -> Vec<String> {
    let Err(problems) = read(text) else { return Vec::new() };
    let shown: Vec<String> = problems.to_string().lines().map(str::to_owned).collect();
    assert_eq!(shown.len(), problems.problems.len());
    shown.iter().map(|line| line.strip_prefix("conf/tidegate.toml:").unwrap().to_owned()).collect()
}

#[track_caller]
fn expect(text: &str, expected: &[&str]) {
    assert_eq!(problems(&format!("{text}\n{ROUTE}")), expected, "{text}");
}

const WILDCARD: &str = "may have one wildcard, as the first label or the last: \"*.example.org\", \"example.*\"";

/// Inside a realtime section that is otherwise right.
#[track_caller]
fn expect_realtime(text: &str, expected: &[&str]) {
    expect(&format!("[realtime]\n{text}\n[realtime.auth]\njwt_secret = \"{SECRET}\""), expected);
}

#[test]
fn text_that_is_not_toml() {
    expect("workers = ", &["1:11: not TOML: string values must be quoted, expected literal string"]);
    expect("[listener", &["1:10: not TOML: unclosed table, expected `]`"]);
    expect("workers = 1\nworkers = 2", &["2:1: not TOML: duplicate key"]);
    // Columns count characters: the ü is one.
    expect("[log]\naccess = 'ü' 1", &["2:14: not TOML: unexpected key or value, expected newline, `#`"]);
    expect(
        "a = 1 2\nb = ]\n",
        &[
            "1:5: not TOML: string values must be quoted, expected literal string",
            "2:5: not TOML: missing array opening, expected `[`",
        ],
    );
}

#[test]
fn unknown_keys() {
    expect("wrokers = 1", &["1:1: unknown key \"wrokers\" at the top level; did you mean \"workers\"?"]);
    expect("[reltime]", &["1:2: unknown key \"reltime\" at the top level; did you mean \"realtime\"?"]);
    expect("[[routes]]\nupstream = \"zz\"", &["1:3: unknown key \"routes\" at the top level; did you mean \"route\"?"]);
    expect("[log]\nfrobnicate = 1", &["2:1: unknown key \"frobnicate\" in [log]"]);
    expect("log.lvel = \"info\"", &["1:5: unknown key \"lvel\" in [log]; did you mean \"level\"?"]);
    expect(
        "[upstream.a]\nservers = [\"a:1\"]\nread_timout = \"1s\"",
        &["3:1: unknown key \"read_timout\" in [upstream.a]; did you mean \"read_timeout\"?"],
    );
    expect_realtime("auth2 = 1", &["2:1: unknown key \"auth2\" in [realtime]; did you mean \"auth\"?"]);
    expect(
        "[[upstream.a.server]]\nadress = \"a:1\"",
        &[
            "1:1: [[upstream.a.server]] needs an \"address\"",
            "2:1: unknown key \"adress\" in [[upstream.a.server]]; did you mean \"address\"?",
        ],
    );
}

#[test]
fn wrong_types() {
    expect("workers = \"four\"", &["1:11: \"workers\" at the top level must be a whole number, not a string"]);
    expect(
        "workers = 1.5",
        &["1:11: \"workers\" at the top level must be a whole number, not a number with a fraction"],
    );
    expect("workers = -1", &["1:11: \"workers\" at the top level must not be negative"]);
    expect("workers = 99999999999999999999", &["1:11: \"workers\" at the top level is too large"]);
    expect("workers = 65", &["1:11: \"workers\" must be from 0 to 64, not 65"]);
    expect("[admin]\nenabled = \"yes\"", &["2:11: \"enabled\" in [admin] must be true or false, not a string"]);
    expect(
        "[drain]\ntimeout = 30",
        &["2:11: \"timeout\" in [drain] is a duration and needs a unit: write \"30s\" or \"30ms\""],
    );
    expect(
        "[drain]\ntimeout = 1979-05-27",
        &["2:11: \"timeout\" in [drain] must be a duration such as \"30s\", \"250ms\" or \"1h30m\", not a date"],
    );
    expect(
        "[drain]\ntimeout = \"soon\"",
        &["2:11: \"timeout\" in [drain]: \"soon\" is no duration: \"soon\" does not begin with a number"],
    );
    expect("[drain]\ntimeout = \"400d\"", &["2:11: \"timeout\" must be at most 366d"]);
    expect(
        "[store]\nqueue_bytes = \"1 mb\"",
        &["2:15: \"queue_bytes\" in [store]: \"1 mb\" is no size: \"mb\" is no unit (B, kB, MB, GB, KiB, MiB or GiB)"],
    );
    expect(
        "[store]\nqueue_bytes = true",
        &[
            "2:15: \"queue_bytes\" in [store] must be a size such as \"1MB\", \"64KiB\" or a number of bytes, not true or false",
        ],
    );
    expect(
        "[log]\nlevel = \"inf\"",
        &[
            "2:9: \"level\" in [log]: \"inf\" must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\"; did you mean \"info\"?",
        ],
    );
    expect("log = \"info\"", &["1:7: \"log\" at the top level must be a table, not a string"]);
    expect("[upstream.a]\nservers = \"a:1\"", &["2:11: \"servers\" in [upstream.a] must be an array, not a string"]);
    expect(
        "[upstream.a]\nservers = [1]",
        &["2:12: \"servers\" in [upstream.a] must be an address such as \"127.0.0.1:3000\", not an integer"],
    );
}

#[test]
fn tables_of_the_wrong_shape() {
    expect(
        "[listener]\nname = \"a\"",
        &["1:1: \"listener\" at the top level may be there more than once: write [[listener]]"],
    );
    expect("[[log]]", &["1:1: \"log\" at the top level is one table: write [log], not [[log]]"]);
    assert_eq!(
        problems("[upstream]\nservers = [\"a:1\"]\n[[route]]\nupstream = \"servers\"\n"),
        [
            "2:1: \"servers\" in [upstream] needs to be in a named table: write [upstream.NAME]",
            "4:12: there is no upstream \"servers\"",
        ]
    );
}

#[test]
fn variables() {
    expect(
        "[log]\naccess = \"/var/${NOPE}/x\"",
        &["2:16: the environment variable NOPE is not set; \"${NOPE:-…}\" would give it a default"],
    );
    expect("[log]\naccess = \"${NOPE\"", &["2:11: \"${\" has no \"}\"; write \"$${\" for the characters themselves"]);
    expect("[log]\naccess = \"${a b}\"", &["2:11: \"a b\" is no name of an environment variable"]);
    expect(
        "workers = \"${PORT}\"",
        &["1:11: \"workers\" at the top level: the expanded value of \"${PORT}\" must be a whole number"],
    );
    expect("workers = \"${NOPE:-2}\"\nadmin.enabled = \"${NOPE:-false}\"", &[]);
}

#[test]
fn what_a_variable_or_a_secret_holds_is_not_shown() {
    for text in [
        "[[listener]]\naddress = \"${LEAK}\"",
        "[upstream.a]\nservers = [\"${LEAK}\"]",
        "[drain]\ntimeout = \"${LEAK}\"",
        "[log]\nlevel = \"${LEAK}\"",
        "[realtime]\ncors_origins = [\"${LEAK}\"]\n[realtime.auth]\njwt_secret = \"${LEAK}\"",
        "[realtime.auth]\njwt_secret = \"hunter2-hunter2\"\napi_keys = [{id = \"a\", secret = \"hunter2\"}]",
    ] {
        let shown = problems(&format!("{text}\n{ROUTE}")).join("\n");
        assert!(!shown.is_empty() && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn listeners() {
    expect("listener = []", &["1:12: there must be at least one [[listener]]"]);
    expect(
        "[[listener]]\naddress = \"8080\"",
        &[
            "2:11: \"address\" in [[listener]]: \"8080\" has no IP address; did you mean \"0.0.0.0:8080\" or \"127.0.0.1:8080\"?",
        ],
    );
    expect(
        "[[listener]]\naddress = \"http://127.0.0.1:80\"",
        &[
            "2:11: \"address\" in [[listener]]: \"http://127.0.0.1:80\" must be host:port without \"http://\"; did you mean \"127.0.0.1:80\"?",
        ],
    );
    expect(
        "[[listener]]\nname = \"a\"\n[[listener]]\naddress = \"[::1]:1\"",
        &[
            "1:1: [[listener]] needs an \"address\", such as \"0.0.0.0:8080\"",
            "3:1: [[listener]] needs a \"name\", since there is more than one",
        ],
    );
    expect(
        "[[listener]]\nname = \"a\"\naddress = \"0.0.0.0:80\"\n[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:80\"",
        &[
            "5:8: there is a listener \"a\" already, at line 2",
            "6:11: the address 127.0.0.1:80 is taken by the listener at line 3, 0.0.0.0:80",
        ],
    );
    expect("[[listener]]\nname = \"\"", &["2:8: the name of a listener must not be empty"]);
    expect(
        "[[listener]]\naddress = \"127.0.0.1:9090\"",
        &["2:11: the admin address 127.0.0.1:9090 and the listener \"public\" at 127.0.0.1:9090 are the same port"],
    );
    expect(
        "[admin]\naddress = \"127.0.0.1:8080\"",
        &["2:11: the admin address 127.0.0.1:8080 and the listener \"public\" at 0.0.0.0:8080 are the same port"],
    );
    expect("[admin]\nenabled = false\naddress = \"127.0.0.1:8080\"", &[]);
    expect(
        "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:0\"\n[[listener]]\nname = \"b\"\naddress = \"127.0.0.1:0\"",
        &[],
    );
}

#[test]
fn upstreams() {
    expect(
        "[upstream.a]",
        &["1:11: the upstream \"a\" has no server; write for example servers = [\"127.0.0.1:3000\"]"],
    );
    expect(
        "[[upstream.a.server]]\naddress = \"a:1\"\nweight = 0",
        &["3:10: \"weight\" must be at least 1; to take a server out, write down = true"],
    );
    expect(
        "[[upstream.a.server]]\naddress = \"a:1\"\nweight = 65536",
        &["3:10: \"weight\" must be from 1 to 65535, not 65536"],
    );
    expect(
        "[upstream.a]\nservers = [\"a:1\", \"A:1\"]",
        &["2:19: the server \"a:1\" is in this upstream already, at line 2"],
    );
    expect(
        "[upstream.a]\nservers = [\"a\", \"::1:80\", \"a:0\", \"a b:1\"]",
        &[
            "2:12: \"servers\" in [upstream.a]: \"a\" has no port; write host:port, such as \"127.0.0.1:3000\"",
            "2:17: \"servers\" in [upstream.a]: \"::1:80\" is an IPv6 address without brackets; write \"[::1]:80\"",
            "2:27: \"servers\" in [upstream.a]: \"a:0\" has no port from 1 to 65535 but \"0\"",
            "2:34: \"servers\" in [upstream.a]: \"a b:1\" has no host name but \"a b\"",
        ],
    );
    expect(
        "[upstream.a]\nservers = [\"a:1\"]\nread_timeout = \"0s\"\nkeepalive_requests = 0",
        &["3:16: \"read_timeout\" must be longer than 0", "4:22: \"keepalive_requests\" must be at least 1, not 0"],
    );
}

#[test]
fn routes() {
    expect(
        "[[route]]",
        &[
            "1:1: [[route]] needs something to do: an \"upstream\", a \"redirect\", [route.respond] or stub_status = true",
        ],
    );
    expect(
        "[[route]]\nupstream = \"zzz\"\nlistener = \"pubic\"",
        &[
            "2:12: there is no upstream \"zzz\"; did you mean \"zz\"?",
            "3:12: there is no listener \"pubic\"; did you mean \"public\"?",
        ],
    );
    expect(
        "[[route]]\nupstream = \"zz\"\npath = \"api\"",
        &["3:8: \"path\" in [[route]]: \"api\" must begin with \"/\""],
    );
    expect(
        "[[route]]\nupstream = \"zz\"\npath = \"/a?b\"",
        &["3:8: \"path\" in [[route]]: \"/a?b\" must be a path without a query"],
    );
    expect(
        "[[route]]\nupstream = \"zz\"\npath = \"/a b\"",
        &["3:8: \"path\" in [[route]]: \"/a b\" must hold only what can stand in a URL; write %20 for a space"],
    );
    for (host, fault) in [
        ("http://a", "must not have a scheme"),
        ("a:80", "must not have a port"),
        ("a/b", "must not have a path; that is \\\"path\\\""),
        ("*", "is every host: leave \"host\" out"),
        ("a.*.b", WILDCARD),
        ("*.*", WILDCARD),
        ("a b", "is no host name"),
    ] {
        let expected = format!("3:8: \"host\" in [[route]]: {host:?} {}", fault.replace('\\', ""));
        expect(&format!("[[route]]\nupstream = \"zz\"\nhost = {host:?}"), &[&expected]);
    }
    expect(
        "[[route]]\nupstream = \"zz\"\npath = \"/a\"\n[[route]]\nupstream = \"zz\"\npath = \"/a\"\nlistener = \"public\"",
        &["6:8: there is a route for \"/a\" of any host already, at line 3"],
    );
    expect(
        "[[route]]\nupstream = \"zz\"\nhost = \"A\"\n[[route]]\nupstream = \"zz\"\nhost = \"a.\"",
        &["4:1: there is a route for \"/\" of \"a\" already, at line 1"],
    );
    expect(
        "[[route]]\nname = \"r\"\nupstream = \"zz\"\n[[route]]\nname = \"r\"\nupstream = \"zz\"\npath = \"/b\"",
        &["5:8: there is a route named \"r\" already, at line 2; give one of them another \"name\""],
    );
}

#[test]
fn realtime_paths() {
    expect_realtime("path = \"/\"", &["2:8: realtime must not take the path \"/\", or nothing else could be served"]);
    expect_realtime("path = \"socket.io\"", &["2:8: \"path\" in [realtime]: \"socket.io\" must begin with \"/\""]);
    expect_realtime(
        "path = \"/realtime/io\"",
        &["2:8: \"path\" \"/realtime/io/\" and \"api_path\" \"/realtime\" must not lie in each other"],
    );
    for path in ["/socket.io/", "/socket.io", "/realtime/rooms/", "/realtime"] {
        let taken = if path.starts_with("/s") { "/socket.io/" } else { "/realtime/" };
        let expected = format!("5:8: the path {path:?} is never reached: the realtime server takes {taken:?}");
        expect(
            &format!("[realtime.auth]\njwt_secret = \"{SECRET}\"\n[[route]]\nupstream = \"zz\"\npath = {path:?}"),
            &[&expected],
        );
    }
    // On a listener that the realtime server does not serve, the path is free.
    expect(
        &format!(
            "[[listener]]\nname = \"a\"\naddress = \"127.0.0.1:1\"\n[[listener]]\nname = \"b\"\naddress = \"127.0.0.1:2\"\n\
             [realtime]\nlisteners = [\"a\"]\nauth.jwt_secret = \"{SECRET}\"\n[[route]]\nupstream = \"zz\"\npath = \"/socket.io/\""
        ),
        &[],
    );
    expect_realtime("listeners = [\"publc\"]", &["2:14: there is no listener \"publc\"; did you mean \"public\"?"]);
    expect_realtime(
        "listeners = []",
        &["2:13: \"listeners\" must name at least one; to switch realtime off, set enabled = false"],
    );
}

#[test]
fn realtime_limits() {
    expect_realtime("ping_timeout = \"0s\"", &["2:16: \"ping_timeout\" must be longer than 0"]);
    expect_realtime("max_payload = 0", &["2:15: \"max_payload\" must be from 1 byte to 1024GiB"]);
    expect_realtime(
        "max_payload = \"8MiB\"",
        &["2:15: \"outbox_bytes\" must be at least \"max_payload\", or the largest message could never be delivered"],
    );
    expect_realtime(
        "max_connections = 0\nmessage_burst = 0",
        &["2:19: \"max_connections\" must be at least 1, not 0", "3:17: \"message_burst\" must be at least 1, not 0"],
    );
    expect_realtime("messages_per_second = 0\nrecovery_window = \"0s\"", &[]);
    expect_realtime(
        "cors_origins = [\"https://a/\", \"a\", \"*\", \"ftp://a\", \"https://a:b\"]",
        &[
            "2:17: \"cors_origins\" in [realtime]: \"https://a/\" must end after the host; did you mean \"https://a\"?",
            "2:31: \"cors_origins\" in [realtime]: \"a\" must begin with \"https://\" or \"http://\", or be \"*\"",
            "2:41: \"cors_origins\" in [realtime]: \"ftp://a\" must begin with \"https://\" or \"http://\"",
            "2:52: \"cors_origins\" in [realtime]: \"https://a:b\" has no valid port",
        ],
    );
    expect_realtime(
        "cors_origins = [\"https://a\", \"*\"]",
        &["2:30: \"*\" stands for every origin; it must be the only one"],
    );
}

#[test]
fn realtime_secrets() {
    let none = "[realtime.auth] needs keys: set \"jwt_secret\" or \"jwt_secret_file\", \"public_keys\", \"jwks_url\" or \"jwks_file\"";
    expect("[realtime]", &[&format!("1:1: {none}")]);
    expect("[realtime]\nenabled = true\n[realtime.auth]", &[&format!("3:1: {none}")]);
    expect("[realtime]\nenabled = false", &[]);
    expect("[realtime.auth]\njwt_secret = \"short\"", &["2:14: the JWT secret has 5 bytes; it must have at least 32"]);
    expect(
        "[realtime.auth]\njwt_secret_file = \"short\"",
        &["2:19: the JWT secret has 3 bytes; it must have at least 32"],
    );
    expect(
        "[realtime.auth]\njwt_secret_file = \"none\"",
        &["2:19: the file \"conf/none\" cannot be read: no such file"],
    );
    expect("[realtime.auth]\njwt_secret_file = \"good\"", &[]);
    expect(
        "[realtime.auth]\njwt_secret = \"${JWT}\"\njwt_secret_file = \"good\"",
        &["3:19: there is a \"jwt_secret\" already; only one of both can be"],
    );
    expect(
        "[realtime.auth]\njwt_secret = \"${JWT}\"\napi_keys = [{}, {id = \"a\", secret = \"b\"}]",
        &[
            "3:13: [[realtime.auth.api_keys]] needs \"id\"",
            "3:13: [[realtime.auth.api_keys]] needs \"secret\"",
            "3:37: the secret has 1 bytes; it must have at least 16",
        ],
    );
    let key = "[[realtime.auth.api_keys]]\nid = \"a\"\nsecret = \"0123456789abcdef\"\ntenant = \"\"\n";
    expect(
        &format!("realtime.auth.jwt_secret = \"${{JWT}}\"\n{key}{key}"),
        &[
            "5:10: the \"tenant\" of an API key must not be empty",
            "7:6: there is an API key \"a\" already, at line 3",
            "8:10: the API key at line 4 has the same secret",
            "9:10: the \"tenant\" of an API key must not be empty",
        ],
    );
    let key = "realtime.auth.jwt_secret = \"${JWT}\"\n[[realtime.auth.api_keys]]\nid = \"a\"\nsecret = \"0123456789abcdef\"\n";
    expect(
        &format!("{key}scopes = [\"publish\", \"read\"]\nrooms = []\nnamespaces = [\"events\"]\nrequest_burst = 5\n"),
        &[
            "5:22: \"scopes\" in [[realtime.auth.api_keys]]: \"read\" is none of publish, history, presence, rooms, connections, disconnect, membership, revoke and *",
            "6:9: \"rooms\" must name at least one; without the key every room is open",
            "7:15: \"namespaces\" in [[realtime.auth.api_keys]]: \"events\" must begin with \"/\"",
            "8:17: \"request_burst\" needs \"requests_per_second\" above 0",
        ],
    );
}

#[test]
fn stores_and_logs() {
    expect("[store]\nkind = \"embedded\"", &["2:8: the embedded store needs a \"path\", the directory for its files"]);
    expect("[store]\npath = \"\"", &["2:8: \"path\" must not be empty"]);
    expect(
        "[store]\nkind = \"memory\"\npath = \"d\"\nfsync = \"never\"",
        &[
            "3:8: a store in memory has no \"path\"; set kind = \"embedded\" to keep messages",
            "4:9: a store in memory has no \"fsync\"",
        ],
    );
    expect(
        "[store]\npath = \"d\"\nfsync_interval = \"1s\"",
        &["3:18: \"fsync_interval\" is only for fsync = \"interval\""],
    );
    expect(
        "[store]\nkind = \"embeded\"\npath = \"d\"\nfsync = \"always\"",
        &["2:8: \"kind\" in [store]: \"embeded\" must be one of \"embedded\", \"memory\"; did you mean \"embedded\"?"],
    );
    expect(
        "[store]\nttl = \"0s\"\nmax_messages_per_room = 0",
        &["2:7: \"ttl\" must be longer than 0", "3:25: \"max_messages_per_room\" must be at least 1, not 0"],
    );
    expect(
        &format!("realtime.auth.jwt_secret = \"{SECRET}\"\n[store]\nqueue_bytes = \"1KiB\""),
        &[
            "3:15: \"queue_bytes\" must be at least realtime's \"max_payload\", or the largest message could never be kept",
        ],
    );
    expect(
        "[log]\naccess = \"sdtout\"",
        &[
            "2:10: \"access\" must be \"stdout\", \"stderr\", \"off\" or a path such as \"/var/log/access.log\", not \"sdtout\"; did you mean \"stdout\"?",
        ],
    );
}

#[test]
fn nothing_to_serve() {
    assert_eq!(problems(""), ["1:1: there is nothing to serve: add a [[route]] or a [realtime] section"]);
    assert_eq!(
        problems("[realtime]\nenabled = false"),
        ["1:1: there is nothing to serve: [realtime] is switched off and there is no [[route]]",]
    );
}

#[test]
fn a_badly_broken_file_is_reported_in_one_go_and_in_order() {
    let text = include_str!("broken.toml");
    let found = problems(text);
    let expected: Vec<&str> = include_str!("broken.txt").lines().collect();
    assert_eq!(found, expected);
    let places: Vec<(usize, usize)> =
        read(text).unwrap_err().problems.iter().map(|problem| (problem.line, problem.column)).collect();
    assert!(places.is_sorted());
}
