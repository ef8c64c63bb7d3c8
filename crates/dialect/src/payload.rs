//! Reading a payload against its schema.

use std::borrow::Cow;
use std::sync::Arc;

use smallvec::SmallVec;
use tidegate_wire::{members, socket_io, string_value};

use crate::field::{Field, Fields, Group, Rule};
use crate::refusal::Reason;

/// What a client sent, as far as it was declared and right.
#[derive(Clone, Debug, Default)]
pub struct Payload<'a> {
    // Not a SmallVec: it would tie the lifetime of what is read to that of what is rendered.
    first: [Option<Value<'a>>; FIRST],
    rest: Vec<Option<Value<'a>>>,
}

/// Fields that cost no allocation.
const FIRST: usize = 6;

/// The value of a field.
#[derive(Clone, Debug)]
pub(crate) struct Value<'a> {
    json: &'a str,
    text: Option<Cow<'a, str>>,
}

impl Value<'_> {
    /// The JSON, as it was sent.
    pub fn json(&self) -> &str {
        self.json
    }

    /// What it says: of a string its text, of another value its JSON.
    pub fn text(&self) -> &str {
        self.text.as_deref().unwrap_or(self.json)
    }
}

impl<'a> Payload<'a> {
    pub(crate) fn slot(&self, slot: usize) -> Option<&Value<'a>> {
        self.first.get(slot).or_else(|| self.rest.get(slot.checked_sub(FIRST)?))?.as_ref()
    }

    fn set(&mut self, slot: usize, value: Value<'a>) {
        let rest = &mut self.rest;
        let place = match self.first.get_mut(slot) {
            Some(place) => Some(place),
            None => slot.checked_sub(FIRST).and_then(|slot| rest.get_mut(slot)),
        };
        if let Some(place) = place {
            *place = Some(value);
        }
    }
}

/// What is wrong with a payload.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub reason: Reason,
    /// The field's own code.
    pub code: Option<Arc<str>>,
    pub message: String,
}

impl Fault {
    fn invalid(message: impl Into<String>) -> Self {
        Self { reason: Reason::Invalid, code: None, message: message.into() }
    }
}

/// Reads the first of an event's arguments. What could be read is there even after a fault: an answer may refer to it.
///
/// `attachments` are the bytes of the event's binary attachments; they count towards fields that refer to them.
pub(crate) fn read<'a>(fields: &Fields, args: &'a str, attachments: u64) -> (Payload<'a>, Option<Fault>) {
    let rest = vec![None; fields.slots().saturating_sub(FIRST)];
    let mut reading = Reading { payload: Payload { rest, ..Payload::default() }, attachments, fault: None };
    let first = socket_io::values(args).next().unwrap_or("null").trim();
    if first == "null" {
        reading.group(&fields.group, "{}");
    } else if first.starts_with('{') {
        reading.group(&fields.group, first);
    } else {
        reading.fault(Fault::invalid("the payload must be an object"));
    }
    (reading.payload, reading.fault)
}

struct Reading<'a> {
    payload: Payload<'a>,
    attachments: u64,
    fault: Option<Fault>,
}

