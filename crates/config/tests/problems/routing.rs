//! What can be wrong with a route.

use super::{SECRET, expect};

/// Of a route to an upstream that exists, from line 3 on.
#[track_caller]
fn route(text: &str, expected: &[&str]) {
    expect(&format!("[[route]]\nupstream = \"zz\"\n{text}"), expected);
}

#[test]
fn a_route_does_one_thing() {
    route(
        "redirect = \"/x\"",
        &[
            "3:12: a route does one thing: this one has \"upstream\" and \"redirect\"; take one of both out or make it two routes",
        ],
    );
    route(
        "[route.respond]",
        &[
            "3:1: a route does one thing: this one has \"upstream\" and \"respond\"; take one of both out or make it two routes",
        ],
    );
    expect("[[route]]\nstub_status = true", &[]);
    expect(
        "[[route]]\nstub_status = false",
        &[
            "1:1: [[route]] needs something to do: an \"upstream\", a \"redirect\", [route.respond] or stub_status = true",
        ],
    );
    expect(
        "[[route]]\nredirect = \"/x\"\nredirect_status = 304",
        &["3:19: \"redirect_status\" must be 301, 302, 303, 307 or 308, not 304"],
    );
    route("redirect_status = 301", &["3:19: \"redirect_status\" has no effect without a \"redirect\""]);
    expect("[[route]]\n[route.respond]\nstatus = 199", &["3:10: \"status\" must be from 200 to 599, not 199"]);
    expect(
        "[[route]]\nstub_status = true\nread_timeout = \"1s\"",
        &["3:16: \"read_timeout\" has no effect without an \"upstream\""],
    );
    expect(
        "[[route]]\nredirect = \"https://{header.x-host}/\"",
        &[
            "2:21: \"redirect\" in [[route]]: only {host} may be part of a redirect's host: with any other variable the client would choose where it leads",
        ],
    );
}

#[test]
fn paths() {
    route("path = \"~ ^/a(\"", &["3:8: \"path\" in [[route]]: \"~ ^/a(\" is no regular expression: unclosed group"]);
    route("path = \"~ \"", &["3:8: \"path\" in [[route]]: \"~ \" has no regular expression after \"~\""]);
    route(
        "path = \"^/a\"",
        &["3:8: \"path\" in [[route]]: \"^/a\" must begin with \"/\"; for a regular expression write \"~ ^/a\""],
    );
    route("path = \"= a\"", &["3:8: \"path\" in [[route]]: \"= a\" must begin with \"/\" after \"=\""]);
    route(
        "path = \"~ ^/a\"\nstrip_prefix = true",
        &["4:16: \"strip_prefix\" needs a path that is a prefix: a regular expression says not what its prefix is"],
    );
    route(
        "path = \"= /a\"\nstrip_prefix = true",
        &["4:16: \"strip_prefix\" would leave nothing of a path that must be exact; use \"replace_prefix\""],
    );
    route(
        "path = \"/a/\"\nstrip_prefix = true\nreplace_prefix = \"/b/\"",
        &["5:18: \"strip_prefix\" and \"replace_prefix\" contradict each other; take one of both out"],
    );
    expect(
        "[[route]]\nstub_status = true\nstrip_prefix = true",
        &["3:16: \"strip_prefix\" has no effect without an \"upstream\""],
    );
}

#[test]
fn conditions() {
    route(
        "methods = [\"get\", \"A B\"]",
        &[
            "3:12: \"methods\" in [[route]]: \"get\" must be in upper case; did you mean \"GET\"?",
            "3:19: \"methods\" in [[route]]: \"A B\" is no method",
        ],
    );
    route(
        "headers = [\"x a\", \"x-a: ~ (\"]",
        &[
            "3:13: \"headers\" in [[route]]: \"x a\" cannot be the name of a header field",
            "3:25: \"headers\" in [[route]]: the regular expression \"(\" is faulty: unclosed group",
        ],
    );
    route("host = \"a\"\nhosts = [\"A\"]", &["4:10: the host \"a\" is there twice"]);
    let other = "upstream = \"zz\"\npath = \"/a\"\n";
    expect(
        &format!(
            "[[route]]\n{other}methods = [\"GET\", \"PUT\"]\n[[route]]\n{other}methods = [\"PUT\", \"GET\"]\nname = \"b\""
        ),
        &["7:8: there is a route for \"/a\" of any host already, at line 3"],
    );
    expect(
        &format!("[[route]]\n{other}hosts = [\"a\", \"b\"]\n[[route]]\n{other}hosts = [\"c\", \"b\"]"),
        &["7:8: there is a route for \"/a\" of \"b\" already, at line 3"],
    );
    // These differ.
    expect(&format!("[[route]]\n{other}[[route]]\n{other}methods = [\"GET\"]"), &[]);
    expect(&format!("[[route]]\n{other}[[route]]\n{other}headers = [\"x-beta\"]\nname = \"beta\""), &[]);
    expect(&format!("[[route]]\n{other}[[route]]\nupstream = \"zz\"\npath = \"= /a\""), &[]);
}

