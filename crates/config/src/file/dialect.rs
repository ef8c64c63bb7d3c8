//! Realtime APIs declared in the file.

use crate::reader::{Bound, Boxed, Json, List, Named, Size, Span};
use crate::words::words;

sections! {
    /// An API of the realtime server, declared: what clients may send, and what that does. See docs/dialects.md.
    Dialect {
        /// Beginnings of rooms that no payload can name, such as "user:".
        private: List<String> = [],
        /// Whether a client may show its token as "token" in the query of its handshake. Queries stand in the logs of what is in front.
        token_in_query: bool = false,
        /// What refusals are called.
        codes: Codes,
        /// Limits of the namespaces that speak it.
        limits: DialectLimits,
        /// How a client is told of a refusal.
        refusal: Refusal,
        /// What happens on connect.
        connect: Moment,
        /// What happens on disconnect.
        disconnect: Moment,
        /// How rooms are told who is in them; without it, they are not.
        presence: DialectPresence,
        /// What clients may send, by its name.
        event: Named<Event>,
    }

    /// What refusals are called.
    Codes {
        /// A payload is not as declared.
        invalid: String = "INVALID_INPUT",
        /// A field or a message is too large.
        too_large: String = "MESSAGE_TOO_LARGE",
        /// The socket is not in the room.
        not_in_room: String = "NOT_IN_ROOM",
        /// The user may not.
        forbidden: String = "FORBIDDEN",
        /// Too many events.
        rate_limit: String = "RATE_LIMIT_EXCEEDED",
        /// Too many rooms.
        room_limit: String = "ROOM_LIMIT_EXCEEDED",
        /// Too many connections in all.
        connection_limit: String = "CONNECTION_LIMIT_EXCEEDED",
        /// Too many connections of the user.
        user_connection_limit: String = "USER_CONNECTION_LIMIT_EXCEEDED",
        /// The token is missing, wrong or expired.
        auth_failed: String = "AUTH_FAILED",
        /// The server cannot do it now.
        unavailable: String = "CONNECTION_ERROR",
    }

    /// Limits of the namespaces that speak a dialect; 0 is none.
    DialectLimits {
        /// Connections of one tenant.
        connections: u64 = 0,
        /// Connections of one user.
        connections_per_user: u64 = 0,
        /// Rooms of one user.
        rooms_per_user: u64 = 0,
        /// Events of one user in a minute.
        events_per_minute: u64 = 0,
        /// The largest payload of an event; "max_payload" of [realtime] holds as well.
        message_bytes: Size = 0,
    }

    /// How a client is told of a refusal.
    Refusal {
        /// The event; "" for none.
        event: String = "error",
        /// Its data; without it, { code, message, retryAfter }.
        data: Json,
        /// The ack; without it, { success = false, error }.
        ack: Json,
        /// How a connection is refused: by "connect_error", or by the "event", after which it is closed.
        connect: ConnectRefusal = "connect_error",
    }

    /// What happens when a client connects or goes.
    Moment {
        /// Steps, in this order.
        r#do: List<Step>,
    }

    /// How rooms are told who is in them.
    DialectPresence {
        /// Only rooms that begin so.
        rooms: String = "",
        /// What the others are told when somebody has come.
        join: Told,
        /// What the others are told when somebody has gone.
        leave: Told,
        /// What all are told when something about somebody is new, and who has just joined.
        update: Told,
    }

    /// An event and its data.
    Told {
        /// The event.
        event: String,
        /// Its data.
        data: Json,
    }

    /// What a client may send.
    Event {
        /// The fields of its payload, an object; without it, nothing is read.
        payload: Named<Field>,
        /// Whether fields that are not declared are passed over.
        unknown_keys: bool = false,
        /// Only principals of these kinds may send it; [] for all.
        kinds: List<String> = [],
        /// Steps, in this order.
        r#do: List<Step>,
        /// The answer; without it, there is none.
        ack: Json,
        /// The answer of a refusal; without it, that of the dialect.
        refused_ack: Json,
        /// The event of a refusal; without it, that of the dialect.
        refused: Told,
    }

    /// A field of a payload.
    Field {
        /// What it holds.
        r#type: FieldType,
        /// Whether it must be there; null is as missing.
        required: bool = true,
        /// Whether "", [] and {} are refused.
        not_empty: bool = false,
        /// The least number, or the fewest characters or items.
        min: Bound,
        /// The greatest number, or the most characters or items.
        max: Bound,
        /// A regular expression that a string must match.
        pattern: String,
        /// The only values of a string.
        one_of: List<String> = [],
        /// The most bytes of its JSON.
        max_bytes: Size,
        /// What a wrong value is refused with; without it, the dialect's code.
        code: String,
        /// The fields of an object.
        fields: Named<Field>,
        /// Whether fields of the object that are not declared are passed over.
        unknown_keys: bool = false,
        /// What each item of a list is.
        items: Boxed<Field>,
    }

    /// One thing that happens: one of join, leave, emit and presence.
    Step {
        /// The room that the socket joins: a template.
        join: String,
        /// The room that the socket leaves: a template.
        leave: String,
        /// The event that is sent.
        emit: String,
        /// The room that it is sent to, a template; without it, the socket itself.
        room: String,
        /// Whether the socket itself is left out.
        others: bool = false,
        /// Whether only members of the room may send to it.
        members_only: bool = true,
        /// The data of the event.
        data: Json,
        /// What is promised: "volatile", "recoverable" or "persistent".
        class: MessageClass = "recoverable",
        /// Names the message, so that one that is sent again is delivered once: a template.
        nonce: String,
        /// For how long the nonce is remembered.
        nonce_window: Span = "10s",
        /// The user's new status, "online", "away", "busy" or "offline", or "" for what it is: a template.
        presence: String,
        /// What the user says about themselves: an object.
        metadata: Json,
        /// What the user is doing, shown in presence: a template.
        current_activity: String,
        /// A status in the user's own words, shown in presence: a template.
        custom_status: String,
    }
}

words! {
    /// What a field holds.
    pub(crate) FieldType {
        /// A string.
        String = "string",
        /// A UUID of version 4.
        Uuid = "uuid",
        /// A number.
        Number = "number",
        /// A number without a fraction.
        Integer = "integer",
        /// `true` or `false`.
        Boolean = "boolean",
        /// Whatever is not `null`.
        Any = "any",
        /// An object.
        Object = "object",
        /// A list.
        List = "list",
    }
    /// How a connection is refused.
    pub(crate) ConnectRefusal {
        /// By CONNECT_ERROR.
        ConnectError = "connect_error",
        /// By the event of refusals, after which it is closed.
        Event = "event",
    }
    /// What is promised for a message.
    pub(crate) MessageClass {
        /// In order, replayed after a cut.
        Recoverable = "recoverable",
        /// At most once.
        Volatile = "volatile",
        /// Stored before the ack.
        Persistent = "persistent",
    }
}
