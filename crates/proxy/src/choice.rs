//! What the choice of a server depends on beside the client's address.

use http::request::Parts;

use crate::Upstream;
use crate::flow::Flow;
use crate::sticky::Stuck;

/// What a request says about the server that it wants.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    key: Option<Box<[u8]>>,
    pub(crate) stuck: Option<Stuck>,
}

impl Choice {
    /// `None` if it says nothing, which is usual.
    pub(crate) fn of(upstream: &Upstream, flow: &Flow, parts: &Parts) -> Option<Box<Self>> {
        let key = flow.hash_key.take();
        let stuck = upstream.settings.sticky.as_ref().and_then(|sticky| sticky.find(parts));
        (key.is_some() || stuck.is_some()).then(|| Box::new(Self { key, stuck }))
    }

    /// For hashes.
    pub(crate) fn key(&self) -> &[u8] {
        self.key.as_deref().unwrap_or_default()
    }

    /// For consistent hashing whatever the algorithm is.
    pub(crate) fn value(&self) -> &[u8] {
        match &self.stuck {
            Some(Stuck::Value(value)) => value,
            Some(Stuck::Cookie(_)) | None => b"",
        }
    }

    /// The cookie that the client brought.
    pub(crate) fn cookie(&self) -> Option<&[u8]> {
        match &self.stuck {
            Some(Stuck::Cookie(value)) => Some(value),
            Some(Stuck::Value(_)) | None => None,
        }
    }
}
