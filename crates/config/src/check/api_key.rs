use std::collections::HashMap;

use tidegate_auth::{ApiKey, KeyRate, Scopes, Secret};
use tidegate_types::{Namespace, RoomName, TenantId};

use crate::check::secret::long_enough;
use crate::check::small;
use crate::file;
use crate::reader::{At, List, NamespaceName, Reader};

/// An API key's secret is compared whole, so 128 bits suffice.
const MIN_SECRET_BYTES: usize = 16;

/// The keys of backends.
pub(super) fn api_keys(reader: &Reader<'_>, found: Vec<At<file::ApiKey>>) -> Vec<ApiKey> {
    let mut ids: HashMap<String, usize> = HashMap::new();
    let mut secrets: Vec<At<Secret>> = Vec::new();
    let mut keys = Vec::new();
    for At { value: found, place } in found {
        for key in ["id", "secret"].into_iter().filter(|key| found.lacks(key)) {
            reader.problem(place, format!("[[realtime.auth.api_keys]] needs {key:?}"));
        }
        let Some(id) = found.id else { continue };
        if id.value.is_empty() || id.value.chars().any(char::is_control) {
            reader.problem(id.place, "the \"id\" of an API key must not be empty nor hold control characters");
        }
        if let Some(first) = ids.insert(id.value.clone(), id.place) {
            let line = reader.line(first);
            reader.problem(id.place, format!("there is an API key {:?} already, at line {line}", id.value));
        }
        let tenant = found.tenant.and_then(|tenant| {
            TenantId::try_from(tenant.value)
                .map_err(|fault| reader.problem(tenant.place, format!("the \"tenant\" of an API key {fault}")))
                .ok()
        });
        let rate = rate(reader, found.requests_per_second, found.request_burst);
        let Some(At { value: secret, place }) = found.secret else { continue };
        long_enough(reader, &At::new(secret.0.clone(), place), "the secret", MIN_SECRET_BYTES);
        if let Some(first) = secrets.iter().find(|first| first.value == secret.0) {
            let line = reader.line(first.place);
            reader.problem(place, format!("the API key at line {line} has the same secret"));
        }
        secrets.push(At::new(secret.0.clone(), place));
        let mut key = ApiKey::new(id.value, &secret.0, tenant);
        if let Some(At { value: List(scopes, stood), place }) = found.scopes {
            if stood == 0 {
                reader.problem(place, "\"scopes\" must name at least one, or the key would be good for nothing");
            }
            key = key.with_scopes(scopes.into_iter().fold(Scopes::NONE, |all, scope| all.and(scope.value.0)));
        }
        if let Some(rooms) = found.rooms {
            key = key.with_rooms(patterns(reader, rooms));
        }
        if let Some(namespaces) = found.namespaces {
            key = key.with_namespaces(names(reader, namespaces));
        }
        keys.push(match rate {
            Some(rate) => key.with_rate(rate),
            None => key,
        });
    }
    keys
}

fn rate(reader: &Reader<'_>, per_second: Option<At<u64>>, burst: Option<At<u64>>) -> Option<KeyRate> {
    let per_second = small(reader, per_second, "requests_per_second", 0, 0);
    if per_second == 0 {
        if let Some(burst) = burst {
            reader.problem(burst.place, "\"request_burst\" needs \"requests_per_second\" above 0");
        }
        return None;
    }
    let burst = small(reader, burst, "request_burst", per_second.saturating_mul(2), 1);
    Some(KeyRate { per_second, burst })
}

fn patterns(reader: &Reader<'_>, At { value: List(found, stood), place }: At<List<String>>) -> Vec<String> {
    if stood == 0 {
        reader.problem(place, "\"rooms\" must name at least one; without the key every room is open");
    }
    for pattern in &found {
        if let Err(fault) = RoomName::try_from(pattern.value.as_str()) {
            reader.problem(pattern.place, format!("a room of an API key {fault}"));
        }
    }
    found.into_iter().map(|pattern| pattern.value).collect()
}

fn names(reader: &Reader<'_>, At { value: List(found, stood), place }: At<List<NamespaceName>>) -> Vec<Namespace> {
    if stood == 0 {
        reader.problem(place, "\"namespaces\" must name at least one; without the key every namespace is open");
    }
    found.into_iter().map(|name| name.value.0).collect()
}
