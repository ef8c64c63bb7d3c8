//! Dialects and namespaces as they would stand in a file.

use std::fmt::{self, Display};

use tidegate_dialect::{
    Act, ConnectRefused, Definition, EventDefinition, FieldDefinition, FieldKind, JsonDefinition, Reason, Shape,
    StepDefinition,
};
use tidegate_types::Class;

use super::{File, name, quoted};
use crate::check::namespaces_by_themselves;
use crate::{Realtime, RealtimeNamespace};

impl File {
    pub(super) fn namespaces(&mut self, realtime: &Realtime) {
        for RealtimeNamespace { name, behaviour, needs_token } in &realtime.namespaces {
            self.section("[[realtime.namespace]]");
            self.text("name", name);
            self.text("dialect", behaviour.name());
            self.text("auth", if *needs_token { "required" } else { "optional" });
        }
        for own in namespaces_by_themselves() {
            if realtime.namespaces.iter().all(|served| served.name.as_str() != own) {
                self.section("[[realtime.namespace]]");
                self.text("name", own);
                self.key("enabled", false);
            }
        }
    }

    pub(super) fn dialect(&mut self, definition: &Definition) {
        let Definition { name: own, private, token_in_query, codes, limits, refusal, .. } = definition;
        let Definition { connect, disconnect, presence, events, .. } = definition;
        let header = format!("dialect.{}", name(own));
        self.section(format!("[{header}]"));
        let private: Vec<&String> = private.iter().map(|beginning| &beginning.value).collect();
        self.texts("private", &private);
        self.key("token_in_query", token_in_query);
        self.section(format!("[{header}.codes]"));
        for reason in Reason::ALL {
            self.text(reason.key(), codes.of(*reason));
        }
        self.section(format!("[{header}.limits]"));
        self.key("connections", limits.connections.unwrap_or(0));
        self.key("connections_per_user", limits.connections_per_user.unwrap_or(0));
        self.key("rooms_per_user", limits.rooms_per_user.unwrap_or(0));
        self.key("events_per_minute", limits.events_per_minute.unwrap_or(0));
        self.key("message_bytes", limits.message_bytes.unwrap_or(0));
        self.section(format!("[{header}.refusal]"));
        self.optional("event", refusal.event.as_ref().map(|event| &event.value));
        self.key("data", json(&refusal.data));
        self.key("ack", json(&refusal.ack));
        self.text(
            "connect",
            match refusal.connect {
                ConnectRefused::ConnectError => "connect_error",
                ConnectRefused::Event => "event",
            },
        );
        for (moment, steps) in [("connect", connect), ("disconnect", disconnect)] {
            self.section(format!("[{header}.{moment}]"));
            self.key("do", list(steps, step));
        }
        if presence.join.is_some() || presence.leave.is_some() || presence.update.is_some() {
            self.section(format!("[{header}.presence]"));
            self.text("rooms", &presence.rooms);
            for (key, told) in [("join", &presence.join), ("leave", &presence.leave), ("update", &presence.update)] {
                if let Some(told) = told {
                    self.key(key, shape(told));
                }
            }
        }
        for EventDefinition { name: event, payload, unknown_keys, kinds, steps, ack, refused_ack, refused } in events {
            self.section(format!("[{header}.event.{}]", name(&event.value)));
            if let Some(payload) = payload {
                self.key("payload", fields(payload));
            }
            self.key("unknown_keys", unknown_keys);
            self.texts("kinds", kinds);
            self.key("do", list(steps, step));
            for (key, given) in [("ack", ack), ("refused_ack", refused_ack)] {
                if let Some(given) = given {
                    self.key(key, json(given));
                }
            }
            if let Some(refused) = refused {
                self.key("refused", shape(refused));
            }
        }
    }
}

/// A value as it stands in a file. Not TOML's own type: that sorts keys, and here their order is part of the meaning.
struct Written(String);

impl Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn text(text: &str) -> Written {
    Written(quoted(text))
}

fn plain(value: impl Display) -> Written {
    Written(value.to_string())
}

fn list<T>(items: &[T], written: impl Fn(&T) -> Written) -> Written {
    let items: Vec<String> = items.iter().map(|item| written(item).0).collect();
    Written(format!("[{}]", items.join(", ")))
}

