//! Dialects: those of the file, and those that come with Tidegate, which are read by the same code.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidegate_dialect::{
    Act, Codes, ConnectRefused, Definition, Dialect, EventDefinition, FieldDefinition, FieldKind, JsonDefinition,
    Limits, Placed, PresenceDefinition, Reason, RefusalDefinition, Shape, StepDefinition,
};
use tidegate_types::Class;

use crate::check::{amount, flag, name, period, small};
use crate::file::{self, ConnectRefusal, FieldType, MessageClass};
use crate::reader::{At, Bound, Json, List, Named, Reader};
use crate::{Problems, Surroundings};

/// The dialect of namespace `/`; it is not declared, since it does more than a declaration can say.
pub(super) const ROOMS: &str = "rooms";
/// Dialects that come with Tidegate.
const BUILT_IN: [(&str, &str); 2] = [("cases", tidegate_dialect::CASES), ("chat", tidegate_dialect::CHAT)];

/// The dialects that come with Tidegate.
///
/// # Errors
/// None in a released build: a test reads them.
pub fn built_in_dialects() -> Result<Vec<Arc<Dialect>>, Problems> {
    let mut dialects = Vec::new();
    for (name, text) in BUILT_IN {
        let nothing = |_: &str| None;
        let no_file = |_: &Path| Err(std::io::ErrorKind::NotFound.into());
        let reader = Reader::new(name, text, Surroundings { variable: &nothing, read_file: &no_file });
        let found: Option<file::Dialects> = reader.document();
        if let Some(found) = found.and_then(|found| found.dialect) {
            dialects.extend(found.value.0.into_iter().map(|(name, found)| dialect(&reader, &name, found)));
        }
        if let Some(problems) = reader.finish(name) {
            return Err(problems);
        }
    }
    Ok(dialects.into_iter().flatten().collect())
}

/// The dialects of the file.
pub(super) fn dialects(reader: &Reader<'_>, found: Option<At<Named<file::Dialect>>>) -> Vec<At<Arc<Dialect>>> {
    let found = found.map(|found| found.value.0).unwrap_or_default();
    let mut dialects = Vec::new();
    for (given, found) in found {
        name(reader, &given.value, given.place, "a dialect");
        if given.value == ROOMS || BUILT_IN.iter().any(|(name, _)| *name == given.value) {
            let message = format!("the dialect {:?} comes with Tidegate; call yours otherwise", given.value);
            reader.problem(given.place, message);
        }
        if let Some(dialect) = dialect(reader, &given, found) {
            dialects.push(At::new(dialect, given.place));
        }
    }
    dialects
}

fn dialect(reader: &Reader<'_>, name: &At<String>, found: file::Dialect) -> Option<Arc<Dialect>> {
    let definition = Definition {
        name: name.value.as_str().into(),
        private: texts(found.private),
        token_in_query: flag(found.token_in_query, false),
        codes: codes(reader, found.codes),
        limits: limits(reader, found.limits),
        refusal: refusal(found.refusal),
        connect: moment(reader, found.connect),
        disconnect: moment(reader, found.disconnect),
        presence: presence(reader, found.presence),
        events: events(reader, found.event),
    };
    match Dialect::new(definition) {
        Ok(dialect) => Some(Arc::new(dialect)),
        Err(problems) => {
            for problem in problems {
                let place = if problem.place == 0 { name.place } else { problem.place };
                reader.problem(place, format!("in the dialect {:?}: {}", name.value, problem.message));
            }
            None
        }
    }
}

fn placed(found: At<String>) -> Placed<String> {
    Placed::new(found.value, found.place)
}

/// A template: its place is where its text begins, so that a fault in it has its own column.
fn template(found: At<String>) -> Placed<String> {
    Placed::new(found.value, found.place + 1)
}

fn texts(found: Option<At<List<String>>>) -> Vec<Placed<String>> {
    found.map(|found| found.value.0).unwrap_or_default().into_iter().map(placed).collect()
}

fn words(found: Option<At<List<String>>>) -> Vec<String> {
    texts(found).into_iter().map(|text| text.value).collect()
}

fn codes(reader: &Reader<'_>, found: Option<At<file::Codes>>) -> Codes {
    let mut codes = Codes::default();
    let Some(At { value: found, .. }) = found else { return codes };
    let given = [
        (Reason::Invalid, found.invalid),
        (Reason::TooLarge, found.too_large),
        (Reason::NotInRoom, found.not_in_room),
        (Reason::Forbidden, found.forbidden),
        (Reason::RateLimit, found.rate_limit),
        (Reason::RoomLimit, found.room_limit),
        (Reason::ConnectionLimit, found.connection_limit),
        (Reason::UserConnectionLimit, found.user_connection_limit),
        (Reason::AuthFailed, found.auth_failed),
        (Reason::Unavailable, found.unavailable),
    ];
    for (reason, code) in given {
        let Some(code) = code else { continue };
        if code.value.is_empty() {
            reader.problem(code.place, "a code must not be empty: clients tell refusals apart by it");
        }
        codes.set(reason, code.value.into());
    }
    codes
}

