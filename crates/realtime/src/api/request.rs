//! Reading requests: names in paths, namespaces, bodies.

use std::rc::Rc;
use std::sync::Arc;

use tidegate_types::{ErrorCode, InvalidName, Namespace, SpaceKey, TenantId};

use super::refused::Refused;
use crate::node::SpaceCell;
use crate::shard::Shard;

/// A name out of the request; `what` says which.
pub(super) fn name<T: for<'a> TryFrom<&'a str, Error = InvalidName>>(
    what: &str,
    given: Option<&String>,
) -> Result<T, Refused> {
    T::try_from(given.map_or("", String::as_str)).map_err(|error| Refused::bad(format!("Invalid {what}: it {error}")))
}

/// A namespace that is served.
pub(super) fn namespace(shard: &Shard, name: Option<&str>) -> Result<Namespace, Refused> {
    let namespace = Namespace::try_from(name.unwrap_or("/"));
    let namespace = namespace.ok().filter(|namespace| shard.node.settings.namespaces.get(namespace).is_some());
    namespace.ok_or_else(|| Refused::new(ErrorCode::NotFound, "Invalid namespace"))
}

pub(super) fn space(shard: &Rc<Shard>, tenant: TenantId, namespace: Namespace) -> Result<Arc<SpaceCell>, Refused> {
    shard.node.space(&SpaceKey { tenant, namespace }).map_err(|error| {
        tracing::error!(%error, "a namespace cannot be opened");
        Refused::unavailable("The history store does not answer")
    })
}
