//! Codecs: Engine.IO v4, Socket.IO v5, WebSocket frames, SSE events, JSON lines, messages of Node's Redis adapters.
//!
//! Pure functions and small state machines over bytes that somebody else reads and writes: no sockets, no clock, no
//! randomness. What comes from a peer is hostile until decoded here.
//!
//! Invariants
//! - No input panics, and none makes a decoder keep more than its stated bound.
//! - Decoded text and JSON borrow from the input. Payload bytes are re-emitted as they came; JSON is checked for
//!   syntax, never built into a tree.
//! - Where this is stricter than the reference implementation in JavaScript, the reason stands at the place.
//!
//! Start reading at [`websocket::Decoder`], then [`engine_io::decode_text`], then [`socket_io::decode`]: the way of a
//! message that comes in.

#![forbid(unsafe_code)]

pub mod engine_io;
mod json;
pub mod lines;
mod members;
pub mod node_adapter;
pub mod socket_io;
pub mod sse;
pub mod websocket;

pub use json::write_string;
pub use members::{Members, NotAnObject, members, string_value};
