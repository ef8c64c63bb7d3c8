use std::borrow::Cow;
use std::sync::Arc;

macro_rules! codes {
    ($($(#[doc = $doc:literal])+ $variant:ident $field:ident = $default:literal,)+) => {
        /// Why something is refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Reason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Reason {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The key that renames the code in a definition.
            pub fn key(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field),)+ }
            }

            /// The code by default, which is also the one in metrics.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $default,)+ }
            }
        }

        /// What refusals are called.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Codes {
            $($(#[doc = $doc])+ pub $field: Arc<str>,)+
        }

        impl Default for Codes {
            fn default() -> Self {
                Self { $($field: $default.into(),)+ }
            }
        }

        impl Codes {
            /// The code for a reason.
            pub fn of(&self, reason: Reason) -> &Arc<str> {
                match reason { $(Reason::$variant => &self.$field,)+ }
            }

            /// Renames the code for a reason.
            pub fn set(&mut self, reason: Reason, code: Arc<str>) {
                match reason { $(Reason::$variant => self.$field = code,)+ }
            }
        }
    };
}

codes! {
    /// A payload is not as declared.
    Invalid invalid = "INVALID_INPUT",
    /// A field is larger than declared, or a message than the namespace allows.
    TooLarge too_large = "MESSAGE_TOO_LARGE",
    /// The socket is not in the room.
    NotInRoom not_in_room = "NOT_IN_ROOM",
    /// The user may not.
    Forbidden forbidden = "FORBIDDEN",
    /// Too many events.
    RateLimit rate_limit = "RATE_LIMIT_EXCEEDED",
    /// Too many rooms.
    RoomLimit room_limit = "ROOM_LIMIT_EXCEEDED",
    /// Too many connections in all.
    ConnectionLimit connection_limit = "CONNECTION_LIMIT_EXCEEDED",
    /// Too many connections of the user.
    UserConnectionLimit user_connection_limit = "USER_CONNECTION_LIMIT_EXCEEDED",
    /// The token is missing, wrong or expired.
    AuthFailed auth_failed = "AUTH_FAILED",
    /// The server cannot do it now.
    Unavailable unavailable = "CONNECTION_ERROR",
}

/// Why a client does not get what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What the client is told as code.
    pub code: Arc<str>,
    /// What the client is told in words.
    pub message: Cow<'static, str>,
    /// When to try again, seconds.
    pub retry_after_s: Option<u64>,
    /// How many rooms the user is in.
    pub room_count: Option<u64>,
}

impl Refusal {
    /// A refusal with what it is called by default.
    pub fn new(codes: &Codes, reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Self { reason, code: codes.of(reason).clone(), message: message.into(), retry_after_s: None, room_count: None }
    }
}

/// How a connection is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectRefused {
    /// By CONNECT_ERROR, with the refusal's data as its `data`.
    #[default]
    ConnectError,
    /// The client is let in, gets the refusal's event, and is put out: what applications do that check a token in their
    /// connection handler.
    Event,
}

/// Limits of a namespace; `None` is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Connections of one tenant.
    pub connections: Option<u32>,
    /// Connections of one user.
    pub connections_per_user: Option<u32>,
    /// Rooms of one user.
    pub rooms_per_user: Option<u32>,
    /// Events of one user per minute.
    pub events_per_minute: Option<u32>,
    /// The largest payload of an event, bytes of its JSON and attachments.
    pub message_bytes: Option<u64>,
}
