//! What a config will serve, in a few lines for people.

use std::fmt::Write as _;

use crate::{Action, Balance, Config, Route};

impl Config {
    /// Listeners, routes with what they do, and upstreams; one line each, none of them secret.
    pub fn summary(&self) -> String {
        let mut rows: Vec<(&str, String, String)> = Vec::new();
        for listener in &self.listeners {
            let scheme = if listener.tls.is_some() { "https" } else { "http" };
            let mut what = format!("{scheme}://{}", listener.address);
            if let Some(port) = listener.redirect_https {
                let _ = write!(what, ", redirects to https at port {port}");
            }
            if self.realtime.as_ref().is_some_and(|realtime| realtime.listeners.contains(&listener.name)) {
                what.push_str(", realtime");
            }
            rows.push(("listener", listener.name.to_string(), what));
        }
        if let Some(admin) = &self.admin {
            rows.push(("admin", String::new(), format!("http://{}", admin.address)));
        }
        for route in &self.routes {
            rows.push(("route", route.name.to_string(), described(route)));
        }
        for upstream in &self.upstreams {
            let word = word(&upstream.balance);
            let servers: Vec<&str> = upstream.servers.iter().map(|server| &*server.address).collect();
            // A long list would hide the rest.
            let more = servers.len().saturating_sub(SHOWN);
            let shown = servers.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let shown = match upstream.discover {
                Some(discover) => format!("the {} nodes of the cluster", discover.as_str()),
                None => shown,
            };
            rows.push(("upstream", upstream.name.to_string(), format!("{word}: {shown}{more}")));
        }
        let width = rows.iter().map(|(_, name, _)| name.chars().count()).max().unwrap_or(0).min(WIDEST);
        rows.into_iter().fold(String::new(), |mut text, (kind, name, what)| {
            let _ = writeln!(text, "  {kind:<8}  {name:<width$}  {what}");
            text
        })
    }
}

/// Servers of an upstream that are shown.
const SHOWN: usize = 5;
/// The widest column of names.
const WIDEST: usize = 32;

fn described(route: &Route) -> String {
    let mut text = String::new();
    for part in [&route.methods, &route.listeners, &route.hosts] {
        if !part.is_empty() {
            let _ = write!(text, "{} ", part.join(","));
        }
    }
    let _ = write!(text, "{}", route.path);
    for condition in &route.headers {
        let _ = write!(text, " [{condition}]");
    }
    let _ = match &route.action {
        Action::Upstream { name, .. } => write!(text, " -> upstream {name}"),
        Action::Redirect { to, status } => write!(text, " -> {status} {to}"),
        Action::Respond { status, .. } => write!(text, " -> responds {status}"),
        Action::StubStatus => write!(text, " -> stub_status"),
    };
    text
}

/// The word for an algorithm, as in the file.
pub(crate) fn word(balance: &Balance) -> &'static str {
    match balance {
        Balance::RoundRobin => "round_robin",
        Balance::LeastConn => "least_conn",
        Balance::IpHash => "ip_hash",
        Balance::Hash { .. } => "hash",
        Balance::Random => "random",
        Balance::LeastTime => "least_time",
    }
}
