//! What a route says about a request and its answer: templates with named variables, changes of headers, CORS, security
//! headers, access lists, and who the client is behind proxies that are trusted.
//!
//! Pure: no sockets, no clock, no environment.
