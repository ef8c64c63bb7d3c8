//! Socket.IO servers in Node beside this one.

use std::sync::Arc;

use tidegate_types::{Namespace, TenantId};

use crate::check::cluster::redis_tls;
use crate::check::count;
use crate::file;
use crate::reader::{At, List, NamespaceName, Reader, RedisUrl};
use crate::{Bridge, Cluster, Interop, NodeAdapter, Redis, RedisMode};

/// What Node's adapters call their keys by themselves.
const USUAL: &str = "socket.io";
/// The same, for how long a stream gets.
const USUAL_LENGTH: usize = 10_000;

pub(super) fn interop(
    reader: &Reader<'_>,
    found: Option<At<file::Interop>>,
    cluster: Option<&Cluster>,
) -> Option<Interop> {
    let At { value: found, place } = found?;
    let lacks_redis = found.lacks("redis");
    let redis = redis(reader, found.redis, found.redis_tls, cluster, (place, lacks_redis));
    let mut seen = Vec::new();
    let mut bridges = Vec::new();
    let stands = |found: &Option<At<file::RedisAdapter>>| found.is_some();
    let any = stands(&found.redis_adapter) || found.sharded_adapter.is_some() || found.streams_adapter.is_some();
    if !any {
        let message = "[realtime.interop] needs the adapter of the Node servers: \"redis_adapter\", \"sharded_adapter\" or \"streams_adapter\"";
        reader.problem(place, message);
    }
    if let Some(At { value: found, place }) = found.redis_adapter {
        let key = text(reader, found.key, "key");
        let adapter = NodeAdapter::Redis { key };
        bridges.extend(bridge(reader, adapter, found.namespaces, found.tenant, place, &mut seen));
    }
    if let Some(At { value: found, place }) = found.sharded_adapter {
        let prefix = text(reader, found.prefix, "prefix");
        let adapter = NodeAdapter::Sharded { prefix };
        bridges.extend(bridge(reader, adapter, found.namespaces, found.tenant, place, &mut seen));
    }
    if let Some(At { value: found, place }) = found.streams_adapter {
        let (stream, prefix) = (text(reader, found.stream, "stream"), text(reader, found.prefix, "prefix"));
        let max_length = count(reader, found.max_length, "max_length", USUAL_LENGTH, 1) as u64;
        let adapter = NodeAdapter::Streams { stream, prefix, max_length };
        bridges.extend(bridge(reader, adapter, found.namespaces, found.tenant, place, &mut seen));
    }
    Some(Interop { redis: redis?, bridges })
}

fn redis(
    reader: &Reader<'_>,
    found: Option<At<RedisUrl>>,
    tls: Option<At<file::RedisTls>>,
    cluster: Option<&Cluster>,
    (place, lacks): (usize, bool),
) -> Option<Redis> {
    if let Some(At { value: RedisUrl(location), .. }) = found {
        return Some(Redis {
            servers: vec![location.server.clone()],
            database: location.database.unwrap_or(0),
            user: location.user.clone(),
            password: location.password.clone(),
            tls: redis_tls(reader, tls, Some(&location), "[realtime.interop.redis_tls]"),
            ..Redis::at("", 0)
        });
    }
    if let Some(tls) = &tls {
        reader.problem(tls.place, "[realtime.interop.redis_tls] has no effect without \"redis\" beside it");
    }
    match cluster {
        Some(cluster) if cluster.redis.mode == RedisMode::Standalone => Some(cluster.redis.clone()),
        Some(_) if lacks => {
            let message = "[realtime.interop] needs one Redis server in \"redis\": that of [cluster] is several";
            reader.problem(place, message);
            None
        }
        None if lacks => {
            let message = "[realtime.interop] needs \"redis\", where the Node servers find each other, such as \"redis://127.0.0.1:6379\"";
            reader.problem(place, message);
            None
        }
        // It cannot be read, which has been said.
        Some(_) | None => None,
    }
}

fn text(reader: &Reader<'_>, found: Option<At<String>>, key: &str) -> Arc<str> {
    let Some(At { value, place }) = found else { return USUAL.into() };
    if value.is_empty() {
        reader.problem(place, format!("{key:?} must not be empty"));
    }
    value.into()
}

fn bridge(
    reader: &Reader<'_>,
    adapter: NodeAdapter,
    namespaces: Option<At<List<NamespaceName>>>,
    tenant: Option<At<String>>,
    place: usize,
    seen: &mut Vec<Namespace>,
) -> Option<Bridge> {
    let tenant = match tenant {
        None => TenantId::default_tenant(),
        Some(At { value, place }) => match TenantId::try_from(value.as_str()) {
            Ok(tenant) => tenant,
            Err(fault) => {
                reader.problem(place, format!("the name of a tenant {fault}"));
                return None;
            }
        },
    };
    let namespaces = match namespaces {
        None => vec![At::new(Namespace::root(), place)],
        Some(At { value: List(names, stood), place }) => {
            if stood == 0 {
                reader.problem(place, "\"namespaces\" must name at least one");
            }
            names.into_iter().map(|name| At::new(name.value.0, name.place)).collect()
        }
    };
    let mut own = Vec::with_capacity(namespaces.len());
    for At { value: name, place } in namespaces {
        if seen.contains(&name) {
            let message = format!(
                "the namespace {:?} is shared with Node servers already: one adapter carries it",
                name.as_str()
            );
            reader.problem(place, message);
            continue;
        }
        seen.push(name.clone());
        own.push(name);
    }
    (!own.is_empty()).then_some(Bridge { adapter, namespaces: own, tenant })
}
