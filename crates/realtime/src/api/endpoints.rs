//! Every endpoint, once. The API's description in `docs/realtime-api.yaml` is held against this list.

use ::http::Method;
use smallvec::SmallVec;

use crate::http::decode;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    OpenApi,
    Ticket,
    Events,
    EventsOfSeveral,
    Rooms,
    Room,
    History,
    Presence,
    Connections,
    UserConnections,
    Publish,
    Broadcast,
    Batch,
    Join,
    Leave,
    DisconnectUser,
    DisconnectConnection,
    Revoke,
}

impl Endpoint {
    /// Whether the request says what it wants in a body.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Publish | Self::Broadcast | Self::Batch | Self::Revoke)
    }
}

const ENDPOINTS: &[(Method, &str, Endpoint)] = &[
    (Method::GET, "/openapi.yaml", Endpoint::OpenApi),
    (Method::POST, "/tickets", Endpoint::Ticket),
    (Method::GET, "/events", Endpoint::EventsOfSeveral),
    (Method::GET, "/rooms", Endpoint::Rooms),
    (Method::GET, "/rooms/{room}", Endpoint::Room),
    (Method::GET, "/rooms/{room}/events", Endpoint::Events),
    (Method::POST, "/rooms/{room}/messages", Endpoint::Publish),
    (Method::GET, "/rooms/{room}/history", Endpoint::History),
    (Method::GET, "/rooms/{room}/presence", Endpoint::Presence),
    (Method::PUT, "/rooms/{room}/members/{user}", Endpoint::Join),
    (Method::DELETE, "/rooms/{room}/members/{user}", Endpoint::Leave),
    (Method::POST, "/broadcast", Endpoint::Broadcast),
    (Method::POST, "/batch", Endpoint::Batch),
    (Method::POST, "/revocations", Endpoint::Revoke),
    (Method::GET, "/connections", Endpoint::Connections),
    (Method::DELETE, "/connections/{connection}", Endpoint::DisconnectConnection),
    (Method::GET, "/users/{user}/connections", Endpoint::UserConnections),
    (Method::DELETE, "/users/{user}/connections", Endpoint::DisconnectUser),
];

/// What stands for the placeholders of a path, decoded, in their order.
pub(super) type Names = SmallVec<[String; 2]>;

pub(super) enum Found {
    Endpoint(Endpoint, Names),
    /// The path is one of ours, the method is not: those that are, as in the header `Allow`.
    OtherMethods(String),
    Nothing,
}

/// Looks up an endpoint by its path below `api_path`.
pub(super) fn find(method: &Method, path: &str) -> Found {
    let mut allowed = String::new();
    for (of, template, endpoint) in ENDPOINTS {
        let Some(names) = fit(template, path) else { continue };
        if of == method {
            return Found::Endpoint(*endpoint, names);
        }
        if !allowed.is_empty() {
            allowed.push_str(", ");
        }
        allowed.push_str(of.as_str());
    }
    if allowed.is_empty() { Found::Nothing } else { Found::OtherMethods(allowed) }
}

fn fit(template: &str, path: &str) -> Option<Names> {
    let mut names = Names::new();
    let mut given = path.split('/');
    for part in template.split('/') {
        let given = given.next()?;
        if part.starts_with('{') {
            // `/rooms/` is a slip, and no room without a name.
            let given = Some(given).filter(|given| !given.is_empty())?;
            names.push(decode(given, false).into_owned());
        } else if part != given {
            return None;
        }
    }
    given.next().is_none().then_some(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_with_the_names_in_them() {
        let Found::Endpoint(endpoint, names) = find(&Method::POST, "/rooms/case%3A17%2Fa/messages") else { panic!() };
        assert_eq!((endpoint, names.as_slice()), (Endpoint::Publish, &["case:17/a".to_owned()][..]));
        assert!(matches!(find(&Method::DELETE, "/tickets"), Found::OtherMethods(allowed) if allowed == "POST"));
        assert!(
            matches!(find(&Method::POST, "/users/a/connections"), Found::OtherMethods(allowed) if allowed == "GET, DELETE")
        );
        for path in
            ["", "/", "/tickets/", "/rooms/", "/rooms//events", "/rooms/a/", "/rooms/a/b/events", "rooms/a/events"]
        {
            assert!(matches!(find(&Method::GET, path), Found::Nothing), "{path}");
        }
    }

    #[test]
    fn the_description_has_these_endpoints_and_no_other() {
        let mut described = Vec::new();
        let mut path = "";
        for line in super::super::OPENAPI.lines().skip_while(|line| *line != "paths:").skip(1) {
            match (line.strip_prefix("  "), line.strip_suffix(':')) {
                (None, _) if !line.is_empty() => break,
                (Some(rest), Some(_)) if rest.starts_with('/') => path = rest.trim_end_matches(':'),
                (Some(rest), Some(_)) => {
                    let method = rest.strip_prefix("  ").unwrap_or_default().trim_end_matches(':');
                    if ["get", "put", "post", "delete", "patch"].contains(&method) {
                        described.push(format!("{} {path}", method.to_uppercase()));
                    }
                }
                _ => {}
            }
        }
        let mut there: Vec<String> = ENDPOINTS.iter().map(|(method, path, _)| format!("{method} {path}")).collect();
        described.sort();
        there.sort();
        assert_eq!(described, there);
    }
}