fn table<'a>(pairs: impl IntoIterator<Item = (&'a str, Option<Written>)>) -> Written {
    let pairs = pairs.into_iter().filter_map(|(key, value)| Some(format!("{} = {}", name(key), value?)));
    Written(format!("{{ {} }}", pairs.collect::<Vec<_>>().join(", ")))
}

fn json(given: &JsonDefinition) -> Written {
    match given {
        JsonDefinition::Text(given) => text(&given.value),
        JsonDefinition::Plain(value) => plain(value),
        JsonDefinition::List(items) => list(items, json),
        JsonDefinition::Object(members) => table(members.iter().map(|(key, value)| (&**key, Some(json(value))))),
    }
}

fn shape(told: &Shape) -> Written {
    table([("event", Some(text(&told.event.value))), ("data", Some(json(&told.data)))])
}

fn step(step: &StepDefinition) -> Written {
    match &step.value {
        Act::Join { room } => table([("join", Some(text(&room.value)))]),
        Act::Leave { room } => table([("leave", Some(text(&room.value)))]),
        Act::Presence { status, metadata, current_activity, custom_status } => table([
            ("presence", Some(text(&status.value))),
            ("metadata", metadata.as_ref().map(json)),
            ("current_activity", current_activity.as_ref().map(|said| text(&said.value))),
            ("custom_status", custom_status.as_ref().map(|said| text(&said.value))),
        ]),
        Act::Emit { event, room, others, members_only, data, class, nonce, nonce_window_ms } => {
            let class = match class {
                Class::Volatile => "volatile",
                Class::Recoverable => "recoverable",
                Class::Persistent => "persistent",
            };
            table([
                ("emit", Some(text(&event.value))),
                ("room", room.as_ref().map(|room| text(&room.value))),
                ("others", others.then_some(plain(true))),
                ("members_only", Some(plain(members_only))),
                ("data", data.as_ref().map(json)),
                ("class", Some(text(class))),
                ("nonce", nonce.as_ref().map(|nonce| text(&nonce.value))),
                ("nonce_window", Some(plain(format_args!("\"{nonce_window_ms}ms\"")))),
            ])
        }
    }
}

fn fields(given: &[FieldDefinition]) -> Written {
    table(given.iter().map(|definition| (&*definition.name.value, Some(field(definition)))))
}

fn field(definition: &FieldDefinition) -> Written {
    let FieldDefinition { name: _, kind, required, not_empty, max_bytes, code } = definition;
    let whole = |number: &Option<u64>| number.map(plain);
    // With a point, so that TOML does not take a large one for an integer.
    let bound = |number: &Option<f64>| number.map(|number| Written(format!("{number:?}")));
    let own: Vec<(&str, Option<Written>)> = match kind {
        FieldKind::Text { min, max, pattern, one_of } => vec![
            ("type", Some(text("string"))),
            ("min", whole(min)),
            ("max", whole(max)),
            ("pattern", pattern.as_ref().map(|pattern| text(&pattern.value))),
            ("one_of", Some(list(one_of, |word| text(word)))),
        ],
        FieldKind::Uuid => vec![("type", Some(text("uuid")))],
        FieldKind::Number { min, max, whole } => vec![
            ("type", Some(text(if *whole { "integer" } else { "number" }))),
            ("min", bound(min)),
            ("max", bound(max)),
        ],
        FieldKind::Boolean => vec![("type", Some(text("boolean")))],
        FieldKind::Any => vec![("type", Some(text("any")))],
        FieldKind::Object { fields: inner, unknown_keys } => vec![
            ("type", Some(text("object"))),
            ("fields", Some(fields(inner))),
            ("unknown_keys", Some(plain(unknown_keys))),
        ],
        FieldKind::List { items, min, max } => {
            vec![("type", Some(text("list"))), ("items", Some(field(items))), ("min", whole(min)), ("max", whole(max))]
        }
    };
    table(own.into_iter().chain([
        ("required", Some(plain(required))),
        ("not_empty", not_empty.then_some(plain(true))),
        ("max_bytes", whole(max_bytes)),
        ("code", code.as_deref().map(text)),
    ]))
}
