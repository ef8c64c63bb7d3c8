//! A dialect as it is written down, with the place of what can be wrong.

use std::fmt;
use std::sync::Arc;

use tidegate_types::{Class, Millis};

use crate::refusal::{Codes, ConnectRefused, Limits};

/// A value and the byte at which it stands in its text. Equal to another if the value is.
#[derive(Clone, Debug, Default)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// The byte; whatever the reader of the text likes.
    pub place: usize,
}

impl<T> Placed<T> {
    /// A value at a place.
    pub fn new(value: T, place: usize) -> Self {
        Self { value, place }
    }
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Eq> Eq for Placed<T> {}

/// What is wrong with a definition, where, and the way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The place of the value at fault.
    pub place: usize,
    /// What is wrong, and the way out.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A whole dialect.
#[derive(Clone, Debug, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: Arc<str>,
    /// Beginnings of rooms that no payload can name.
    pub private: Vec<Placed<String>>,
    /// Whether a client may show its token in the query of its handshake.
    pub token_in_query: bool,
    /// What refusals are called.
    pub codes: Codes,
    /// Limits of the namespace.
    pub limits: Limits,
    /// How a client is told of a refusal.
    pub refusal: RefusalDefinition,
    /// What happens on connect.
    pub connect: Vec<StepDefinition>,
    /// What happens on disconnect.
    pub disconnect: Vec<StepDefinition>,
    /// How rooms are told who is in them.
    pub presence: PresenceDefinition,
    /// What clients may send.
    pub events: Vec<EventDefinition>,
}

impl Definition {
    /// A dialect in which nothing happens.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self {
            name: name.into(),
            private: Vec::new(),
            token_in_query: false,
            codes: Codes::default(),
            limits: Limits::default(),
            refusal: RefusalDefinition::default(),
            connect: Vec::new(),
            disconnect: Vec::new(),
            presence: PresenceDefinition::default(),
            events: Vec::new(),
        }
    }
}

/// JSON as it is written down: texts in it are templates.
#[derive(Clone, Debug, PartialEq)]
pub enum JsonDefinition {
    /// A template.
    Text(Placed<String>),
    /// A number or a boolean.
    Plain(String),
    /// A list.
    List(Vec<Self>),
    /// An object.
    Object(Vec<(String, Self)>),
}

impl JsonDefinition {
    /// A template without a place.
    pub fn text(text: &str) -> Self {
        Self::Text(Placed::new(text.to_owned(), 0))
    }

    /// An object of templates without places.
    pub fn object<const N: usize>(members: [(&str, &str); N]) -> Self {
        Self::Object(members.into_iter().map(|(key, text)| (key.to_owned(), Self::text(text))).collect())
    }
}

/// How a client is told of a refusal.
#[derive(Clone, Debug, PartialEq)]
pub struct RefusalDefinition {
    /// The event; `None` for none.
    pub event: Option<Placed<String>>,
    /// Its data.
    pub data: JsonDefinition,
    /// The ack.
    pub ack: JsonDefinition,
    /// How a connection is refused.
    pub connect: ConnectRefused,
}

impl Default for RefusalDefinition {
    /// The event `error` with code and message; `{success: false, error}` as ack.
    fn default() -> Self {
        Self {
            event: Some(Placed::new("error".to_owned(), 0)),
            data: JsonDefinition::object([("code", "{code}"), ("message", "{error}"), ("retryAfter", "{retry_after}")]),
            ack: JsonDefinition::Object(vec![
                ("success".to_owned(), JsonDefinition::Plain("false".to_owned())),
                ("error".to_owned(), JsonDefinition::text("{error}")),
            ]),
            connect: ConnectRefused::default(),
        }
    }
}

/// An event and its data.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The event.
    pub event: Placed<String>,
    /// Its data.
    pub data: JsonDefinition,
}

/// How rooms are told who is in them; what is missing is not told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PresenceDefinition {
    /// Only rooms that begin so.
    pub rooms: String,
    /// To the others, when somebody has come.
    pub join: Option<Shape>,
    /// To those who are left, when somebody has gone.
    pub leave: Option<Shape>,
    /// To all, when something about somebody is new, and to who has just joined.
    pub update: Option<Shape>,
}

