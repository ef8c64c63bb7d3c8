//! Every endpoint, once. The API's description in `docs/realtime-api.yaml` is held against this list.

use ::http::Method;
use smallvec::SmallVec;

use crate::http::decode;

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Ticket,
    Events,
    Publish,
}

const ENDPOINTS: &[(Method, &str, Endpoint)] = &[
    (Method::POST, "/tickets", Endpoint::Ticket),
    (Method::GET, "/rooms/{room}/events", Endpoint::Events),
    (Method::POST, "/rooms/{room}/messages", Endpoint::Publish),
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
        for path in ["", "/", "/tickets/", "/rooms", "/rooms/a/b/events", "rooms/a/events"] {
            assert!(matches!(find(&Method::GET, path), Found::Nothing), "{path}");
        }
    }
}
