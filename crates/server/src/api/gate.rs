//! Who may use the admin API.

use std::net::SocketAddr;

use http::Request;
use http::header::{AUTHORIZATION, HOST, ORIGIN};
use tidegate_auth::{Secret, constant_time_eq};
use tidegate_types::ErrorCode;

use super::answer::Refusal;

/// With a token: whoever has it. Without one: whoever is on this machine, unless it is a browser on somebody else's behalf.
#[derive(Debug)]
pub(crate) struct Gate {
    token: Option<Secret>,
    /// The listener can be reached from this machine only.
    local: bool,
}

impl Gate {
    /// For the admin listener at that address.
    pub fn new(token: Option<Secret>, address: Option<SocketAddr>) -> Self {
        Self { token, local: address.is_none_or(|address| address.ip().is_loopback()) }
    }

    pub fn admit<B>(&self, request: &Request<B>) -> Result<(), Refusal> {
        let headers = request.headers();
        if let Some(token) = &self.token {
            let given = headers.get(AUTHORIZATION).and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
            let right = given.is_some_and(|given| constant_time_eq(given, token.expose().as_bytes()));
            return if right { Ok(()) } else { Err(Refusal::unauthorized()) };
        }
        if !self.local {
            let message = "The admin listener can be reached from elsewhere: set a token in [admin] to use the API";
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        // A page in a browser on this machine could send requests here, and by a name of its own that leads to 127.0.0.1
        // it could read the answers too.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
        if headers.contains_key(ORIGIN) || !is_loopback(host) {
            let message =
                "Without a token the API is for programs on this machine, by the address 127.0.0.1 or localhost";
            return Err(Refusal::new(ErrorCode::Forbidden, message));
        }
        Ok(())
    }
}

/// Whether a Host header names this machine's loopback by address or as `localhost`.
fn is_loopback(host: &str) -> bool {
    let name = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    let name = name.map_or(host, |(name, _)| name);
    let name = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "127.0.0.1:9090";

    fn admitted(token: Option<&str>, address: &str, headers: &[(&str, &str)]) -> bool {
        let gate = Gate::new(token.map(Secret::from), address.parse().ok());
        let mut request = Request::builder();
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        gate.admit(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn a_token_is_needed_where_there_is_one() {
        for address in [LOOPBACK, "0.0.0.0:9090"] {
            assert!(admitted(Some("0123456789abcdef"), address, &[("authorization", "Bearer 0123456789abcdef")]));
            assert!(!admitted(Some("0123456789abcdef"), address, &[("authorization", "Bearer 0123456789abcdee")]));
            assert!(!admitted(Some("0123456789abcdef"), address, &[("host", "127.0.0.1")]));
        }
    }

    #[test]
    fn without_a_token_only_programs_of_this_machine_are_let_in() {
        for host in ["127.0.0.1:9090", "localhost", "LOCALHOST:1", "[::1]:9090", "[::1]"] {
            assert!(admitted(None, LOOPBACK, &[("host", host)]), "{host}");
        }
        assert!(!admitted(None, LOOPBACK, &[("host", "rebound.example.org:9090")]));
        assert!(!admitted(None, LOOPBACK, &[]));
        assert!(!admitted(None, LOOPBACK, &[("host", "localhost"), ("origin", "http://localhost:3000")]));
        assert!(!admitted(None, "0.0.0.0:9090", &[("host", "127.0.0.1:9090")]));
    }
}
