//! How much a client may, and who it is.

use crate::reader::{FieldName, Hidden, KeyTemplate, Optional, RateText, Span, Token};

sections! {
    /// A zone: a limit for each value of a key. One of rate and connections.
    Limit {
        /// A template; a request for which it is empty is not limited.
        key: KeyTemplate = "{client_ip}",
        /// Requests per time (nginx limit_req_zone), such as "10r/s" or "30r/m".
        rate: Optional<RateText> = "",
        /// Requests beyond the rate that are let in.
        burst: u64 = 0,
        /// Whether none of those is delayed.
        nodelay: bool = false,
        /// How many of those are not delayed (nginx delay=N).
        delay: u64 = 0,
        /// Active requests and streams at most (nginx limit_conn).
        connections: u64 = 0,
        /// The answer beyond the limit, from 400 to 599.
        status: u64 = 429,
        /// Whether is only counted what would be refused or delayed.
        dry_run: bool = false,
        /// The most keys; beyond, a rate zone forgets the one unused for longest, a connections zone refuses.
        max_keys: u64 = 100000,
    }

    /// How fast new WebSockets, event streams and Socket.IO sessions are let in, in the whole process.
    Admission {
        /// How many per second; 0 is no limit.
        streams_per_second: u64 = 0,
        /// How many at once; 0 is as many as per second.
        burst: u64 = 0,
        /// Each refused one is told a random time between this and twice this (503).
        retry_after: Span = "2s",
    }

    /// Tokens checked at the edge, for {claim.NAME} and for routes with jwt = "required".
    Jwt {
        /// The secret of HS256 tokens, at least 32 bytes.
        secret: Optional<Hidden> = "",
        /// A file with that secret.
        secret_file: Optional<String> = "",
        /// The header that holds "Bearer TOKEN"; "" for none.
        header: Optional<FieldName> = "authorization",
        /// The cookie that holds a token.
        cookie: Optional<Token> = "",
        /// The query parameter that holds a token.
        query: Optional<Token> = "",
    }
}
