//! Which namespaces the realtime server serves.

use std::sync::Arc;

use tidegate_dialect::Dialect;
use tidegate_types::Namespace;

use crate::check::dialect::{ROOMS, built_in_dialects};
use crate::check::flag;
use crate::file::{self, Entrance};
use crate::reader::{At, List, Reader};
use crate::text::suggest;
use crate::{RealtimeBehaviour, RealtimeNamespace};

/// Namespaces that are there by themselves, and their dialects.
const BY_THEMSELVES: [(&str, &str); 6] = [
    ("/", ROOMS),
    ("/events", "cases"),
    ("/messaging", "cases"),
    ("/notifications", "cases"),
    ("/dashboard", "cases"),
    ("/ws/chat", "chat"),
];

/// Their names.
pub(crate) fn namespaces_by_themselves() -> impl Iterator<Item = &'static str> {
    BY_THEMSELVES.iter().map(|(name, _)| *name)
}

/// The namespaces when the file names none.
pub(crate) fn namespaces_by_default() -> Vec<RealtimeNamespace> {
    // What comes with Tidegate is right; a test reads it.
    by_themselves(&built_in_dialects().unwrap_or_default())
}

fn by_themselves(known: &[Arc<Dialect>]) -> Vec<RealtimeNamespace> {
    let by_itself = |(name, dialect): &(&str, &str)| {
        let name = Namespace::try_from(*name).ok()?;
        Some(RealtimeNamespace { name, behaviour: behaviour(known, dialect)?, needs_token: true })
    };
    BY_THEMSELVES.iter().filter_map(by_itself).collect()
}

fn behaviour(known: &[Arc<Dialect>], name: &str) -> Option<RealtimeBehaviour> {
    if name == ROOMS {
        return Some(RealtimeBehaviour::Rooms);
    }
    known.iter().find(|dialect| dialect.name() == name).cloned().map(RealtimeBehaviour::Dialect)
}

/// Those that are there by themselves, changed as the file says, and those of the file.
pub(super) fn namespaces(
    reader: &Reader<'_>,
    found: Option<At<List<file::RealtimeNamespace>>>,
    declared: &[At<Arc<Dialect>>],
) -> Vec<RealtimeNamespace> {
    let mut known = built_in_dialects().unwrap_or_default();
    let mut served = by_themselves(&known);
    known.extend(declared.iter().map(|dialect| dialect.value.clone()));
    let mut seen: Vec<At<Namespace>> = Vec::new();
    for At { value: found, place } in found.map(|found| found.value.0).unwrap_or_default() {
        if found.lacks("name") {
            reader.problem(place, "[[realtime.namespace]] needs a \"name\", such as \"/game\"");
        }
        let lacks_dialect = found.lacks("dialect");
        let Some(At { value: written, place: name_place }) = found.name else { continue };
        let name = match Namespace::try_from(written.as_str()) {
            Ok(name) if written.starts_with('/') && !written.contains([',', '?']) => name,
            Ok(_) => {
                let message = format!("{written:?}: a namespace begins with \"/\" and holds no \",\" and no \"?\"");
                reader.problem(name_place, message);
                continue;
            }
            Err(fault) => {
                reader.problem(name_place, format!("the name of a namespace {fault}"));
                continue;
            }
        };
        if let Some(first) = seen.iter().find(|first| first.value == name) {
            let line = reader.line(first.place);
            reader.problem(name_place, format!("there is a namespace {written:?} already, at line {line}"));
        }
        seen.push(At::new(name.clone(), name_place));
        let before = served.iter().position(|own| own.name == name);
        let own = before.map(|index| served.remove(index));
        let behaviour = match found.dialect {
            Some(given) => {
                let behaviour = behaviour(&known, &given.value);
                if behaviour.is_none() {
                    let names = known.iter().map(|dialect| dialect.name()).chain([ROOMS]);
                    let hint = suggest(&given.value, names);
                    let message = format!("there is no dialect {:?}{hint}", given.value);
                    reader.problem(given.place, message);
                }
                behaviour
            }
            None => {
                let behaviour = own.map(|own| own.behaviour);
                if behaviour.is_none() && lacks_dialect && flag(found.enabled.clone(), true) {
                    let message = format!("the namespace {written:?} needs a \"dialect\", such as \"rooms\"");
                    reader.problem(place, message);
                }
                behaviour
            }
        };
        let Some(behaviour) = behaviour.filter(|_| flag(found.enabled, true)) else { continue };
        let needs_token = found.auth.is_none_or(|auth| auth.value == Entrance::Required);
        let index = before.unwrap_or(served.len()).min(served.len());
        served.insert(index, RealtimeNamespace { name, behaviour, needs_token });
    }
    served
}
