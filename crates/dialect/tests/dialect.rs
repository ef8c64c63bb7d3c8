//! What a dialect reads and renders.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use proptest::prelude::*;
use serde_json::{Value, json};
use tidegate_dialect::{
    Act, Definition, Dialect, EventDefinition, Facts, FieldDefinition, FieldKind, JsonDefinition, Placed, Reason,
    Refusal, Shape, Step, StepDefinition,
};
use tidegate_types::Class;

fn placed(text: &str) -> Placed<String> {
    Placed::new(text.to_owned(), 0)
}

fn text() -> FieldKind {
    FieldKind::Text { min: None, max: None, pattern: None, one_of: Vec::new() }
}

fn emit(room: Option<&str>, data: JsonDefinition) -> StepDefinition {
    let act = Act::Emit {
        event: placed("out"),
        room: room.map(placed),
        others: false,
        members_only: true,
        data: Some(data),
        class: Class::Recoverable,
        nonce: None,
        nonce_window_ms: 10_000,
    };
    StepDefinition::new(act, 0)
}

/// A dialect with one event of these fields, which sends this data.
fn dialect(fields: Vec<FieldDefinition>, data: JsonDefinition) -> Dialect {
    let mut definition = Definition::new("test");
    let mut event = EventDefinition::new("in");
    event.payload = Some(fields);
    event.steps = vec![emit(Some("r"), data)];
    definition.events.push(event);
    Dialect::new(definition).unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn rendered(dialect: &Dialect, args: &str) -> Result<String, Refusal> {
    let event = dialect.event("in").unwrap();
    let (payload, refusal) = dialect.read(event, args, 0);
    if let Some(refusal) = refusal {
        return Err(refusal);
    }
    let facts = Facts {
        user: "ada",
        tenant: "t",
        kind: "user",
        socket: "s1",
        now: 1_767_225_599_999,
        id: "m1",
        count: Some(3),
        payload: Some(&payload),
        ..Facts::default()
    };
    let Step::Emit(emit) = &event.steps()[0] else { panic!() };
    Ok(emit.data.as_ref().unwrap().text(&facts))
}

fn reads(fields: Vec<FieldDefinition>, args: &str) -> Result<(), (String, String)> {
    let dialect = dialect(fields, JsonDefinition::Plain("1".into()));
    let refused = |refusal: Refusal| (refusal.code.to_string(), refusal.message.into_owned());
    rendered(&dialect, args).map(|_| ()).map_err(refused)
}

fn optional(mut field: FieldDefinition) -> FieldDefinition {
    field.required = false;
    field
}

#[test]
fn a_text_that_is_one_placeholder_keeps_the_values_type() {
    let fields = vec![FieldDefinition::new("a", FieldKind::Any)];
    let dialect = dialect(fields, JsonDefinition::object([("raw", "{a}"), ("text", "<{a}>"), ("brace", "{{a}")]));
    assert_eq!(rendered(&dialect, r#"{"a":[1, {"b":"c"}]}"#).unwrap(), {
        r#"{"raw":[1, {"b":"c"}],"text":"<[1, {\"b\":\"c\"}]>","brace":"{a}"}"#
    });
    assert_eq!(rendered(&dialect, r#"{"a":"x\"y"}"#).unwrap(), r#"{"raw":"x\"y","text":"<x\"y>","brace":"{a}"}"#);
    assert_eq!(rendered(&dialect, r#"{"a":1.50}"#).unwrap(), r#"{"raw":1.50,"text":"<1.50>","brace":"{a}"}"#);
}

#[test]
fn what_the_server_knows_is_there_with_its_type() {
    let data = JsonDefinition::object([
        ("user", "{user}"),
        ("name", "{username}"),
        ("now", "{now}"),
        ("ms", "{now_ms}"),
        ("count", "{count}"),
        ("id", "{id}"),
        ("all", "{kind} {socket} {tenant}"),
    ]);
    assert_eq!(
        rendered(&dialect(Vec::new(), data), "").unwrap(),
        r#"{"user":"ada","now":"2025-12-31T23:59:59.999Z","ms":1767225599999,"count":3,"id":"m1","all":"user s1 t"}"#,
        "a name that is not known is left out"
    );
}

#[test]
fn a_payload_does_not_stand_in_for_its_sender() {
    let fields = vec![FieldDefinition::new("user", text())];
    let dialect = dialect(fields, JsonDefinition::object([("from", "{user}"), ("said", "{payload.user}")]));
    assert_eq!(rendered(&dialect, r#"{"user":"eve"}"#).unwrap(), r#"{"from":"ada","said":"eve"}"#);
}

#[test]
fn a_missing_value_leaves_out_its_member_and_nulls_its_item() {
    let fields = vec![optional(FieldDefinition::new("a", text())), optional(FieldDefinition::new("b", text()))];
    let list = JsonDefinition::List(vec![JsonDefinition::text("{a}"), JsonDefinition::text("-{a}")]);
    let data = JsonDefinition::Object(vec![
        ("a".into(), JsonDefinition::text("{a}")),
        ("b".into(), JsonDefinition::text("{b}")),
        ("list".into(), list),
    ]);
    let dialect = dialect(fields, data);
    assert_eq!(rendered(&dialect, r#"{"b":"x","a":null}"#).unwrap(), r#"{"b":"x","list":[null,"-"]}"#);
    assert_eq!(rendered(&dialect, r#"{"a":"y"}"#).unwrap(), r#"{"a":"y","list":["y","-y"]}"#);
    assert_eq!(rendered(&dialect, "").unwrap(), r#"{"list":[null,"-"]}"#);
}

#[test]
fn nested_fields_have_dotted_names() {
    let inner = FieldKind::Object { fields: vec![FieldDefinition::new("id", FieldKind::Uuid)], unknown_keys: false };
    let dialect = dialect(vec![FieldDefinition::new("case", inner)], JsonDefinition::text("{case.id}"));
    let id = "6BA7B810-9dad-41d1-80b4-00c04fd430c8";
    assert_eq!(rendered(&dialect, &json!({ "case": { "id": id } }).to_string()).unwrap(), format!("\"{id}\""));
}

fn wrong(fields: Vec<FieldDefinition>, args: &str) -> String {
    let (code, message) = reads(fields, args).expect_err(args);
    assert_eq!(code, "INVALID_INPUT", "{message}");
    message
}

#[test]
fn a_payload_is_as_declared_or_refused() {
    let one = |kind: FieldKind| vec![FieldDefinition::new("a", kind)];
    let sized = || FieldKind::Text {
        min: Some(2),
        max: Some(3),
        pattern: Some(placed("^[a-zé]+$")),
        one_of: vec!["ab".into(), "éé".into()],
    };
    assert_eq!(reads(one(sized()), r#"{"a":"\u00e9é"}"#), Ok(()));
    assert_eq!(wrong(one(sized()), r#"{"a":"a"}"#), "a must have at least 2 characters");
    assert_eq!(wrong(one(sized()), r#"{"a":"abcd"}"#), "a must have at most 3 characters");
    assert_eq!(wrong(one(sized()), r#"{"a":"A1"}"#), "a has not the form that is wanted");
    assert_eq!(wrong(one(sized()), r#"{"a":"ba"}"#), "a must be one of ab, éé");
    for other in ["1", "true", "[]", "{}", r#""\ud800""#] {
        assert_eq!(wrong(one(text()), &format!(r#"{{"a":{other}}}"#)), "a must be a string");
    }
    for missing in ["", "null", "{}", r#"{"a":null}"#] {
        assert_eq!(wrong(one(text()), missing), "a is required");
    }
    for other in ["1", "\"a\"", "[{}]", "true"] {
        assert_eq!(wrong(one(text()), other), "the payload must be an object");
    }
    assert_eq!(wrong(one(text()), r#"{"a":"x","b":1}"#), "the field \"b\" is not known");
    assert_eq!(wrong(one(text()), r#"{"a":"x","\u0061":"y"}"#), "a is there twice");

    assert_eq!(reads(one(FieldKind::Uuid), r#"{"a":"6ba7b810-9dad-41d1-80b4-00c04fd430c8"}"#), Ok(()));
    for other in [
        r#""6ba7b810-9dad-11d1-80b4-00c04fd430c8""#,
        r#""6ba7b810-9dad-41d1-c0b4-00c04fd430c8""#,
        r#""6ba7b8109dad41d180b400c04fd430c8""#,
        r#""6ba7b810-9dad-41d1-80b4-00c04fd430cg""#,
        "\"\"",
        "7",
    ] {
        assert_eq!(wrong(one(FieldKind::Uuid), &format!(r#"{{"a":{other}}}"#)), "a must be a UUID of version 4");
    }

    let number = |whole| FieldKind::Number { min: Some(-1.0), max: Some(10.0), whole };
    for right in ["-1", "0", "5.0", "1e1"] {
        assert_eq!(reads(one(number(true)), &format!(r#"{{"a":{right}}}"#)), Ok(()));
    }
    assert_eq!(reads(one(number(false)), r#"{"a":0.5}"#), Ok(()));
    assert_eq!(wrong(one(number(true)), r#"{"a":0.5}"#), "a must be a whole number");
    assert_eq!(wrong(one(number(false)), r#"{"a":"1"}"#), "a must be a number");
    assert_eq!(wrong(one(number(false)), r#"{"a":1e999}"#), "a must be a number");
    assert_eq!(wrong(one(number(false)), r#"{"a":-2}"#), "a must be at least -1");
    assert_eq!(wrong(one(number(false)), r#"{"a":11}"#), "a must be at most 10");

    assert_eq!(reads(one(FieldKind::Boolean), r#"{"a":false}"#), Ok(()));
    assert_eq!(wrong(one(FieldKind::Boolean), r#"{"a":"true"}"#), "a must be true or false");

    let list = || FieldKind::List {
        items: Box::new(FieldDefinition::new("an item of a", text())),
        min: Some(1),
        max: Some(2),
    };
    assert_eq!(reads(one(list()), r#"{"a":["x","y"]}"#), Ok(()));
    assert_eq!(wrong(one(list()), r#"{"a":[]}"#), "a must have at least 1 items");
    assert_eq!(wrong(one(list()), r#"{"a":["x","y","z"]}"#), "a must have at most 2 items");
    assert_eq!(wrong(one(list()), r#"{"a":["x",1]}"#), "an item of a must be a string");
    assert_eq!(wrong(one(list()), r#"{"a":{"0":"x"}}"#), "a must be a list");
}

#[test]
fn a_field_may_have_a_code_of_its_own_and_a_size() {
    let mut field = FieldDefinition::new("a", FieldKind::Any);
    field.not_empty = true;
    field.max_bytes = Some(6);
    field.code = Some("INVALID_MESSAGE".into());
    let read = |args: &str| reads(vec![field.clone()], args).map_err(|(code, _)| code);
    assert_eq!(read(r#"{"a":"1234"}"#), Ok(()));
    assert_eq!(read(r#"{"a":"12345"}"#), Err("MESSAGE_TOO_LARGE".into()));
    for empty in [r#""""#, "[]", "{}", "null"] {
        assert_eq!(read(&format!(r#"{{"a":{empty}}}"#)), Err("INVALID_MESSAGE".into()));
    }
    assert_eq!(read(r#"{"b":1}"#), Err("INVALID_INPUT".into()), "it is not about that field");
}

#[test]
fn attachments_count_where_they_are_referred_to() {
    let mut field = FieldDefinition::new("a", FieldKind::Any);
    field.max_bytes = Some(40);
    let dialect = dialect(vec![field], JsonDefinition::Plain("1".into()));
    let event = dialect.event("in").unwrap();
    let args = r#"{"a":{"_placeholder":true,"num":0}}"#;
    assert!(dialect.read(event, args, 5).1.is_none());
    assert_eq!(dialect.read(event, args, 50).1.unwrap().reason, Reason::TooLarge);
    assert!(dialect.read(event, r#"{"a":1}"#, 50).1.is_none());
}

#[test]
fn the_namespace_has_a_largest_message_too() {
    let mut definition = Definition::new("test");
    definition.limits.message_bytes = Some(10);
    definition.events.push(EventDefinition::new("in"));
    let dialect = Dialect::new(definition).unwrap();
    let event = dialect.event("in").unwrap();
    assert!(dialect.read(event, "1234567890", 0).1.is_none());
    assert_eq!(dialect.read(event, "1234567890", 1).1.unwrap().reason, Reason::TooLarge);
}

#[test]
fn a_refusal_answers_with_what_could_be_read() {
    let mut definition = Definition::new("test");
    let mut event = EventDefinition::new("in");
    event.payload = Some(vec![FieldDefinition::new("a", text()), FieldDefinition::new("nonce", text())]);
    event.refused = Some(Shape {
        event: placed("in:error"),
        data: JsonDefinition::object([("code", "{code}"), ("nonce", "{nonce}"), ("retryAfter", "{retry_after}")]),
    });
    definition.events.push(event);
    let dialect = Dialect::new(definition).unwrap();
    let event = dialect.event("in").unwrap();
    let (payload, refusal) = dialect.read(event, r#"{"a":1,"nonce":"n"}"#, 0);
    let refusal = refusal.unwrap();
    let facts = Facts { payload: Some(&payload), refusal: Some(&refusal), ..Facts::default() };
    let (name, data) = dialect.refusal_event(Some(event), &facts).unwrap();
    assert_eq!((name.as_str(), &*data), ("in:error", r#"{"code":"INVALID_INPUT","nonce":"n"}"#));
    assert_eq!(dialect.refusal_ack(Some(event), &facts), r#"{"success":false,"error":"a must be a string"}"#);
    let refusal = Refusal { retry_after_s: Some(2), ..refusal };
    let facts = Facts { refusal: Some(&refusal), ..Facts::default() };
    let (name, data) = dialect.refusal_event(None, &facts).unwrap();
    let expected = r#"{"code":"INVALID_INPUT","message":"a must be a string","retryAfter":2}"#;
    assert_eq!((name.as_str(), &*data), ("error", expected));
}

#[test]
fn a_hundred_thousand_keys_and_deep_json_are_refused() {
    let keys: Vec<String> = (0..100_000).map(|key| format!("\"k{key}\":1")).collect();
    let many = format!("{{{}}}", keys.join(","));
    let any = vec![FieldDefinition::new("a", FieldKind::Any)];
    assert_eq!(wrong(any.clone(), &many), "the field \"k0\" is not known");
    let mut definition = Definition::new("test");
    let mut event = EventDefinition::new("in");
    event.payload = Some(vec![optional(FieldDefinition::new("a", FieldKind::Any))]);
    event.unknown_keys = true;
    definition.events.push(event);
    let dialect = Dialect::new(definition).unwrap();
    assert!(dialect.read(dialect.event("in").unwrap(), &many, 0).1.is_none(), "or passed over, where that is allowed");
    let deep = format!(r#"{{"a":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(reads(any, &deep).is_err());
}

fn problems(change: impl FnOnce(&mut Definition)) -> Vec<String> {
    let mut definition = Definition::new("test");
    change(&mut definition);
    let problems = Dialect::new(definition).map(|_| ()).expect_err("it is wrong");
    problems.into_iter().map(|problem| problem.message).collect()
}

fn with_step(act: Act) -> Vec<String> {
    problems(|definition| {
        let mut event = EventDefinition::new("in");
        event.payload = Some(vec![FieldDefinition::new("room", text())]);
        event.steps.push(StepDefinition::new(act, 0));
        definition.events.push(event);
    })
}

#[test]
fn all_that_is_wrong_with_a_definition_is_told() {
    assert_eq!(
        with_step(Act::Join { room: placed("a:{rom}") }),
        [
            "{rom} is not known here; declare a field of the payload, or use one of {user}, {username}, {tenant}, {kind}, \
         {socket}, {now}, {now_ms}, {id}, {count}, {room}"
        ]
    );
    assert_eq!(
        with_step(Act::Join { room: placed("a{room") }),
        ["this \"{\" is never closed; a literal \"{\" is written \"{{\""]
    );
    assert_eq!(
        with_step(Act::Join { room: placed("{now}") }),
        ["{now} is another each time; a room needs a name that stays"]
    );
    assert_eq!(with_step(Act::Leave { room: placed("") }), ["the name of a room must not be empty"]);
    assert_eq!(
        with_step(Act::Presence {
            status: placed("gone"),
            metadata: None,
            current_activity: None,
            custom_status: None,
        }),
        ["\"gone\": a status must be one of online, away, busy, offline"]
    );
    let out = |event: &str, room: Option<&str>, others, class, data: &str| Act::Emit {
        event: placed(event),
        room: room.map(placed),
        others,
        members_only: true,
        data: Some(JsonDefinition::text(data)),
        class,
        nonce: None,
        nonce_window_ms: 10_000,
    };
    assert_eq!(
        with_step(out("connect", Some("r"), true, Class::Recoverable, "{count}")),
        [
            "what is replayed cannot leave out its sender: with others = true, take class = \"volatile\"",
            "\"connect\" is an event of Socket.IO itself; take another name",
        ]
    );
    assert_eq!(
        with_step(out("", None, false, Class::Volatile, "{count}")),
        ["{count} is that of a room: name the \"room\" to send to", "the name of an event must not be empty",]
    );
    assert_eq!(
        problems(|definition| {
            let mut event = EventDefinition::new("in");
            let pattern = Some(placed("(a"));
            let kind = FieldKind::Text { min: Some(3), max: Some(2), pattern, one_of: Vec::new() };
            event.payload = Some(vec![FieldDefinition::new("a.b", kind)]);
            event.ack = Some(JsonDefinition::text("{count}"));
            definition.events.push(event);
            definition.private.push(placed(""));
            definition.disconnect.push(StepDefinition::new(Act::Join { room: placed("a") }, 0));
            definition.connect.push(emit(None, JsonDefinition::text("{code}")));
        }),
        [
            "the field \"a.b\" must not have \"{\", \"}\" or \".\" in its name",
            "\"min\" 3 is above \"max\" 2: no value would do",
            "\"(a\" is no regular expression: unclosed group",
            "the ack asks for {count}, but no step names a room whose it would be",
            "\"private\" names beginnings of rooms; an empty one would be all rooms",
            "{code} is not known here; known are {user}, {username}, {tenant}, {kind}, {socket}, {now}, {now_ms}, \
             {id}, {count}",
            "on disconnect only \"emit\" makes sense: the socket leaves all its rooms",
        ]
    );
}

#[test]
fn no_payload_names_a_private_room() {
    let mut definition = Definition::new("test");
    definition.private.push(placed("user:"));
    let mut event = EventDefinition::new("in");
    event.payload = Some(vec![FieldDefinition::new("room", text())]);
    let templates = ["{room}", "u{room}", "case:{room}", "user:{user}", "user:{room}"];
    event.steps = templates.map(|room| StepDefinition::new(Act::Join { room: placed(room) }, 0)).into();
    definition.events.push(event);
    let dialect = Dialect::new(definition).unwrap();
    let event = dialect.event("in").unwrap();
    let rooms = |args: &str| -> Vec<Option<String>> {
        let (payload, refusal) = dialect.read(event, args, 0);
        assert_eq!(refusal, None);
        let facts = Facts { user: "ada", payload: Some(&payload), ..Facts::default() };
        let rooms = event.steps().iter().map(|step| match step {
            Step::Join(room) => dialect.room(room, &facts),
            Step::Leave(_) | Step::Emit(_) | Step::Presence(_) => panic!(),
        });
        rooms.collect()
    };
    let some = |room: &str| Some(room.to_owned());
    assert_eq!(
        rooms(r#"{"room":"user:eve"}"#),
        [
            None,
            some("uuser:eve"),
            some("case:user:eve"),
            some("user:ada"),
            // Whoever declares this means it.
            some("user:user:eve"),
        ]
    );
    assert_eq!(rooms(r#"{"room":"ser:eve"}"#)[..2], [some("ser:eve"), None]);
    assert_eq!(rooms(r#"{"room":"users"}"#)[0], some("users"));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        Just(Value::from(r#""},{"user":"eve"#)),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(any::<String>(), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_rendered_is_json_with_the_payloads_values_in_their_places(value in any_json(), tail in any::<String>()) {
        let fields = vec![optional(FieldDefinition::new("a", FieldKind::Any)), FieldDefinition::new("b", text())];
        let data = JsonDefinition::object([("user", "{user}"), ("a", "{a}"), ("b", "{b}"), ("both", "[{b}|{a}]")]);
        let args = json!({ "a": value, "b": tail }).to_string();
        let out = rendered(&dialect(fields, data), &args).unwrap();
        let read: Value = serde_json::from_str(&out).unwrap();
        let said = match &value {
            Value::String(text) => text.clone(),
            Value::Null => String::new(),
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
        };
        let mut expected = json!({ "user": "ada", "a": value, "b": tail, "both": format!("[{tail}|{said}]") });
        if value.is_null() {
            expected.as_object_mut().unwrap().remove("a");
        }
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn no_payload_makes_the_reader_panic(args in prop_oneof![any::<String>(), r#"[\{\}\[\]",:a-b0-9n\\u ]{0,32}"#]) {
        let fields = vec![
            optional(FieldDefinition::new("a", FieldKind::Any)),
            optional(FieldDefinition::new("b", FieldKind::Uuid)),
        ];
        let dialect = dialect(fields, JsonDefinition::object([("a", "{a}"), ("text", "{a}{b}")]));
        if let Ok(out) = rendered(&dialect, &args) {
            // A lone surrogate is JSON, and no Rust string.
            prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&out).is_ok(), "{} {}", args, out);
        }
    }
}