impl<'a> Reading<'a> {
    /// The first fault is the one that is told.
    fn fault(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    fn group(&mut self, group: &Group, object: &'a str) {
        let mut found: SmallVec<[Option<&'a str>; 8]> = SmallVec::from_elem(None, group.fields.len());
        for member in members(object) {
            let Ok((key, value)) = member else {
                self.fault(Fault::invalid("the payload is no JSON that can be read"));
                return;
            };
            let index = group.fields.iter().position(|field| *field.key == *key);
            match index.and_then(|index| found.get_mut(index)) {
                None if group.unknown_keys => {}
                None => {
                    let key: String = key.chars().take(64).collect();
                    self.fault(Fault::invalid(format!("the field {key:?} is not known")));
                    // Nothing behind it could change the answer; a long payload is not worth reading on.
                    break;
                }
                Some(Some(_)) => self.fault(Fault::invalid(format!("{key} is there twice"))),
                Some(place) => *place = Some(value),
            }
        }
        for (field, value) in group.fields.iter().zip(found) {
            self.field(field, value);
        }
    }

    fn field(&mut self, field: &Field, value: Option<&'a str>) {
        // For a client in JavaScript, what is null is as what is not there.
        let Some(json) = value.filter(|json| *json != "null") else {
            if field.required {
                self.wrong(field, "is required");
            }
            return;
        };
        match self.value(field, json) {
            Ok(text) => {
                if let Some(slot) = field.slot {
                    self.payload.set(slot, Value { json, text });
                }
            }
            Err(Some(complaint)) => self.wrong(field, &complaint),
            Err(None) => {}
        }
    }

    fn wrong(&mut self, field: &Field, complaint: &str) {
        let message = format!("{} {complaint}", field.key);
        self.fault(Fault { reason: Reason::Invalid, code: field.code.clone(), message });
    }

    /// Checks a value and returns the text of a string; the error is a complaint, or nothing if that has been noted.
    fn value(&mut self, field: &Field, json: &'a str) -> Result<Option<Cow<'a, str>>, Option<String>> {
        if let Some(most) = field.max_bytes {
            let attached = if json.contains("_placeholder") { self.attachments } else { 0 };
            let bytes = json.len() as u64 + attached;
            if bytes > most {
                let message = format!("{} has {bytes} bytes; at most {most} are allowed", field.key);
                self.fault(Fault { reason: Reason::TooLarge, code: None, message });
                return Err(None);
            }
        }
        if field.not_empty && matches!(json, r#""""# | "[]" | "{}") {
            return Err(Some("must not be empty".to_owned()));
        }
        match &field.rule {
            Rule::Text { min, max, pattern, one_of } => {
                let text = string_value(json).ok_or_else(|| Some("must be a string".to_owned()))?;
                let characters = if *min > 0 || *max < u64::MAX { text.chars().count() as u64 } else { 0 };
                if characters < *min {
                    let words = if *min == 1 { "must not be empty".to_owned() } else { at_least(*min, "characters") };
                    return Err(Some(words));
                }
                if characters > *max {
                    return Err(Some(at_most(*max, "characters")));
                }
                if pattern.as_ref().is_some_and(|pattern| !pattern.is_match(&text)) {
                    return Err(Some("has not the form that is wanted".to_owned()));
                }
                if !one_of.is_empty() && !one_of.iter().any(|word| **word == *text) {
                    return Err(Some(format!("must be one of {}", one_of.join(", "))));
                }
                Ok(Some(text))
            }
            Rule::Uuid => match string_value(json).filter(|text| is_uuid_v4(text)) {
                Some(text) => Ok(Some(text)),
                None => Err(Some("must be a UUID of version 4".to_owned())),
            },
            Rule::Number { min, max, whole } => {
                let wanted = if *whole { "must be a whole number" } else { "must be a number" };
                // JSON's numbers are Rust's; other words that Rust reads begin with letters.
                let number = json.parse::<f64>().ok().filter(|number| number.is_finite());
                let number = number.filter(|_| json.starts_with(|first: char| first == '-' || first.is_ascii_digit()));
                let number = number.filter(|number| !whole || number.fract() == 0.0);
                let number = number.ok_or_else(|| Some(wanted.to_owned()))?;
                if number < *min {
                    return Err(Some(format!("must be at least {min}")));
                }
                if number > *max {
                    return Err(Some(format!("must be at most {max}")));
                }
                Ok(None)
            }
            Rule::Boolean if matches!(json, "true" | "false") => Ok(None),
            Rule::Boolean => Err(Some("must be true or false".to_owned())),
            Rule::Any => Ok(string_value(json)),
            Rule::Object(group) => {
                if !json.starts_with('{') {
                    return Err(Some("must be an object".to_owned()));
                }
                let before = self.fault.is_some();
                self.group(group, json);
                if self.fault.is_some() && !before { Err(None) } else { Ok(None) }
            }
            Rule::List { items, min, max } => self.list(items, *min, *max, json),
        }
    }

    fn list(
        &mut self,
        items: &Field,
        min: u64,
        max: u64,
        json: &'a str,
    ) -> Result<Option<Cow<'a, str>>, Option<String>> {
        if !json.starts_with('[') {
            return Err(Some("must be a list".to_owned()));
        }
        let before = self.fault.is_some();
        let mut count = 0;
        for item in socket_io::args(json) {
            count += 1;
            if count > max {
                return Err(Some(at_most(max, "items")));
            }
            self.field(items, Some(item));
            if self.fault.is_some() && !before {
                return Err(None);
            }
        }
        if count < min {
            return Err(Some(at_least(min, "items")));
        }
        Ok(None)
    }
}

fn at_least(least: u64, what: &str) -> String {
    format!("must have at least {least} {what}")
}

fn at_most(most: u64, what: &str) -> String {
    format!("must have at most {most} {what}")
}

/// RFC 9562: the digit of the version is 4, the one of the variant 8, 9, a or b.
fn is_uuid_v4(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() == 36
        && bytes.iter().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => *byte == b'-',
            14 => *byte == b'4',
            19 => matches!(byte, b'8' | b'9' | b'a' | b'b' | b'A' | b'B'),
            _ => byte.is_ascii_hexdigit(),
        })
}