fn limits(reader: &Reader<'_>, found: Option<At<file::DialectLimits>>) -> Limits {
    let Some(At { value: found, .. }) = found else { return Limits::default() };
    let limit = |found, key| Some(small(reader, found, key, 0, 0)).filter(|limit| *limit > 0);
    Limits {
        connections: limit(found.connections, "connections"),
        connections_per_user: limit(found.connections_per_user, "connections_per_user"),
        rooms_per_user: limit(found.rooms_per_user, "rooms_per_user"),
        events_per_minute: limit(found.events_per_minute, "events_per_minute"),
        message_bytes: Some(amount(reader, found.message_bytes, "message_bytes", 0)).filter(|bytes| *bytes > 0),
    }
}

fn refusal(found: Option<At<file::Refusal>>) -> RefusalDefinition {
    let default = RefusalDefinition::default();
    let Some(At { value: found, .. }) = found else { return default };
    RefusalDefinition {
        event: match found.event {
            Some(event) => Some(placed(event)).filter(|event| !event.value.is_empty()),
            None => default.event,
        },
        data: json(found.data).unwrap_or(default.data),
        ack: json(found.ack).unwrap_or(default.ack),
        connect: match found.connect.map(|connect| connect.value) {
            Some(ConnectRefusal::Event) => ConnectRefused::Event,
            Some(ConnectRefusal::ConnectError) | None => ConnectRefused::ConnectError,
        },
    }
}

fn json(found: Option<At<Json>>) -> Option<JsonDefinition> {
    found.map(|found| found.value.0)
}

