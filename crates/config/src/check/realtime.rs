use std::sync::Arc;

use tidegate_dialect::Dialect;

use crate::check::api_key::api_keys;
use crate::check::tokens::{Found, name_or, origin_of_production, tokens};
use crate::check::{Known, bytes, count, delay, interop, namespace, period, small, webhook};
use crate::file;
use crate::reader::{At, List, Origin, Reader, UrlPath};
use crate::{BrokerKind, Cluster, Realtime, RealtimeAuth};

/// The realtime server, or `None` if there is none.
pub(super) fn realtime(
    reader: &Reader<'_>,
    found: Option<At<file::Realtime>>,
    known: Known<'_>,
    dialects: &[At<Arc<Dialect>>],
    cluster: Option<&Cluster>,
) -> Option<Realtime> {
    let At { value: found, place } = found?;
    let enabled = found.enabled.as_ref().is_none_or(|enabled| enabled.value);
    let auth = auth(reader, found.auth, place, enabled);
    let names = match found.listeners {
        Some(At { value: List(names, stood), place }) => {
            if stood == 0 {
                reader.problem(
                    place,
                    "\"listeners\" must name at least one; to switch realtime off, set enabled = false",
                );
            }
            names.iter().for_each(|name| known.listener(reader, name));
            names.into_iter().map(|name| name.value.into()).collect()
        }
        None => known.listeners.iter().map(|listener| listener.value.name.clone()).collect(),
    };
    let default = Realtime::new(auth, names);

    let path_place = found.path.as_ref().map_or(place, |path| path.place);
    let api_place = found.api_path.as_ref().map_or(path_place, |path| path.place);
    let path = found.path.filter(|given| not_root(reader, given)).map_or(default.path, |given| {
        // Clients send the slash by default; it is not worth a problem.
        if given.value.0.ends_with('/') { given.value.0.into() } else { format!("{}/", given.value.0).into() }
    });
    let api_path: Arc<str> = found
        .api_path
        .filter(|given| not_root(reader, given))
        .map_or(default.api_path, |given| given.value.0.trim_end_matches('/').into());
    if format!("{api_path}/").starts_with(&*path) || path.starts_with(&format!("{api_path}/")) {
        reader
            .problem(api_place, format!("\"path\" {path:?} and \"api_path\" {api_path:?} must not lie in each other"));
    }

    let max_payload = bytes(reader, found.max_payload, "max_payload", default.max_payload);
    let outbox_bytes = bytes(reader, found.outbox_bytes, "outbox_bytes", default.outbox_bytes);
    if outbox_bytes.value < max_payload.value {
        reader.problem(
            outbox_bytes.place.max(max_payload.place),
            "\"outbox_bytes\" must be at least \"max_payload\", or the largest message could never be delivered",
        );
    }
    let messages_per_second =
        small(reader, found.messages_per_second, "messages_per_second", default.messages_per_second, 0);
    let message_burst = small(reader, found.message_burst, "message_burst", default.message_burst, 1);
    let namespaces = namespace::namespaces(reader, found.namespace, dialects);
    let number = |found, key, default, least| small(reader, found, key, default, least);
    let time = |found, key, default| period(reader, found, key, default);
    let realtime = Realtime {
        listeners: default.listeners,
        path,
        api_path,
        broker: broker(reader, found.broker, known.cluster),
        ping_interval: time(found.ping_interval, "ping_interval", default.ping_interval),
        ping_timeout: time(found.ping_timeout, "ping_timeout", default.ping_timeout),
        connect_timeout: time(found.connect_timeout, "connect_timeout", default.connect_timeout),
        upgrade_timeout: time(found.upgrade_timeout, "upgrade_timeout", default.upgrade_timeout),
        max_payload: max_payload.value,
        max_connections: count(reader, found.max_connections, "max_connections", default.max_connections, 1),
        connections_per_ip: number(found.connections_per_ip, "connections_per_ip", default.connections_per_ip, 0),
        connects_per_second: number(found.connects_per_second, "connects_per_second", default.connects_per_second, 0),
        connect_burst: number(found.connect_burst, "connect_burst", default.connect_burst, 1),
        connections_per_user: number(
            found.connections_per_user,
            "connections_per_user",
            default.connections_per_user,
            0,
        ),
        connections_per_tenant: number(
            found.connections_per_tenant,
            "connections_per_tenant",
            default.connections_per_tenant,
            0,
        ),
        recovery_window: delay(reader, found.recovery_window, "recovery_window", default.recovery_window),
        recovery_bytes: bytes(reader, found.recovery_bytes, "recovery_bytes", default.recovery_bytes).value,
        away_after: delay(reader, found.away_after, "away_after", default.away_after),
        idempotency_window: delay(reader, found.idempotency_window, "idempotency_window", default.idempotency_window),
        outbox_bytes: outbox_bytes.value,
        compression: found.compression.map_or(default.compression, |compression| compression.value),
        compression_threshold: bytes(
            reader,
            found.compression_threshold,
            "compression_threshold",
            default.compression_threshold,
        )
        .value,
        rooms_per_connection: count(
            reader,
            found.rooms_per_connection,
            "rooms_per_connection",
            default.rooms_per_connection,
            1,
        ),
        cors_origins: origins(reader, found.cors_origins),
        sse_heartbeat: time(found.sse_heartbeat, "sse_heartbeat", default.sse_heartbeat),
        messages_per_second,
        message_burst,
        rooms_per_user: number(found.rooms_per_user, "rooms_per_user", default.rooms_per_user, 0),
        events_per_minute: number(found.events_per_minute, "events_per_minute", default.events_per_minute, 0),
        tenant_messages_per_second: number(
            found.tenant_messages_per_second,
            "tenant_messages_per_second",
            default.tenant_messages_per_second,
            0,
        ),
        tenant_message_burst: number(
            found.tenant_message_burst,
            "tenant_message_burst",
            default.tenant_message_burst,
            1,
        ),
        auth: default.auth,
        interop: interop::interop(reader, found.interop, cluster),
        webhooks: webhook::webhooks(reader, found.webhook, enabled, &namespaces),
        namespaces,
    };
    enabled.then_some(realtime)
}

