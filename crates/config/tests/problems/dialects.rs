use super::{expect, expect_realtime};

/// A dialect with one event of the fields and the steps.
#[track_caller]
fn expect_event(payload: &str, steps: &str, expected: &[&str]) {
    expect(&format!("[dialect.a.event.go]\npayload = {payload}\ndo = {steps}"), expected);
}

#[test]
fn dialects_that_come_with_tidegate_are_right() {
    let dialects = tidegate_config::built_in_dialects().unwrap_or_else(|problems| panic!("{problems}"));
    let names: Vec<&str> = dialects.iter().map(|dialect| dialect.name()).collect();
    assert_eq!(names, ["cases", "chat"]);
}

#[test]
fn namespaces() {
    expect_realtime(
        "[[realtime.namespace]]\nname = \"/a\"\n[[realtime.namespace]]\ndialect = \"rooms\"",
        &[
            "2:1: the namespace \"/a\" needs a \"dialect\", such as \"rooms\"",
            "4:1: [[realtime.namespace]] needs a \"name\", such as \"/game\"",
        ],
    );
    expect_realtime(
        "namespace = [{ name = \"a\", dialect = \"rooms\" }, { name = \"/b\", dialect = \"case\" }, { name = \"\" }]",
        &[
            "2:23: \"a\": a namespace begins with \"/\" and holds no \",\" and no \"?\"",
            "2:74: there is no dialect \"case\"; did you mean \"cases\"?",
            "2:93: the name of a namespace must not be empty",
        ],
    );
    expect_realtime(
        "[[realtime.namespace]]\nname = \"/a\"\ndialect = \"chat\"\n[[realtime.namespace]]\nname = \"/a\"\nenabled = false",
        &["6:8: there is a namespace \"/a\" already, at line 3"],
    );
}

#[test]
fn dialects() {
    expect("[dialect.cases]", &["1:10: the dialect \"cases\" comes with Tidegate; call yours otherwise"]);
    expect("[dialect.a.codes]\ninvalid = \"\"", &["2:11: a code must not be empty: clients tell refusals apart by it"]);
    expect(
        "[dialect.a.presence]",
        &["1:1: [presence] tells nothing: give it \"join\", \"leave\" or \"update\", or leave it out"],
    );
    expect("[dialect.a.presence]\njoin = { event = \"e\" }", &["2:8: an event that is told needs \"data\""]);
    expect(
        "[dialect.a.refusal]\ndata = { code = \"{user}\" }",
        &["2:18: in the dialect \"a\": {user} is not known here; known are {now}, {now_ms}, {code}, {error}, \
         {retry_after}, {room_count}"],
    );
}

#[test]
fn fields_of_payloads() {
    expect_event("{ x = { } }", "[]", &["2:13: the field \"x\" needs a \"type\", such as \"string\""]);
    expect_event(
        "{ x = { type = \"text\" } }",
        "[]",
        &[
            "2:26: \"type\" in [dialect.a.event.go.payload.x]: \"text\" must be one of \"string\", \"uuid\", \"number\", \
         \"integer\", \"boolean\", \"any\", \"object\", \"list\"",
        ],
    );
    expect_event(
        "{ x = { type = \"uuid\", max = 3, items = { type = \"any\" } } }",
        "[]",
        &[
            "2:40: the type \"uuid\" has no \"max\": that is for strings, numbers and lists",
            "2:51: the type \"uuid\" has no \"items\": that is for lists",
        ],
    );
    expect_event(
        "{ x = { type = \"string\", pattern = \"(\" }, l = { type = \"list\" } }",
        "[]",
        &[
            "2:46: in the dialect \"a\": \"(\" is no regular expression: unclosed group",
            "2:53: a list needs \"items\", such as items = { type = \"string\" }",
        ],
    );
    expect_event(
        "{ x = { type = \"string\", min = -1, max = 1.5 }, o = { type = \"object\" } }",
        "[]",
        &[
            "2:42: \"min\" counts characters or items: it must be a whole number from 0",
            "2:52: \"max\" counts characters or items: it must be a whole number from 0",
            "2:59: an object needs \"fields\", or unknown_keys = true; for any object, take the type \"any\"",
        ],
    );
}

#[test]
fn steps() {
    let payload = "{ room = { type = \"string\" } }";
    expect_event(
        payload,
        "[{ join = \"r:{rom}\" }]",
        &[
            "3:19: in the dialect \"a\": {rom} is not known here; declare a field of the payload, or use one of {user}, \
         {username}, {tenant}, {kind}, {socket}, {now}, {now_ms}, {id}, {count}, {room}",
        ],
    );
    expect_event(
        payload,
        "[{ }, { join = \"a\", leave = \"b\" }, { join = \"a\", class = \"volatile\" }]",
        &[
            "3:7: a step needs one of \"join\", \"leave\", \"emit\" and \"presence\"",
            "3:12: a step does one thing; make it 2 steps, for join and leave",
            "3:41: \"class\" is for steps with \"emit\", not with \"join\"",
        ],
    );
    expect_event(
        payload,
        "[{ emit = \"e\", room = \"{room}\", others = true, data = [1, \"{x\"] }]",
        &[
            "3:7: in the dialect \"a\": what is replayed cannot leave out its sender: with others = true, take class = \
         \"volatile\"",
            "3:65: in the dialect \"a\": this \"{\" is never closed; a literal \"{\" is written \"{{\"",
        ],
    );
    expect_event(
        payload,
        "[{ emit = \"e\", data = { a = nan, b = 2024-01-01 } }]",
        &[
            "3:34: \"data\" in [[dialect.a.event.go.do]] holds a number that JSON does not know",
            "3:43: \"data\" in [[dialect.a.event.go.do]] must be a table, a list, a string, a number, true or false, not a \
         date",
        ],
    );
}
