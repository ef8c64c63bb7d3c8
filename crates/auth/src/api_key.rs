use std::fmt;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use tidegate_types::TenantId;

use crate::Secret;
use crate::secret::digests_eq;

/// What a backend publishes with. Holds only the secret's SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    id: Arc<str>,
    digest: [u8; 32],
    tenant: Option<TenantId>,
}

impl ApiKey {
    /// A key named `id` in logs; bound to one tenant, or free to name any.
    pub fn new(id: impl Into<Arc<str>>, secret: &Secret, tenant: Option<TenantId>) -> Self {
        Self { id: id.into(), digest: Sha256::digest(secret.expose().as_bytes()).into(), tenant }
    }

    /// The key's name, for logs.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The only tenant it publishes to; `None` if the request names one.
    pub fn tenant(&self) -> Option<&TenantId> {
        self.tenant.as_ref()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

/// The API keys of the config.
#[derive(Clone, Debug, Default)]
pub struct ApiKeys(Arc<[ApiKey]>);

impl ApiKeys {
    /// All keys.
    pub fn new(keys: impl IntoIterator<Item = ApiKey>) -> Self {
        Self(keys.into_iter().collect())
    }

    /// Whether there is none, so that the publish API is closed.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The key with that secret. Takes the same time whichever key it is, or none.
    pub fn find(&self, secret: &str) -> Option<&ApiKey> {
        let digest: [u8; 32] = Sha256::digest(secret.as_bytes()).into();
        self.0.iter().fold(None, |found, key| if digests_eq(&key.digest, &digest) { Some(key) } else { found })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_by_its_secret_only() {
        let tenant = TenantId::try_from("acme").unwrap();
        let keys = ApiKeys::new([
            ApiKey::new("a", &Secret::from("first"), None),
            ApiKey::new("b", &Secret::from("second"), Some(tenant.clone())),
        ]);
        assert_eq!(keys.find("first").map(ApiKey::id), Some("a"));
        assert_eq!(keys.find("second").and_then(ApiKey::tenant), Some(&tenant));
        for wrong in ["", "a", "firs", "first ", "FIRST"] {
            assert_eq!(keys.find(wrong), None, "{wrong}");
        }
        assert_eq!(ApiKeys::default().find(""), None);
        assert!(!format!("{keys:?}").contains("first"));
    }
}
