use std::borrow::Cow;

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

#[test]
fn an_event_comes_apart_into_its_name_and_its_raw_arguments() {
    assert_eq!(event_parts(r#"["a"]"#), Ok(("a".into(), "")));
    assert_eq!(event_parts(r#"[ "a" , {"b": 1} , [2] ] "#), Ok(("a".into(), r#"{"b": 1} , [2]"#)));
    assert_eq!(event_parts(r#"[7,1]"#), Ok(("7".into(), "1")));
    assert_eq!(event_parts(r#"["\u0061\n",1]"#), Ok(("a\n".into(), "1")));
    assert_eq!(event_parts(r#"["\ud800",1]"#), Err(Error::InvalidPayload));
    for bad in ["", "[", "[]", "{}", r#"["a""#, r#"["a",]"#, r#"["a" 1]"#, "[null]"] {
        assert_eq!(event_parts(bad), Err(Error::InvalidPayload), "{bad}");
    }
}

#[test]
fn a_name_without_escapes_is_borrowed() {
    assert!(matches!(event_parts(r#"["room:send",1]"#), Ok((Cow::Borrowed("room:send"), "1"))));
}

#[test]
fn arguments_are_listed_from_an_array_and_from_a_bare_list() {
    let expected = ["1", r#""a,]""#, r#"{"b":[2]}"#];
    assert_eq!(args(r#"[1, "a,]", {"b":[2]}]"#).collect::<Vec<_>>(), expected);
    assert_eq!(values(r#"1, "a,]" ,{"b":[2]}"#).collect::<Vec<_>>(), expected);
    assert_eq!(values("[1]").collect::<Vec<_>>(), ["[1]"]);
    assert_eq!(values("[1],[2]").collect::<Vec<_>>(), ["[1]", "[2]"]);
    assert_eq!(args("[[1],[2]]").collect::<Vec<_>>(), ["[1]", "[2]"]);
    assert_eq!(args("[]").count() + args("").count() + args("1").count() + values("").count(), 0);
}

#[test]
fn more_attachments_can_be_allowed() {
    assert_eq!(decode(r#"511-["a"]"#), Err(Error::TooManyAttachments));
    assert_eq!(decode_with(r#"511-["a"]"#, 11).map(|header| header.attachments), Ok(11));
    assert_eq!(decode_with(r#"51-["a"]"#, 0), Err(Error::TooManyAttachments));
}

#[test]
fn deep_nesting_is_refused_and_does_not_exhaust_the_stack() {
    let deep = format!("2[\"a\",{}{}]", "[".repeat(500_000), "]".repeat(500_000));
    assert_eq!(decode(&deep), Err(Error::InvalidPayload));
    let deep = format!("{}{}", r#"{"_placeholder":"#.repeat(500_000), "}".repeat(500_000));
    assert_eq!(check_placeholders(&deep, 1), Err(Error::InvalidPayload));
}

#[test]
fn what_a_decoded_event_nests_serde_can_read() {
    let nested = format!("[\"a\",{}{}]", "[".repeat(126), "]".repeat(126));
    assert!(decode(&format!("2{nested}")).is_ok());
    assert!(serde_json::from_str::<Value>(&nested).is_ok());
}

#[test]
fn attachments_are_inlined_where_their_placeholders_stand() {
    let json = r#"{"a":{"num":1,"_placeholder":true},"b":[{"_placeholder":true,"num":0}, 1]}"#;
    let inlined = inline_attachments(json, &[Bytes::from_static(b"abc"), Bytes::from_static(b"")]);
    assert_eq!(inlined, r#"{"a":{"base64":""},"b":[{"base64":"YWJj"}, 1]}"#);
    let list = r#"1,{"_placeholder":true,"num":0}"#;
    assert_eq!(inline_attachments(list, &[Bytes::from_static(b"abc")]), r#"1,{"base64":"YWJj"}"#);
}

#[test]
fn an_attachment_is_inlined_once_so_that_a_small_message_cannot_be_blown_up() {
    let one = r#"{"_placeholder":true,"num":0}"#;
    let json = format!("[{}]", [one; 1_000].join(","));
    let inlined = inline_attachments(&json, &[Bytes::from(vec![0; 3_000])]);
    assert!(inlined.len() < json.len() + 5_000);
    assert!(serde_json::from_str::<Value>(&inlined).is_ok());
}

#[test]
fn what_stands_in_a_placeholder_goes_with_it() {
    let json = r#"[{"_placeholder":true,"num":0,"x":{"_placeholder":true,"num":1}},{"_placeholder":true,"num":1}]"#;
    let attachments = [Bytes::from_static(b"a"), Bytes::from_static(b"b")];
    assert_eq!(inline_attachments(json, &attachments), r#"[{"base64":"YQ=="},{"base64":"Yg=="}]"#);
}

#[test]
fn placeholders_are_renumbered_for_a_packet_of_several_messages() {
    let json = r#"{"a":{"_placeholder":true,"num":1},"b":{"_placeholder":true,"num":0},"num":5}"#;
    let renumbered = renumber_placeholders(json, 3);
    assert_eq!(renumbered, r#"{"a":{"_placeholder":true,"num":4},"b":{"_placeholder":true,"num":3},"num":5}"#);
    assert_eq!(check_placeholders(&renumbered, 5), Ok(()));
    assert_eq!(renumber_placeholders("[1]", 3), "[1]");
}

#[test]
fn a_false_placeholder_is_defused_and_nothing_else_is_touched() {
    let json = r#"{"a":{"_placeholder": true,"num":9,"b":{"\u005fplaceholder":true}},"c":"_placeholder"}"#;
    let defused = r#"{"a":{"_placeholder": "true","num":9,"b":{"\u005fplaceholder":"true"}},"c":"_placeholder"}"#;
    assert_eq!(defuse_placeholders(json), defused);
    assert!(matches!(defuse_placeholders(r#"{"a":true}"#), Cow::Borrowed(_)));
}

#[test]
fn more_attachments_than_a_machine_word_has_bits_are_told_apart() {
    let items: Vec<_> = (0..200).map(|num| format!(r#"{{"_placeholder":true,"num":{num}}}"#)).collect();
    let json = format!("[{}]", items.join(","));
    assert_eq!(check_placeholders(&json, 200), Ok(()));
    assert_eq!(check_placeholders(&json, 199), Err(Error::IllegalAttachments));
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        (0u8..4).prop_map(|num| json!({ "_placeholder": true, "num": num })),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("_placeholder|num|a|\"|\\PC{0,3}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// The numbers of all placeholders, found the slow way.
fn numbers(value: &Value, found: &mut Vec<Option<u64>>) {
    match value {
        Value::Object(map) => {
            if map.get("_placeholder") == Some(&Value::Bool(true)) {
                found.push(map.get("num").and_then(Value::as_u64));
            }
            map.values().for_each(|value| numbers(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| numbers(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

proptest! {
    #[test]
    fn an_encoded_event_is_decoded_to_itself(
        namespace in "/|/[a-z/]{1,8}",
        ack_id in any::<Option<u64>>(),
        name in any::<String>(),
        items in prop::collection::vec(any_json(), 0..4),
        trailing in any::<Option<String>>(),
        attachments in 0usize..4,
    ) {
        prop_assume!(!RESERVED.contains(&name.as_str()));
        let list = items.iter().map(Value::to_string).collect::<Vec<_>>().join(",");
        let mut out = Vec::new();
        if attachments == 0 {
            event(&mut out, &namespace, ack_id, &name, &list, trailing.as_deref());
        } else {
            binary_event(&mut out, attachments, &namespace, ack_id, &name, &list, trailing.as_deref());
        }
        let text = String::from_utf8(out).unwrap();
        let header = decode(&text).unwrap();
        prop_assert_eq!(header.kind, if attachments == 0 { Kind::Event } else { Kind::BinaryEvent });
        prop_assert_eq!((header.namespace, header.ack_id), (namespace.as_str(), ack_id));
        prop_assert_eq!(header.attachments as usize, attachments);
        let (own, rest) = event_parts(header.payload).unwrap();
        prop_assert_eq!(own, name);
        let read: Vec<Value> = values(rest).map(|item| serde_json::from_str(item).unwrap()).collect();
        let expected: Vec<Value> = items.into_iter().chain(trailing.map(Value::from)).collect();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn an_encoded_ack_is_decoded_to_itself(id in any::<u64>(), items in prop::collection::vec(any_json(), 0..4)) {
        let list = items.iter().map(Value::to_string).collect::<Vec<_>>().join(",");
        let mut out = Vec::new();
        binary_ack(&mut out, 3, "/a", id, &list);
        let text = String::from_utf8(out).unwrap();
        let header = decode(&text).unwrap();
        prop_assert_eq!((header.kind, header.ack_id, header.attachments), (Kind::BinaryAck, Some(id), 3));
        prop_assert_eq!(args(header.payload).count(), items.len());
    }

    #[test]
    fn placeholders_are_found_as_in_a_tree(value in any_json(), attachments in 0usize..5) {
        let json = value.to_string();
        let mut found = Vec::new();
        numbers(&value, &mut found);
        let mut seen = std::collections::HashSet::new();
        let legal = found.iter().all(|num| num.is_some_and(|num| num < attachments as u64 && seen.insert(num)));
        prop_assert_eq!(check_placeholders(&json, attachments).is_ok(), legal, "{}", json);
        let defused = defuse_placeholders(&json);
        prop_assert_eq!(check_placeholders(&defused, 0), Ok(()));
        prop_assert!(serde_json::from_str::<Value>(&defused).is_ok());
        let bytes = vec![Bytes::from_static(b"x"); attachments];
        prop_assert!(serde_json::from_str::<Value>(&inline_attachments(&json, &bytes)).is_ok());
        if legal {
            prop_assert_eq!(check_placeholders(&renumber_placeholders(&json, 7), attachments + 7), Ok(()));
        }
    }

    #[test]
    fn no_text_makes_the_decoder_panic(
        text in prop_oneof![
            any::<String>(),
            r#"[0-6]{1,2}[-,/a\[\]{}":0-9\\u_ ]{0,24}"#,
            r#"[25](1-)?(/a,)?[0-9]{0,2}\["a"[,\[\]{}":0-9]{0,12}\]"#,
        ],
        attachments in 0usize..3,
    ) {
        if let Ok(header) = decode(&text) {
            prop_assert!(header.payload.is_empty() || serde_json::from_str::<Value>(header.payload).is_ok());
            let shaped = matches!(header.kind, Kind::Event | Kind::BinaryEvent);
            prop_assert_eq!(shaped && event_parts(header.payload).is_err(), false);
        }
        let _ = event_parts(&text);
        let _ = args(&text).count() + values(&text).count();
        let _ = check_placeholders(&text, attachments);
        let _ = defuse_placeholders(&text);
        let _ = renumber_placeholders(&text, attachments);
        let _ = inline_attachments(&text, &vec![Bytes::from_static(b"x"); attachments]);
    }
}
