use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;

use tidegate_types::{Class, EventName, Millis};

use crate::check::Compiler;
use crate::definition::{Definition, Problem};
use crate::facts::Facts;
use crate::field::Fields;
use crate::payload::{self, Payload};
use crate::refusal::{Codes, ConnectRefused, Limits, Reason, Refusal};
use crate::template::{Json, Text};

/// What a namespace does, compiled.
#[derive(Clone)]
pub struct Dialect {
    definition: Definition,
    events: HashMap<Box<str>, Event>,
    connect: Box<[Step]>,
    disconnect: Box<[Step]>,
    presence: Presence,
    refusal: Option<(EventName, Json)>,
    refusal_data: Json,
    refusal_ack: Json,
}

impl fmt::Debug for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Dialect({:?})", self.name())
    }
}

/// By the definition: the rest follows from it.
impl PartialEq for Dialect {
    fn eq(&self, other: &Self) -> bool {
        self.definition == other.definition
    }
}

/// Numbers of a definition are never NaN.
impl Eq for Dialect {}

/// An event that clients may send.
#[derive(Clone, Debug)]
pub struct Event {
    pub(crate) name: Box<str>,
    pub(crate) fields: Option<Fields>,
    pub(crate) kinds: Box<[Box<str>]>,
    pub(crate) steps: Box<[Step]>,
    pub(crate) ack: Option<Json>,
    pub(crate) refused_ack: Option<Json>,
    pub(crate) refused: Option<(EventName, Json)>,
    pub(crate) needs_id: bool,
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Step {
    /// The socket joins the room.
    Join(Text),
    /// The socket leaves the room.
    Leave(Text),
    /// An event is sent.
    Emit(Emit),
    /// The user's presence changes.
    Presence(PresenceStep),
}

/// A change of a user's presence.
#[derive(Clone, Debug)]
pub struct PresenceStep {
    /// The status; no text leaves it as it is.
    pub status: Text,
    /// What the user says about themselves: an object.
    pub metadata: Option<Json>,
    /// What the user is doing; an empty text takes it back.
    pub current_activity: Option<Text>,
    /// A status in the user's own words, likewise.
    pub custom_status: Option<Text>,
}

/// What a sender calls a message.
#[derive(Clone, Debug)]
pub struct Nonce {
    /// The name; no text is none.
    pub text: Text,
    /// For how long it is remembered, ms.
    pub window_ms: Millis,
}

/// An event to send.
#[derive(Clone, Debug)]
pub struct Emit {
    /// Its name.
    pub event: EventName,
    /// The room; `None` for the socket itself, or on disconnect for every room that it was in.
    pub room: Option<Text>,
    /// Not to the socket itself.
    pub others: bool,
    /// Only members of the room may.
    pub members_only: bool,
    /// Its data; `None` for none.
    pub data: Option<Json>,
    /// What is promised.
    pub class: Class,
    /// Names the message, so that one that is sent again is delivered once.
    pub nonce: Option<Nonce>,
    /// Whether the data asks for the participants of the room.
    pub needs_count: bool,
}

/// How rooms are told who is in them.
#[derive(Clone, Debug, Default)]
pub struct Presence {
    pub(crate) rooms: Box<str>,
    /// To the others, when somebody has come.
    pub join: Option<PresenceEvent>,
    /// To those who are left, when somebody has gone.
    pub leave: Option<PresenceEvent>,
    /// To all when something is new, and to who has just joined.
    pub update: Option<PresenceEvent>,
}

impl Presence {
    /// Whether a room's members are told at all.
    pub fn tells(&self, room: &str) -> bool {
        room.starts_with(&*self.rooms) && (self.join.is_some() || self.leave.is_some() || self.update.is_some())
    }
}

/// An event that tells of presence.
#[derive(Clone, Debug)]
pub struct PresenceEvent {
    /// Its name.
    pub event: EventName,
    /// Its data.
    pub data: Json,
}

impl Dialect {
    /// Compiles a definition.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn new(definition: Definition) -> Result<Self, Vec<Problem>> {
        let mut compiler = Compiler::default();
        let events = compiler.events(&definition);
        let connect = compiler.connect(&definition);
        let disconnect = compiler.disconnect(&definition);
        let presence = compiler.presence(&definition);
        let (refusal, refusal_data, refusal_ack) = compiler.refusal(&definition);
        if !compiler.problems.is_empty() {
            return Err(compiler.problems);
        }
        Ok(Self { definition, events, connect, disconnect, presence, refusal, refusal_data, refusal_ack })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.definition.name
    }

