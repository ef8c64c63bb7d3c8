use std::collections::HashMap;
use std::sync::Arc;

use crate::reader::{At, Reader};
use crate::{Listener, PathMatch, Realtime, Route};

/// A host, and every condition that tells routes of one host apart.
type Conditions = (Option<Arc<str>>, PathMatch, Vec<Arc<str>>, Vec<Arc<str>>);

/// The listeners of a route, and where it stands.
type Taken = (Vec<Arc<str>>, usize);

/// Finds routes that can never differ, and names given twice.
#[derive(Default)]
pub(super) struct Overlap {
    names: HashMap<Arc<str>, usize>,
    seen: HashMap<Conditions, Vec<Taken>>,
}

impl Overlap {
    /// Takes the next route in; notes it if one of those before is for the same requests or has the same name.
    pub fn take(&mut self, reader: &Reader<'_>, route: &Route, path_place: usize, name_place: usize) {
        let sorted = |values: &[Arc<str>]| {
            let mut values = values.to_vec();
            values.sort();
            values
        };
        let hosts: Vec<Option<Arc<str>>> =
            if route.hosts.is_empty() { vec![None] } else { route.hosts.iter().cloned().map(Some).collect() };
        let mut first = None;
        for host in hosts {
            let conditions = (host.clone(), route.path.clone(), sorted(&route.methods), sorted(&route.headers));
            let same = self.seen.entry(conditions).or_default();
            let overlapping = same.iter().find(|(listeners, _)| {
                listeners.is_empty()
                    || route.listeners.is_empty()
                    || listeners.iter().any(|name| route.listeners.contains(name))
            });
            if let Some((_, place)) = overlapping {
                first = first.or(Some((host, *place)));
            }
            same.push((route.listeners.clone(), path_place));
        }
        let named = self.names.insert(route.name.clone(), name_place);
        if let Some((host, place)) = first {
            let (path, line) = (route.path.to_string(), reader.line(place));
            let host = host.map_or_else(|| "any host".to_owned(), |host| format!("{host:?}"));
            reader.problem(path_place, format!("there is a route for {path:?} of {host} already, at line {line}"));
        } else if let Some(place) = named {
            let (name, line) = (&route.name, reader.line(place));
            reader.problem(
                name_place,
                format!("there is a route named {name:?} already, at line {line}; give one of them another \"name\""),
            );
        }
    }
}

/// Notes the routes that can never be reached, because the realtime server takes their path on all their listeners.
pub(super) fn shadowed(reader: &Reader<'_>, routes: &[At<Route>], listeners: &[At<Listener>], realtime: &Realtime) {
    let serves = |name: &str| realtime.listeners.iter().any(|listener| **listener == *name);
    let api = format!("{}/", realtime.api_path);
    for At { value: route, place } in routes {
        let everywhere = listeners
            .iter()
            .filter(|listener| route.serves(&listener.value.name))
            .all(|listener| serves(&listener.value.name));
        let (PathMatch::Prefix(path) | PathMatch::PrefixFirst(path) | PathMatch::Exact(path)) = &route.path else {
            continue;
        };
        let taken = [&*realtime.path, &api]
            .into_iter()
            .find(|taken| path.starts_with(*taken) || Some(&**path) == taken.strip_suffix('/'));
        if let (true, Some(taken)) = (everywhere, taken) {
            reader.problem(*place, format!("the path {path:?} is never reached: the realtime server takes {taken:?}"));
        }
    }
}
