//! Who is in the cluster, as this node knows it.

use http::StatusCode;
use serde_json::{Value, json};
use tidegate_cluster::membership::Member;
use tidegate_types::{ErrorCode, NodeId};

use super::answer::{self, Answer, Refusal};
use crate::cluster::Cluster;

/// This node first, then the others by their ids.
pub(crate) async fn list(cluster: Option<&Cluster>) -> Answer {
    let Some(members) = cluster.and_then(Cluster::members) else {
        return Err(Refusal::new(ErrorCode::NotFound, "This process is alone: its config has no [cluster]"));
    };
    let view = members.view();
    let loads = members.loads().await;
    let shown = |member: &Member| -> Value {
        json!({
            "id": member.id.to_string(),
            "number": member.number,
            "name": member.name,
            "zone": member.zone,
            "version": member.version,
            "protocol": member.protocol.speaks,
            "address": member.address.to_string(),
            "realtime": member.roles.realtime,
            "gateway": member.roles.gateway,
            "draining": member.draining,
            "connections": load(&loads, member.id),
        })
    };
    let mut nodes: Vec<Value> = view.is_member.then(|| shown(&view.me)).into_iter().collect();
    nodes.extend(view.others.iter().map(shown));
    let body = json!({
        "self": view.me.id.to_string(),
        "member": view.is_member,
        "redis": { "connected": view.in_touch },
        "nodes": nodes,
    });
    Ok(answer::json(StatusCode::OK, &body))
}

fn load(loads: &rustc_hash::FxHashMap<NodeId, u64>, id: NodeId) -> Option<u64> {
    loads.get(&id).copied()
}
