//! Realtime APIs declared as data: what a namespace does when a client connects, sends an event, or goes.
//!
//! A [`Dialect`] is compiled once from a [`Definition`], in which all that can be wrong is found at once and with its
//! place. At run time it reads a payload against its schema, and renders texts and JSON from it. It does nothing itself:
//! whoever holds the connections walks the [`Step`]s.
//!
//! Invariants:
//! - What is rendered is JSON whatever a payload holds: a value goes in as the raw text that was checked, or inside a
//!   string, escaped.
//! - A payload never stands in for who sent it: `{user}` is the token's, a field of that name is `{payload.user}`.
//! - No tree is built of a payload; reading one is linear in its text.
//!
//! Start reading at [`Dialect::event`], then [`Event::read`], then [`Json::render`].

#![forbid(unsafe_code)]

mod check;
mod definition;
mod dialect;
mod facts;
mod field;
mod payload;
mod refusal;
mod template;

pub use definition::{
    Act, Definition, EventDefinition, FieldDefinition, FieldKind, JsonDefinition, Placed, PresenceDefinition, Problem,
    RefusalDefinition, Shape, StepDefinition,
};
pub use dialect::{Dialect, Emit, Event, Nonce, Presence, PresenceEvent, PresenceStep, Step};
pub use facts::Facts;
pub use payload::Payload;
pub use refusal::{Codes, ConnectRefused, Limits, Reason, Refusal};
pub use template::{Json, Text};

/// The definition of the cases API, as it would stand in a config file.
pub const CASES: &str = include_str!("../dialects/cases.toml");
/// The definition of the chat API, as it would stand in a config file.
pub const CHAT: &str = include_str!("../dialects/chat.toml");
