//! How much a client may, and who it is.

use crate::reader::{AlgorithmName, FieldName, Hidden, KeyTemplate, List, Optional, RateText, Span, Token, Url};

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
        /// Whether the nodes of a [cluster] count together. Not for connections.
        shared: bool = false,
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
        /// The secret of HMAC tokens, at least 32 bytes for HS256, 48 for HS384, 64 for HS512.
        secret: Optional<Hidden> = "",
        /// A file with that secret.
        secret_file: Optional<String> = "",
        /// The algorithms that count, such as ["ES256", "RS256"]; by default the usual one of each key (HS256, RS256, ES256, ES384, EdDSA). A key is used with one algorithm: its own, or the first of these that fits it.
        algorithms: List<AlgorithmName> = [],
        /// PEM files with the issuer's public keys; read again at a reload.
        public_keys: List<String> = [],
        /// Where the issuer publishes its keys (JWKS, RFC 7517). Fetched in the background; while it cannot be, the last keys count.
        jwks_url: Optional<Url> = "",
        /// A file with such a document; looked at every second.
        jwks_file: Optional<String> = "",
        /// How often jwks_url is fetched. A token with an unknown kid has it fetched at once, every 10 seconds at most.
        jwks_refresh: Span = "10m",
        /// One of these must stand in a token's aud; by default it is not looked at.
        audience: List<String> = [],
        /// One of these must be a token's iss; by default it is not looked at.
        issuer: List<String> = [],
        /// How far the issuer's clock may be off; counts for exp and nbf.
        leeway: Span = "0s",
        /// The header that holds "Bearer TOKEN"; "" for none.
        header: Optional<FieldName> = "authorization",
        /// The cookie that holds a token.
        cookie: Optional<Token> = "",
        /// The query parameter that holds a token.
        query: Optional<Token> = "",
    }
}
