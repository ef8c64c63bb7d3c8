//! Limits on live sockets: zones, connections, who the client is, heads and bodies.

mod admission;
mod bodies;
mod clients;
mod slow;
pub mod zones;