fn moment(reader: &Reader<'_>, found: Option<At<file::Moment>>) -> Vec<StepDefinition> {
    found.map(|found| steps(reader, found.value.r#do)).unwrap_or_default()
}

fn presence(reader: &Reader<'_>, found: Option<At<file::DialectPresence>>) -> PresenceDefinition {
    let Some(At { value: found, place }) = found else { return PresenceDefinition::default() };
    let nothing = found.lacks("join") && found.lacks("leave") && found.lacks("update");
    if nothing {
        reader.problem(place, "[presence] tells nothing: give it \"join\", \"leave\" or \"update\", or leave it out");
    }
    PresenceDefinition {
        rooms: found.rooms.map(|rooms| rooms.value).unwrap_or_default(),
        join: shape(reader, found.join),
        leave: shape(reader, found.leave),
        update: shape(reader, found.update),
    }
}

fn shape(reader: &Reader<'_>, found: Option<At<file::Told>>) -> Option<Shape> {
    let At { value: found, place } = found?;
    for key in ["event", "data"].into_iter().filter(|key| found.lacks(key)) {
        reader.problem(place, format!("an event that is told needs {key:?}"));
    }
    Some(Shape { event: placed(found.event?), data: json(found.data)? })
}

fn events(reader: &Reader<'_>, found: Option<At<Named<file::Event>>>) -> Vec<EventDefinition> {
    let found = found.map(|found| found.value.0).unwrap_or_default();
    found
        .into_iter()
        .map(|(name, found)| EventDefinition {
            name: placed(name),
            payload: found.payload.map(|found| fields(reader, found.value)),
            unknown_keys: flag(found.unknown_keys, false),
            kinds: words(found.kinds),
            steps: steps(reader, found.r#do),
            ack: json(found.ack),
            refused_ack: json(found.refused_ack),
            refused: shape(reader, found.refused),
        })
        .collect()
}

fn fields(reader: &Reader<'_>, found: Named<file::Field>) -> Vec<FieldDefinition> {
    found.0.into_iter().map(|(name, found)| field(reader, name, found)).collect()
}

fn field(reader: &Reader<'_>, name: At<String>, found: file::Field) -> FieldDefinition {
    if found.lacks("type") {
        reader.problem(name.place, format!("the field {:?} needs a \"type\", such as \"string\"", name.value));
    }
    let kind = found.r#type.as_ref().map(|kind| kind.value);
    let only = |key: &str, place: Option<usize>, kinds: &[FieldType], what: &str| {
        if let (Some(place), Some(kind)) = (place, kind)
            && !kinds.contains(&kind)
        {
            let kind = kind.as_str();
            reader.problem(place, format!("the type {kind:?} has no {key:?}: that is for {what}"));
        }
    };
    use FieldType::{Integer, List as ListType, Number, Object, String as Text};
    let counted = [Text, Number, Integer, ListType];
    only("min", found.min.as_ref().map(|found| found.place), &counted, "strings, numbers and lists");
    only("max", found.max.as_ref().map(|found| found.place), &counted, "strings, numbers and lists");
    only("pattern", found.pattern.as_ref().map(|found| found.place), &[Text], "strings");
    only(
        "one_of",
        found.one_of.as_ref().filter(|found| found.value.1 > 0).map(|found| found.place),
        &[Text],
        "strings",
    );
    only("fields", found.fields.as_ref().map(|found| found.place), &[Object], "objects");
    only(
        "unknown_keys",
        found.unknown_keys.as_ref().filter(|found| found.value).map(|found| found.place),
        &[Object],
        "objects",
    );
    only("items", found.items.as_ref().map(|found| found.place), &[ListType], "lists");
    let (min, max) = (found.min, found.max);
    let kind = match kind {
        Some(Text) => FieldKind::Text {
            min: whole(reader, min, "min"),
            max: whole(reader, max, "max"),
            pattern: found.pattern.map(placed),
            one_of: words(found.one_of),
        },
        Some(FieldType::Uuid) => FieldKind::Uuid,
        Some(kind @ (Number | Integer)) => FieldKind::Number {
            min: min.map(|found| found.value.0),
            max: max.map(|found| found.value.0),
            whole: kind == Integer,
        },
        Some(FieldType::Boolean) => FieldKind::Boolean,
        Some(Object) => {
            if found.fields.is_none() && !flag(found.unknown_keys.clone(), false) {
                let message =
                    "an object needs \"fields\", or unknown_keys = true; for any object, take the type \"any\"";
                reader.problem(name.place, message);
            }
            FieldKind::Object {
                fields: found.fields.map(|found| fields(reader, found.value)).unwrap_or_default(),
                unknown_keys: flag(found.unknown_keys, false),
            }
        }
        Some(ListType) => {
            let item = At::new("an item".to_owned(), name.place);
            match found.items {
                Some(items) => FieldKind::List {
                    items: Box::new(field(reader, item, *items.value.0)),
                    min: whole(reader, min, "min"),
                    max: whole(reader, max, "max"),
                },
                None => {
                    reader.problem(name.place, "a list needs \"items\", such as items = { type = \"string\" }");
                    FieldKind::Any
                }
            }
        }
        // A type that cannot be read has its problem already.
        Some(FieldType::Any) | None => FieldKind::Any,
    };
    FieldDefinition {
        name: placed(name),
        kind,
        required: flag(found.required, true),
        not_empty: flag(found.not_empty, false),
        max_bytes: found.max_bytes.map(|found| amount(reader, Some(found), "max_bytes", 0)),
        code: found.code.map(|found| found.value),
    }
}

/// A number of characters or items.
fn whole(reader: &Reader<'_>, found: Option<At<Bound>>, key: &str) -> Option<u64> {
    let At { value: Bound(value), place } = found?;
    if value < 0.0 || value.fract() != 0.0 {
        reader.problem(place, format!("{key:?} counts characters or items: it must be a whole number from 0"));
    }
    // A float-to-integer cast saturates.
    Some(value as u64)
}

fn steps(reader: &Reader<'_>, found: Option<At<List<file::Step>>>) -> Vec<StepDefinition> {
    let found = found.map(|found| found.value.0).unwrap_or_default();
    found.into_iter().filter_map(|found| step(reader, found)).collect()
}

fn step(reader: &Reader<'_>, found: At<file::Step>) -> Option<StepDefinition> {
    let At { value: found, place } = found;
    let acts = ["join", "leave", "emit", "presence"];
    let given: Vec<&str> = acts.into_iter().filter(|key| !found.lacks(key)).collect();
    let [act] = *given else {
        let message = match given.as_slice() {
            [] => "a step needs one of \"join\", \"leave\", \"emit\" and \"presence\"".to_owned(),
            given => format!("a step does one thing; make it {} steps, for {}", given.len(), given.join(" and ")),
        };
        reader.problem(place, message);
        return None;
    };
    let owned = [
        ("emit", &["room", "others", "members_only", "data", "class", "nonce", "nonce_window"][..]),
        ("presence", &["metadata", "current_activity", "custom_status"][..]),
    ];
    for (owner, keys) in owned {
        for key in keys.iter().filter(|key| act != owner && !found.lacks(key)) {
            reader.problem(place, format!("{key:?} is for steps with {owner:?}, not with {act:?}"));
        }
    }
    let nonce_window = period(reader, found.nonce_window, "nonce_window", Duration::from_secs(10));
    let act = if act == "join" {
        Act::Join { room: template(found.join?) }
    } else if act == "leave" {
        Act::Leave { room: template(found.leave?) }
    } else if act == "presence" {
        Act::Presence {
            status: template(found.presence?),
            metadata: json(found.metadata),
            current_activity: found.current_activity.map(template),
            custom_status: found.custom_status.map(template),
        }
    } else {
        Act::Emit {
            event: placed(found.emit?),
            room: found.room.map(template),
            others: flag(found.others, false),
            members_only: flag(found.members_only, true),
            data: json(found.data),
            class: match found.class.map(|class| class.value) {
                Some(MessageClass::Volatile) => Class::Volatile,
                Some(MessageClass::Persistent) => Class::Persistent,
                Some(MessageClass::Recoverable) | None => Class::Recoverable,
            },
            nonce: found.nonce.map(template),
            nonce_window_ms: u64::try_from(nonce_window.as_millis()).unwrap_or(u64::MAX),
        }
    };
    Some(StepDefinition::new(act, place))
}
