//! What the config says of Node servers beside this one, as the realtime server takes it.

use tidegate_config::{Cluster, Interop, NodeAdapter};
use tidegate_realtime::{AdapterSettings, BridgeSettings, InteropSettings};

use crate::StartError;
use crate::cluster::redis;

/// The bridges of the config.
///
/// # Errors
/// A file of `redis_tls` cannot be read, or is not what it should be.
pub(crate) fn settings(interop: &Interop, cluster: Option<&Cluster>) -> Result<InteropSettings, StartError> {
    let bridges = interop.bridges.iter().flat_map(|bridge| {
        let adapter = adapter(&bridge.adapter);
        bridge.namespaces.iter().map(move |namespace| BridgeSettings {
            tenant: bridge.tenant.clone(),
            namespace: namespace.clone(),
            adapter: adapter.clone(),
        })
    });
    Ok(InteropSettings {
        redis: redis(&interop.redis, "[realtime.interop]")?,
        family: cluster.map(|cluster| cluster.redis.prefix.to_string()),
        bridges: bridges.collect(),
    })
}

fn adapter(adapter: &NodeAdapter) -> AdapterSettings {
    match adapter {
        NodeAdapter::Redis { key } => AdapterSettings::Redis { key: key.to_string() },
        NodeAdapter::Sharded { prefix } => AdapterSettings::Sharded { prefix: prefix.to_string() },
        NodeAdapter::Streams { stream, prefix, max_length } => {
            AdapterSettings::Streams { stream: stream.to_string(), prefix: prefix.to_string(), most: *max_length }
        }
    }
}