/// What a client may send.
#[derive(Clone, Debug, PartialEq)]
pub struct EventDefinition {
    /// Its name.
    pub name: Placed<String>,
    /// Its payload: an object; `None` if nothing is read.
    pub payload: Option<Vec<FieldDefinition>>,
    /// Whether fields that are not declared are passed over.
    pub unknown_keys: bool,
    /// Only principals of these kinds may send it; empty for all.
    pub kinds: Vec<String>,
    /// What happens, in this order.
    pub steps: Vec<StepDefinition>,
    /// The answer.
    pub ack: Option<JsonDefinition>,
    /// The answer of a refusal, other than the dialect's.
    pub refused_ack: Option<JsonDefinition>,
    /// The event of a refusal, other than the dialect's.
    pub refused: Option<Shape>,
}

impl EventDefinition {
    /// An event that reads nothing and does nothing.
    pub fn new(name: &str) -> Self {
        Self {
            name: Placed::new(name.to_owned(), 0),
            payload: None,
            unknown_keys: false,
            kinds: Vec::new(),
            steps: Vec::new(),
            ack: None,
            refused_ack: None,
            refused: None,
        }
    }
}

/// A field of a payload.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldDefinition {
    /// Its name.
    pub name: Placed<String>,
    /// What it holds.
    pub kind: FieldKind,
    /// Whether it must be there. `null` is as missing.
    pub required: bool,
    /// Whether `""`, `[]` and `{}` are refused.
    pub not_empty: bool,
    /// The most bytes of its JSON.
    pub max_bytes: Option<u64>,
    /// What a wrong value is refused with, other than the dialect's code.
    pub code: Option<String>,
}

impl FieldDefinition {
    /// A field that must be there.
    pub fn new(name: &str, kind: FieldKind) -> Self {
        Self {
            name: Placed::new(name.to_owned(), 0),
            kind,
            required: true,
            not_empty: false,
            max_bytes: None,
            code: None,
        }
    }
}

/// What a field holds.
#[derive(Clone, Debug, PartialEq)]
pub enum FieldKind {
    /// A string.
    Text {
        /// The fewest characters.
        min: Option<u64>,
        /// The most characters.
        max: Option<u64>,
        /// A regular expression that must match somewhere.
        pattern: Option<Placed<String>>,
        /// The only values; empty for any.
        one_of: Vec<String>,
    },
    /// A UUID of version 4 (RFC 9562 section 5.4).
    Uuid,
    /// A number.
    Number {
        /// The least.
        min: Option<f64>,
        /// The greatest.
        max: Option<f64>,
        /// Without a fraction.
        whole: bool,
    },
    /// `true` or `false`.
    Boolean,
    /// Whatever is not `null`.
    Any,
    /// An object.
    Object {
        /// Its fields.
        fields: Vec<FieldDefinition>,
        /// Whether fields that are not declared are passed over.
        unknown_keys: bool,
    },
    /// A list.
    List {
        /// What each item is.
        items: Box<FieldDefinition>,
        /// The fewest items.
        min: Option<u64>,
        /// The most items.
        max: Option<u64>,
    },
}

/// One thing that happens, and where it stands.
pub type StepDefinition = Placed<Act>;

/// What can happen.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// The socket joins a room.
    Join {
        /// The room: a template.
        room: Placed<String>,
    },
    /// The socket leaves a room.
    Leave {
        /// The room: a template.
        room: Placed<String>,
    },
    /// An event is sent.
    Emit {
        /// Its name.
        event: Placed<String>,
        /// The room, a template; `None` for the socket itself.
        room: Option<Placed<String>>,
        /// All in the room but the socket itself.
        others: bool,
        /// Only members of the room may send to it.
        members_only: bool,
        /// Its data; `None` for none.
        data: Option<JsonDefinition>,
        /// What is promised.
        class: Class,
        /// Names the message, so that one that is sent again is delivered once: a template.
        nonce: Option<Placed<String>>,
        /// For how long the nonce is remembered, ms.
        nonce_window_ms: Millis,
    },
    /// The user's presence changes.
    Presence {
        /// `online`, `away`, `busy` or `offline`, or nothing for what it is: a template.
        status: Placed<String>,
        /// What the user says about themselves: an object.
        metadata: Option<JsonDefinition>,
        /// What the user is doing: a template.
        current_activity: Option<Placed<String>>,
        /// A status in the user's own words: a template.
        custom_status: Option<Placed<String>>,
    },
}
