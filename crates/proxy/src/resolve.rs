//! What the names of servers mean: asked of the system's resolver, at first when a request needs it, then in the background.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rustc_hash::FxHashMap;

use crate::Upstream;
use crate::server::Target;

/// Between two rounds, however often somebody has doubts.
const PAUSE: Duration = Duration::from_secs(1);

impl Upstream {
    /// Resolves the names among the servers again and again ([`crate::UpstreamSettings::dns_refresh`], or soon after a server
    /// could not be reached) until the upstream is gone; ends at once if there are none. For one task of the process.
    /// A name that cannot be resolved keeps its addresses.
    pub async fn follow_names(upstream: Weak<Self>) {
        let mut failing: FxHashMap<Arc<str>, bool> = FxHashMap::default();
        loop {
            let Some(alive) = upstream.upgrade() else { return };
            let names: Vec<Arc<str>> = alive.names().collect();
            if names.is_empty() {
                return;
            }
            let refresh = alive.settings.dns_refresh.max(PAUSE);
            for name in names {
                let found = lookup(&name).await;
                let failed = found.is_err();
                match found {
                    Ok(addresses) if alive.resolved(&name, &addresses) => {
                        tracing::info!(upstream = alive.settings.name, server = &*name, ?addresses, "resolved");
                    }
                    Err(error) if failing.get(&name) != Some(&true) => {
                        let upstream = &alive.settings.name;
                        tracing::warn!(upstream, server = &*name, %error, "cannot be resolved: what is known of it stays");
                    }
                    Ok(_) | Err(_) => {}
                }
                failing.insert(name, failed);
            }
            let doubted = alive.doubted.clone();
            // Who waits does not keep the upstream alive.
            drop(alive);
            tokio::time::sleep(PAUSE).await;
            let _ = tokio::time::timeout(refresh - PAUSE, doubted.notified()).await;
        }
    }

    /// The names among the servers that are not addresses.
    fn names(&self) -> impl Iterator<Item = Arc<str>> {
        let servers: &[_] = if self.settings.discovered { &[] } else { &self.settings.servers };
        let names = servers.iter().map(|server| server.address.as_str());
        names.filter(|address| Target::is_name(address)).map(Arc::from)
    }

    /// The first time that a name is needed.
    pub(crate) async fn resolve_now(&self, name: &str) -> bool {
        match tokio::time::timeout(self.settings.connect_timeout, lookup(name)).await {
            Ok(Ok(addresses)) => {
                self.resolved(name, &addresses);
                true
            }
            Ok(Err(_)) | Err(_) => false,
        }
    }
}

async fn lookup(name: &str) -> io::Result<Vec<SocketAddr>> {
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host(name).await?.collect();
    if addresses.is_empty() { Err(io::Error::new(io::ErrorKind::NotFound, "no address")) } else { Ok(addresses) }
}
