use std::fmt;

/// Why a connection ended. Label of metrics and field of logs; the text is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client closed cleanly (Socket.IO DISCONNECT, Engine.IO close, WebSocket close).
    ClientClosed,
    /// The transport broke without a word.
    TransportClosed,
    /// No pong within pingInterval + pingTimeout.
    PingTimeout,
    /// No Socket.IO CONNECT within connectTimeout.
    ConnectTimeout,
    /// A packet or frame that breaks the protocol.
    ProtocolError,
    /// Text that is no UTF-8.
    InvalidText,
    /// A message larger than allowed.
    MessageTooLarge,
    /// The outbox was full.
    SlowConsumer,
    /// The server is going away.
    ServerShutdown,
    /// The server closed this connection on purpose.
    Kicked,
    /// Nothing was read for too long.
    IdleTimeout,
    /// The upstream or the other side failed.
    UpstreamFailed,
    /// Asked to connect again, and to be served elsewhere.
    Moved,
    /// More than a limit allows.
    RateLimited,
    /// The token that opened it is over.
    TokenExpired,
    /// The token or its user was shut out.
    TokenRevoked,
    /// The application's code failed.
    InternalError,
}

impl CloseReason {
    /// Stable text for logs and metric labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ClientClosed => "client_closed",
            Self::TransportClosed => "transport_closed",
            Self::PingTimeout => "ping_timeout",
            Self::ConnectTimeout => "connect_timeout",
            Self::ProtocolError => "protocol_error",
            Self::InvalidText => "invalid_text",
            Self::MessageTooLarge => "message_too_large",
            Self::SlowConsumer => "slow_consumer",
            Self::ServerShutdown => "server_shutdown",
            Self::Kicked => "kicked",
            Self::IdleTimeout => "idle_timeout",
            Self::UpstreamFailed => "upstream_failed",
            Self::Moved => "moved",
            Self::RateLimited => "rate_limited",
            Self::TokenExpired => "token_expired",
            Self::TokenRevoked => "token_revoked",
            Self::InternalError => "internal_error",
        }
    }

    /// The WebSocket close code (RFC 6455 section 7.4.1) that tells the peer why.
    pub fn websocket_code(self) -> u16 {
        match self {
            Self::ClientClosed | Self::TransportClosed => 1000,
            Self::PingTimeout | Self::ConnectTimeout | Self::IdleTimeout | Self::Kicked | Self::RateLimited => 1008,
            Self::ProtocolError => 1002,
            Self::InvalidText => 1007,
            Self::MessageTooLarge => 1009,
            Self::SlowConsumer => 1013,
            Self::ServerShutdown | Self::Moved => 1012,
            Self::UpstreamFailed => 1014,
            // Applications may define these; the last digits are HTTP's.
            Self::TokenExpired => 4401,
            Self::TokenRevoked => 4403,
            Self::InternalError => 1011,
        }
    }

    /// Whether a session that ended so may be recovered by its client.
    pub fn recoverable(self) -> bool {
        matches!(
            self,
            Self::TransportClosed
                | Self::PingTimeout
                | Self::ServerShutdown
                | Self::SlowConsumer
                | Self::IdleTimeout
                | Self::Moved
                | Self::TokenExpired
        )
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Stable codes of errors that the gateway itself answers with, in the JSON body `{"error":{"code","message","requestId"}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    /// The request's framing or head is ambiguous or malformed (400).
    BadRequest,
    /// No route matches (404).
    NoRoute,
    /// A credential is missing or wrong (401).
    Unauthorized,
    /// The credential does not allow this (403).
    Forbidden,
    /// No such thing (404).
    NotFound,
    /// The method is not supported here (405).
    MethodNotAllowed,
    /// The request did not come in time (408).
    RequestTimeout,
    /// Something of the same name is under way (409).
    Conflict,
    /// The body is larger than allowed (413).
    PayloadTooLarge,
    /// The body is of a type that is not read here (415).
    UnsupportedMediaType,
    /// Well formed, and contradicts what was said before (422).
    Unprocessable,
    /// The request's head is larger than allowed (431).
    HeadTooLarge,
    /// Too many requests (429).
    RateLimited,
    /// The upstream broke off, answered garbage or refused the upgrade wrongly (502).
    BadGateway,
    /// No upstream server can take the request, or the process is draining (503).
    Unavailable,
    /// The upstream did not answer in time (504).
    GatewayTimeout,
    /// A defect of ours (500).
    Internal,
}

impl ErrorCode {
    /// Stable text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::NoRoute => "NO_ROUTE",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Forbidden => "FORBIDDEN",
            Self::NotFound => "NOT_FOUND",
            Self::MethodNotAllowed => "METHOD_NOT_ALLOWED",
            Self::RequestTimeout => "REQUEST_TIMEOUT",
            Self::Conflict => "CONFLICT",
            Self::PayloadTooLarge => "PAYLOAD_TOO_LARGE",
            Self::UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
            Self::Unprocessable => "UNPROCESSABLE",
            Self::HeadTooLarge => "HEAD_TOO_LARGE",
            Self::RateLimited => "RATE_LIMITED",
            Self::BadGateway => "BAD_GATEWAY",
            Self::Unavailable => "UNAVAILABLE",
            Self::GatewayTimeout => "GATEWAY_TIMEOUT",
            Self::Internal => "INTERNAL",
        }
    }

    /// The HTTP status that goes with the code.
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NoRoute | Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict => 409,
            Self::PayloadTooLarge => 413,
            Self::UnsupportedMediaType => 415,
            Self::Unprocessable => 422,
            Self::HeadTooLarge => 431,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::BadGateway => 502,
            Self::Unavailable => 503,
            Self::GatewayTimeout => 504,
        }
    }

    /// The JSON error body. `message` is for people and must hold nothing secret.
    pub fn body(self, message: &str, request_id: &str) -> String {
        #[derive(serde::Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Detail<'a> {
            code: &'a str,
            message: &'a str,
            request_id: &'a str,
        }
        #[derive(serde::Serialize)]
        struct Body<'a> {
            error: Detail<'a>,
        }
        let body = Body { error: Detail { code: self.as_str(), message, request_id } };
        serde_json::to_string(&body).unwrap_or_default()
    }
}
