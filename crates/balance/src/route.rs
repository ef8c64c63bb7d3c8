use rustc_hash::FxHashMap;
use thiserror::Error;

/// Why a route cannot be added.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidRoute {
    /// A prefix must begin with `/`.
    #[error("the path prefix {0:?} does not begin with \"/\"")]
    Relative(String),
    /// The same host and prefix was added before.
    #[error("host {host:?} has two routes for the path prefix {prefix:?}")]
    Duplicate {
        /// The host, lower case; `None` is the default.
        host: Option<String>,
        /// The prefix.
        prefix: String,
    },
}

/// Chooses a target by host (exact, else the default) and then by the longest path prefix, as nginx's `server_name` and
/// `location /x` do: prefixes are plain text, so `/x` also matches `/xy`. A known host never falls back to the default
/// host's routes.
#[derive(Clone, Debug)]
pub struct RouteTable<T> {
    hosts: FxHashMap<Box<str>, Paths<T>>,
    default: Paths<T>,
}

/// Longest prefix first.
type Paths<T> = Vec<(Box<str>, T)>;

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { hosts: FxHashMap::default(), default: Vec::new() }
    }
}

impl<T> RouteTable<T> {
    /// An empty table.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route; `host` without port, `None` for the default.
    pub fn insert(&mut self, host: Option<&str>, prefix: &str, target: T) -> Result<(), InvalidRoute> {
        if !prefix.starts_with('/') {
            return Err(InvalidRoute::Relative(prefix.to_owned()));
        }
        let host = host.map(|host| host.to_ascii_lowercase().into_boxed_str());
        let paths = match &host {
            Some(host) => self.hosts.entry(host.clone()).or_default(),
            None => &mut self.default,
        };
        if paths.iter().any(|(known, _)| &**known == prefix) {
            return Err(InvalidRoute::Duplicate { host: host.map(String::from), prefix: prefix.to_owned() });
        }
        let place = paths.partition_point(|(known, _)| known.len() >= prefix.len());
        paths.insert(place, (prefix.into(), target));
        Ok(())
    }

    /// The target for a request. `host` may carry a port and any case; `path` is the path alone, without the query.
    pub fn find(&self, host: &str, path: &str) -> Option<&T> {
        let paths = if self.hosts.is_empty() { &self.default } else { self.paths_of(host) };
        paths.iter().find(|(prefix, _)| path.starts_with(&**prefix)).map(|(_, target)| target)
    }

    /// Every target.
    pub fn targets(&self) -> impl Iterator<Item = &T> {
        self.hosts.values().chain([&self.default]).flatten().map(|(_, target)| target)
    }

    fn paths_of(&self, host: &str) -> &Paths<T> {
        let name = without_port(host);
        let found = if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            self.hosts.get(name.to_ascii_lowercase().as_str())
        } else {
            self.hosts.get(name)
        };
        found.unwrap_or(&self.default)
    }
}

/// `example.org:8080` → `example.org`, `[::1]:80` → `[::1]`; one trailing dot of the root is dropped.
fn without_port(host: &str) -> &str {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            // An IPv6 literal has colons of its own, and no port unless the bracket is closed before it.
            if name.starts_with('[') && !name.ends_with(']') { host } else { name }
        }
        Some(_) | None => host,
    };
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RouteTable<&'static str> {
        let mut table = RouteTable::new();
        table.insert(None, "/", "root").unwrap();
        table.insert(None, "/api", "api").unwrap();
        table.insert(None, "/api/v2/", "v2").unwrap();
        table.insert(Some("Chat.example.org"), "/ws", "chat").unwrap();
        table
    }

    #[test]
    fn the_longest_prefix_wins_whatever_the_order_of_insertion() {
        let table = table();
        assert_eq!(table.find("x", "/api/v2/users"), Some(&"v2"));
        assert_eq!(table.find("x", "/api/v2"), Some(&"api"));
        assert_eq!(table.find("x", "/"), Some(&"root"));
    }

    #[test]
    fn a_prefix_is_plain_text_as_in_nginx() {
        assert_eq!(table().find("x", "/apiary"), Some(&"api"));
    }

    #[test]
    fn a_host_is_matched_without_case_port_and_trailing_dot() {
        let table = table();
        for host in ["chat.example.org", "CHAT.example.org:8080", "chat.example.org.", "chat.example.org.:80"] {
            assert_eq!(table.find(host, "/ws/1"), Some(&"chat"), "{host}");
        }
    }

    #[test]
    fn a_known_host_does_not_fall_back_to_the_default_host() {
        assert_eq!(table().find("chat.example.org", "/api"), None);
    }

    #[test]
    fn ipv6_hosts_keep_their_brackets() {
        assert_eq!(without_port("[::1]:8080"), "[::1]");
        assert_eq!(without_port("[::1]"), "[::1]");
        assert_eq!(without_port(":80"), ":80");
    }

    #[test]
    fn relative_and_duplicate_prefixes_are_refused() {
        let mut table = table();
        assert!(matches!(table.insert(None, "api", "x"), Err(InvalidRoute::Relative(_))));
        assert!(matches!(table.insert(Some("CHAT.example.org"), "/ws", "x"), Err(InvalidRoute::Duplicate { .. })));
    }
}
