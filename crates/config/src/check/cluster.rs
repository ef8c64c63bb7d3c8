use std::time::Duration;

use tidegate_auth::Secret;

use crate::check::listener::pair;
use crate::check::secret::{MIN_HMAC_BYTES, Names, secret};
use crate::check::{given, name, path, period};
use crate::file;
use crate::reader::{At, HostName, OneOrMore, Optional, Reader, RedisUrl};
use crate::text::RedisLocation;
use crate::{CertificateFiles, Cluster, InternalTls, Redis, RedisMode, RedisTls};

/// A node that is late once is not dead.
const LEAST_HEARTBEATS: u32 = 2;
/// Faster, the heartbeats of many nodes would be what Redis does.
const LEAST_HEARTBEAT: Duration = Duration::from_millis(100);

pub(super) fn cluster(reader: &Reader<'_>, found: Option<At<file::Cluster>>) -> Option<Cluster> {
    let At { value: mut found, place } = found?;
    let lacks_address = found.lacks("internal_address");
    let lacks_secret = found.lacks("secret") && found.lacks("secret_file");
    let names = Names { text: "secret", file: "secret_file", what: "the cluster's secret", least: MIN_HMAC_BYTES };
    let text = found.secret.take().map(|secret| At::new(secret.value.0, secret.place));
    let shared = secret(reader, text, given(found.secret_file.take()), &names, true);
    if lacks_secret {
        let message = "[cluster] needs the \"secret\" that all nodes share: openssl rand -hex 32";
        reader.problem(place, message);
    }
    let redis = redis(reader, &mut found, place);
    let default = Cluster::new(redis, shared.map_or_else(|| Secret::from(""), |secret| secret.value));
    let heartbeat_place = found.heartbeat.as_ref().map(|given| given.place);
    let timeout_place = found.node_timeout.as_ref().map(|given| given.place);
    let heartbeat = period(reader, found.heartbeat, "heartbeat", default.heartbeat);
    let node_timeout = period(reader, found.node_timeout, "node_timeout", default.node_timeout);
    if let (Some(place), true) = (heartbeat_place, heartbeat < LEAST_HEARTBEAT) {
        reader.problem(place, "\"heartbeat\" must be at least 100ms");
    } else if node_timeout < heartbeat * LEAST_HEARTBEATS {
        let message = "\"node_timeout\" must be at least twice \"heartbeat\", or one late heartbeat would be death";
        reader.problem(timeout_place.or(heartbeat_place).unwrap_or(place), message);
    }
    let listen_place = found.internal_listen.as_ref().map(|given| given.place);
    let internal_listen = found.internal_listen.map_or(default.internal_listen, |given| given.value.0);
    let unread = found.internal_address.is_none() && !lacks_address;
    let internal_address = given(found.internal_address).map(|address| address.value.0);
    if let (Some(place), true, None, false) =
        (listen_place, internal_listen.ip().is_unspecified(), internal_address, unread)
    {
        let message =
            "others cannot reach every address of this machine: say in \"internal_address\" which one they can";
        reader.problem(place, message);
    }
    let text = |found: Option<At<Optional<String>>>, what| {
        given(found).map(|given| name(reader, &given.value, given.place, what))
    };
    Some(Cluster {
        name: text(found.name, "a node"),
        zone: text(found.zone, "a zone"),
        internal_listen,
        internal_address,
        internal_tls: found.internal_tls.and_then(|found| internal_tls(reader, found)),
        heartbeat,
        node_timeout,
        ..default
    })
}

