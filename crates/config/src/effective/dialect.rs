//! Dialects and namespaces as they would stand in a file.

use tidegate_dialect::{
    Act, ConnectRefused, Definition, EventDefinition, FieldDefinition, FieldKind, JsonDefinition, Reason, Shape,
    StepDefinition,
};
use tidegate_types::Class;
use toml::{Table, Value};

use super::{File, name};
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
        let Definition { name: own, private, codes, limits, refusal, connect, disconnect, presence, events } =
            definition;
        let header = format!("dialect.{}", name(own));
        self.section(format!("[{header}]"));
        let private: Vec<&String> = private.iter().map(|beginning| &beginning.value).collect();
        self.texts("private", &private);
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

/// A text of a file: `$` is doubled, since it would begin a variable.
fn text(text: &str) -> Value {
    Value::String(text.replace('$', "$$"))
}

fn list<T>(items: &[T], value: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(value).collect())
}

fn table(pairs: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let pairs = pairs.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Table(pairs.collect())
}

fn json(given: &JsonDefinition) -> Value {
    match given {
        JsonDefinition::Text(given) => text(&given.value),
        JsonDefinition::Plain(plain) => match (plain.parse::<i64>(), plain.parse::<f64>()) {
            (Ok(number), _) => Value::Integer(number),
            (Err(_), Ok(number)) => Value::Float(number),
            (Err(_), Err(_)) => Value::Boolean(plain == "true"),
        },
        JsonDefinition::List(items) => list(items, json),
        JsonDefinition::Object(members) => {
            Value::Table(members.iter().map(|(key, value)| (key.clone(), json(value))).collect())
        }
    }
}

fn shape(told: &Shape) -> Value {
    table([("event", Some(text(&told.event.value))), ("data", Some(json(&told.data)))])
}

fn step(step: &StepDefinition) -> Value {
    match &step.act {
        Act::Join { room } => table([("join", Some(text(&room.value)))]),
        Act::Leave { room } => table([("leave", Some(text(&room.value)))]),
        Act::Presence { status, metadata } => {
            table([("presence", Some(text(&status.value))), ("metadata", metadata.as_ref().map(json))])
        }
        Act::Emit { event, room, others, members_only, data, class, nonce } => {
            let class = match class {
                Class::Volatile => "volatile",
                Class::Recoverable => "recoverable",
                Class::Persistent => "persistent",
            };
            table([
                ("emit", Some(text(&event.value))),
                ("room", room.as_ref().map(|room| text(&room.value))),
                ("others", others.then_some(Value::Boolean(true))),
                ("members_only", Some(Value::Boolean(*members_only))),
                ("data", data.as_ref().map(json)),
                ("class", Some(text(class))),
                ("nonce", nonce.as_ref().map(|nonce| text(&nonce.value))),
            ])
        }
    }
}

fn fields(given: &[FieldDefinition]) -> Value {
    let mut table = Table::new();
    for definition in given {
        table.insert(definition.name.value.clone(), field(definition));
    }
    Value::Table(table)
}

fn field(definition: &FieldDefinition) -> Value {
    let FieldDefinition { name: _, kind, required, not_empty, max_bytes, code } = definition;
    let whole = |number: &Option<u64>| number.map(|number| Value::Integer(i64::try_from(number).unwrap_or(i64::MAX)));
    let bound = |number: &Option<f64>| number.map(Value::Float);
    let own: Vec<(&'static str, Option<Value>)> = match kind {
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
            ("unknown_keys", Some(Value::Boolean(*unknown_keys))),
        ],
        FieldKind::List { items, min, max } => vec![
            ("type", Some(text("list"))),
            ("items", Some(field(items))),
            ("min", whole(min)),
            ("max", whole(max)),
        ],
    };
    table(own.into_iter().chain([
        ("required", Some(Value::Boolean(*required))),
        ("not_empty", not_empty.then_some(Value::Boolean(true))),
        ("max_bytes", whole(max_bytes)),
        ("code", code.as_deref().map(text)),
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dollar_is_doubled() {
        assert_eq!(text("^a$"), Value::String("^a$$".to_owned()));
    }
}
