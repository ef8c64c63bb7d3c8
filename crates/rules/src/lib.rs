//! What a route says about a request and its answer: templates with named variables, changes of headers, CORS, security
//! headers, access lists, and who the client is behind proxies that are trusted.
//!
//! Pure: no sockets, no clock, no environment. Everything is parsed once, when the config is read; what is left to do for
//! a request is to look up and to copy.
//!
//! Start reading at [`Template`] and [`Facts`]; then [`HeaderChanges`] and [`Cors`].

mod access;
mod client_address;
mod cors;
mod escape;
mod facts;
mod header_changes;
mod header_match;
mod path_change;
pub mod proxy_protocol;
mod security;
mod template;
mod time;
mod value;
mod variable;

pub use access::{AccessList, AccessRule, Cidr, InvalidAccessRule, InvalidCidr, TrustedProxies};
pub use client_address::{AddressHeader, client_address};
pub use cors::{Cors, InvalidOrigin, OriginPattern, Preflight};
pub use facts::{EndFacts, Facts, TlsFacts, UpstreamFacts};
pub use header_changes::{HeaderChanges, HeaderLine, RenderedChanges, header_name};
pub use header_match::HeaderMatch;
pub use path_change::PathChange;
pub use security::{Security, SecurityHeaders};
pub use template::{Place, Template, TemplateError};
pub use time::{push_rfc3339, push_time_local};
pub use variable::{Named, VARIABLES, Variable};