fn broker(reader: &Reader<'_>, found: Option<At<BrokerKind>>, has_cluster: bool) -> BrokerKind {
    let Some(At { value, place }) = found else { return BrokerKind::Local };
    if value == BrokerKind::Redis && !has_cluster {
        reader.problem(place, "broker = \"redis\" needs a [cluster] section that says where Redis is");
    }
    value
}

/// Whether something is left of the path; notes it if not.
fn not_root(reader: &Reader<'_>, given: &At<UrlPath>) -> bool {
    let is_root = given.value.0.trim_matches('/').is_empty();
    if is_root {
        reader.problem(given.place, "realtime must not take the path \"/\", or nothing else could be served");
    }
    !is_root
}

fn auth(reader: &Reader<'_>, found: Option<At<file::Auth>>, section: usize, enabled: bool) -> RealtimeAuth {
    let At { value: found, place } = found.unwrap_or_else(|| At::new(file::Auth::default(), section));
    let has_key =
        ["jwt_secret", "jwt_secret_file", "public_keys", "jwks_url", "jwks_file"].iter().any(|key| !found.lacks(key));
    let tokens = Found {
        section: "[realtime.auth]",
        place,
        secret: found.jwt_secret.map(|secret| At::new(secret.value.0, secret.place)),
        secret_file: found.jwt_secret_file,
        secret_name: "jwt_secret",
        secret_file_name: "jwt_secret_file",
        algorithms: found.algorithms,
        public_keys: found.public_keys,
        jwks_url: found.jwks_url,
        jwks_file: found.jwks_file,
        jwks_refresh: found.jwks_refresh,
        audience: found.audience,
        issuer: found.issuer,
        leeway: found.leeway,
    };
    let default = RealtimeAuth::new(self::tokens(reader, tokens, has_key, enabled));
    RealtimeAuth {
        cookie: name_or(found.cookie, default.cookie.as_deref().unwrap_or_default()),
        expiry_notice: delay(reader, found.expiry_notice, "expiry_notice", default.expiry_notice),
        api_keys: found.api_keys.map(|keys| api_keys(reader, keys.value.0)).unwrap_or_default(),
        tokens: default.tokens,
    }
}

fn origins(reader: &Reader<'_>, found: Option<At<List<Origin>>>) -> Vec<String> {
    let found = found.map(|found| found.value.0).unwrap_or_default();
    if found.len() > 1
        && let Some(any) = found.iter().find(|given| given.value.0 == "*")
    {
        reader.problem(any.place, "\"*\" stands for every origin; it must be the only one");
    }
    for given in &found {
        origin_of_production(reader, &given.value.0, given.place);
    }
    found.into_iter().map(|given| given.value.0).collect()
}