#[test]
fn limits() {
    let zones = "[limit.rate]\nrate = \"1r/s\"\n[limit.count]\nconnections = 1\n[[route]]\nupstream = \"zz\"\n";
    expect(&format!("{zones}limits = [\"rats\"]"), &["7:11: there is no zone \"rats\"; did you mean \"rate\"?"]);
    expect(
        &format!("{zones}[[route.limit]]\nburst = 1"),
        &["7:1: [[route.limit]] needs a \"zone\", the name of a [limit.NAME]"],
    );
    expect(
        &format!("{zones}[[route.limit]]\nzone = \"count\"\nburst = 1"),
        &["9:9: the zone \"count\" counts connections and has no \"burst\""],
    );
    expect(
        &format!("{zones}limits = [\"rate\"]\n[[route.limit]]\nzone = \"rate\"\nstatus = 600"),
        &[
            "9:8: the zone \"rate\" is named twice here; a request would count twice",
            "10:10: \"status\" must be from 400 to 599, not 600",
        ],
    );
    route(
        "access = [\"allow 10.0.0.0/8\", \"permit all\", \"deny 10.0.0.300\"]",
        &[
            "3:32: \"access\" in [[route]]: \"permit all\" is no rule; write \"allow NETWORK\", \"deny NETWORK\", or \"all\" for the network",
            "3:46: \"access\" in [[route]]: \"10.0.0.300\" is no address; write one as 192.0.2.1, 10.0.0.0/8, ::1 or 2001:db8::/32",
        ],
    );
}

#[test]
fn tokens() {
    let needs = "needs a [jwt] section with the secret of the tokens";
    route("jwt = \"required\"", &[&format!("3:7: jwt = \"required\" {needs}")]);
    expect("[defaults]\njwt = \"optional\"", &[&format!("2:7: jwt = \"optional\" {needs}")]);
    expect(&format!("[jwt]\nsecret = \"{SECRET}\"\n[[route]]\nupstream = \"zz\"\njwt = \"required\""), &[]);
}

#[test]
fn headers() {
    route(
        "[route.request_headers]\nset = [\"X-Real-IP: {clinet_ip}\", \"X-A\", \"Connection: close\"]",
        &[
            "4:20: \"set\" in [route.request_headers]: there is no variable {clinet_ip}; did you mean {client_ip}?",
            "4:38: \"set\" in [route.request_headers]: write \"Name: value\"",
            "4:42: \"set\" in [route.request_headers]: Connection cannot be changed: it belongs to one connection; upgrades are passed on without it",
        ],
    );
    route(
        "[route.request_headers]\nadd = [\"X: {upstream}\"]",
        &[
            "4:12: \"add\" in [route.request_headers]: {upstream} is known only when the upstream has answered; it may stand in response headers and logs",
        ],
    );
    route("[route.response_headers]\nadd = [\"X: {upstream}\"]", &[]);
    // Behind an escape the column is that of the value.
    route(
        "[route.response_headers]\nadd = [\"X: \\u0041{upstrem}\"]",
        &["4:8: \"add\" in [route.response_headers]: there is no variable {upstrem}; did you mean {upstream}?"],
    );
    // What a variable held is not shown.
    route(
        "[route.response_headers]\nadd = [\"X: ${LEAK} {upstrem}\"]",
        &[
            "4:8: \"add\" in [route.response_headers]: the expanded value of \"X: ${LEAK} {upstrem}\" must be a header such as \"X-Served-By: {upstream}\"",
        ],
    );
    route(
        "security_headers = false\n[route.security]\nxss = \"0\"",
        &["3:20: security_headers = false contradicts the security section beside it; take one of both out"],
    );
}

#[test]
fn cors() {
    route("[route.cors]", &["3:1: this section needs \"origins\", such as [\"https://app.example.org\"]"]);
    route(
        "[route.cors]\norigins = []",
        &["4:11: \"origins\" must name at least one, such as \"https://app.example.org\""],
    );
    route(
        "[route.cors]\norigins = [\"*\"]\ncredentials = true",
        &["5:15: \"credentials\" cannot go with the origin \"*\": every page could act as the user; name the origins"],
    );
    route(
        "[route.cors]\norigins = [\"*\", \"https://a\"]",
        &["4:12: \"*\" stands for every origin; it must be the only one"],
    );
    route(
        "[route.cors]\norigins = [\"a.example\"]",
        &["4:12: \"origins\" in [route.cors]: \"a.example\" must begin with \"https://\" or \"http://\", or be \"*\""],
    );
}

#[test]
fn streams() {
    route(
        "[route.websocket]\nmessages_per_second = 5",
        &["4:23: \"messages_per_second\" needs messages that are looked at: set inspect = \"meter\""],
    );
    route(
        "[route.websocket]\ninspect = \"meter\"\nmessage_burst = 5\nkey = \"{client_ip}\"",
        &[
            "5:17: \"message_burst\" has no effect without \"messages_per_second\"",
            "6:7: \"key\" has no effect without \"messages_per_second\" or \"bytes_per_second\"",
        ],
    );
    route("[route.websocket]\nidle_timeout = \"0s\"", &["4:16: \"idle_timeout\" must be longer than 0"]);
    route("[route.websocket]\nidle_timeout = \"\"", &[]);
}