    /// As it was written down.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// The limits of its namespaces, unless the config says others.
    pub fn limits(&self) -> &Limits {
        &self.definition.limits
    }

    /// What refusals are called.
    pub fn codes(&self) -> &Codes {
        &self.definition.codes
    }

    /// Whether a client may show its token in the query of its handshake.
    pub fn token_in_query(&self) -> bool {
        self.definition.token_in_query
    }

    /// How connections are refused.
    pub fn connect_refused(&self) -> ConnectRefused {
        self.definition.refusal.connect
    }

    /// What clients may send by that name.
    pub fn event(&self, name: &str) -> Option<&Event> {
        self.events.get(name)
    }

    /// What happens on connect.
    pub fn on_connect(&self) -> &[Step] {
        &self.connect
    }

    /// How many rooms every client is put into on connect.
    pub fn rooms_on_connect(&self) -> usize {
        self.connect.iter().filter(|step| matches!(step, Step::Join(_))).count()
    }

    /// What happens on disconnect, when the socket is still in its rooms.
    pub fn on_disconnect(&self) -> &[Step] {
        &self.disconnect
    }

    /// How rooms are told who is in them.
    pub fn presence(&self) -> &Presence {
        &self.presence
    }

    /// A refusal in the words of this dialect.
    pub fn refuse(&self, reason: Reason, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal::new(self.codes(), reason, message)
    }

    /// The room that a template names; `None` if a client has chosen a private one. A beginning that the dialect itself has
    /// written in full is the dialect's own doing.
    pub fn room(&self, template: &Text, facts: &Facts<'_>) -> Option<String> {
        let room = template.render(facts);
        let mut private = self.definition.private.iter().filter(|beginning| room.starts_with(&beginning.value));
        let reached = private.any(|beginning| template.bytes_before_payload(facts) < beginning.value.len());
        (!reached).then_some(room)
    }

    /// Reads an event's arguments: raw JSON, separated by commas. What could be read is there even if it is refused, for
    /// the answer. `attachments` are the bytes of the event's binary attachments.
    pub fn read<'a>(&self, event: &Event, args: &'a str, attachments: u64) -> (Payload<'a>, Option<Refusal>) {
        let bytes = args.len() as u64 + attachments;
        let most = self.limits().message_bytes.unwrap_or(u64::MAX);
        let Some(fields) = &event.fields else {
            let refusal = (bytes > most).then(|| self.too_large(bytes, most));
            return (Payload::default(), refusal);
        };
        let (payload, fault) = payload::read(fields, args, attachments);
        let refusal = fault.map(|fault| {
            let mut refusal = self.refuse(fault.reason, fault.message);
            if let Some(code) = fault.code {
                refusal.code = code;
            }
            refusal
        });
        // A field that says why it is too large says more than the whole does.
        let refusal = refusal.or_else(|| (bytes > most).then(|| self.too_large(bytes, most)));
        (payload, refusal)
    }

    fn too_large(&self, bytes: u64, most: u64) -> Refusal {
        self.refuse(Reason::TooLarge, format!("The message has {bytes} bytes; at most {most} are allowed"))
    }

    /// The event that tells a client of a refusal, and its data; `None` if it is told by the ack alone.
    pub fn refusal_event<'a>(&'a self, event: Option<&'a Event>, facts: &Facts<'_>) -> Option<(&'a EventName, String)> {
        let own = event.and_then(|event| event.refused.as_ref());
        let (name, data) = own.or(self.refusal.as_ref())?;
        Some((name, data.text(facts)))
    }

    /// The data of a refusal, for CONNECT_ERROR.
    pub fn refusal_data(&self, facts: &Facts<'_>) -> String {
        self.refusal_data.text(facts)
    }

    /// The ack of a refusal.
    pub fn refusal_ack(&self, event: Option<&Event>, facts: &Facts<'_>) -> String {
        let own = event.and_then(|event| event.refused_ack.as_ref());
        own.unwrap_or(&self.refusal_ack).text(facts)
    }
}

impl Event {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a principal of this kind may send it.
    pub fn is_for(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.iter().any(|own| **own == *kind)
    }

    /// What happens, in this order.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The answer.
    pub fn ack(&self) -> Option<&Json> {
        self.ack.as_ref()
    }

    /// Whether the id of a message is asked for, so that none is made in vain.
    pub fn needs_id(&self) -> bool {
        self.needs_id
    }
}