fn redis(reader: &Reader<'_>, found: &mut file::Cluster, place: usize) -> Redis {
    let default = Redis::at("", 0);
    if found.lacks("redis") {
        reader.problem(place, "[cluster] needs \"redis\", such as \"redis://127.0.0.1:6379\"");
    }
    let mode = found.mode.as_ref().map_or(default.mode, |given| given.value);
    let urls = found.redis.take().map(|At { value: OneOrMore(urls), .. }| urls).unwrap_or_default();
    let first = urls.first().map(|url| url.value.0.clone());
    for (index, url) in urls.iter().enumerate() {
        agrees(reader, url, first.as_ref(), index, mode);
    }
    let user = given(found.user.take());
    let password = given(found.password.take()).map(|given| At::new(given.value.0, given.place));
    if let (Some(first), Some(given)) = (&first, &user)
        && first.user.is_some()
    {
        reader.problem(given.place, "the URL names a user already; take one of both out");
    }
    if let (Some(first), Some(given)) = (&first, &password)
        && first.password.is_some()
    {
        reader.problem(given.place, "the URL has a password already; take one of both out");
    }
    let sentinel_user = given(found.sentinel_user.take());
    let sentinel_password = given(found.sentinel_password.take()).map(|given| At::new(given.value.0, given.place));
    if mode != RedisMode::Sentinel {
        let only = [
            ("sentinel_user", sentinel_user.as_ref().map(|given| given.place)),
            ("sentinel_password", sentinel_password.as_ref().map(|given| given.place)),
        ];
        for (key, place) in only {
            if let Some(place) = place {
                reader.problem(place, format!("{key:?} has no effect without mode = \"sentinel\""));
            }
        }
    }
    let prefix = found.prefix.take();
    if let Some(given) = &prefix
        && (given.value.is_empty()
            || given.value.len() > 64
            || !given.value.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)))
    {
        reader.problem(given.place, "\"prefix\" must have 1 to 64 letters, digits and \"-\", \"_\", \".\", \":\"");
    }
    let service = found.service.take();
    if let Some(given) = &service
        && given.value.is_empty()
    {
        reader.problem(given.place, "\"service\" must not be empty");
    }
    let first = first.as_ref();
    Redis {
        servers: urls.iter().map(|url| url.value.0.server.clone()).collect(),
        mode,
        service: service.map_or(default.service, |given| given.value.into()),
        database: first.and_then(|first| first.database).unwrap_or(0),
        user: first.and_then(|first| first.user.clone()).or(user.map(|given| given.value.into())),
        password: first.and_then(|first| first.password.clone()).or(password.map(|given| given.value)),
        sentinel_user: sentinel_user.map(|given| given.value.into()),
        sentinel_password: sentinel_password.map(|given| given.value),
        tls: redis_tls(reader, found.redis_tls.take(), first, "[cluster.redis_tls]"),
        prefix: prefix.map_or(default.prefix, |given| given.value.into()),
    }
}

/// What a URL may say, and that it says nothing else than the first.
fn agrees(reader: &Reader<'_>, url: &At<RedisUrl>, first: Option<&RedisLocation>, index: usize, mode: RedisMode) {
    let At { value: RedisUrl(location), place } = url;
    if index == 1 && mode == RedisMode::Standalone {
        let message = "mode = \"standalone\" is one server; for several set mode = \"sentinel\" or mode = \"cluster\"";
        reader.problem(*place, message);
    }
    if mode == RedisMode::Cluster && location.database.is_some_and(|database| database > 0) {
        reader.problem(*place, "a Redis Cluster has only the database 0");
    }
    let Some(first) = first.filter(|_| index > 0) else { return };
    let same = (location.tls, &location.user, &location.password, location.database)
        == (first.tls, &first.user, &first.password, first.database);
    if !same {
        let message = "all URLs must have the same scheme, user, password and database";
        reader.problem(*place, message);
    }
}

pub(super) fn redis_tls(
    reader: &Reader<'_>,
    found: Option<At<file::RedisTls>>,
    first: Option<&RedisLocation>,
    section: &str,
) -> Option<RedisTls> {
    let tls = first.is_some_and(|first| first.tls);
    let Some(At { value: found, place }) = found else { return tls.then(RedisTls::default) };
    if first.is_some() && !tls {
        reader.problem(place, format!("{section} has no effect without \"rediss://\" in the URL"));
    }
    Some(RedisTls {
        server_name: given(found.server_name).map(|name| name.value.0),
        ca: given(found.ca).map(|ca| path(reader, &ca, "ca")),
        certificate: pair(reader, given(found.certificate), given(found.key)),
    })
}

fn internal_tls(reader: &Reader<'_>, At { value: found, place }: At<file::InternalTls>) -> Option<InternalTls> {
    for key in ["ca", "certificate", "key", "server_name"].into_iter().filter(|key| found.lacks(key)) {
        reader.problem(place, format!("[cluster.internal_tls] needs a {key:?}"));
    }
    let HostName(server_name) = found.server_name?.value;
    let certificate = CertificateFiles {
        certificate: path(reader, &found.certificate?, "certificate"),
        key: path(reader, &found.key?, "key"),
    };
    Some(InternalTls { ca: path(reader, &found.ca?, "ca"), certificate, server_name })
}
