//! What the config says about the cluster, as the other crates take it.

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tidegate_auth::Secret;
use tidegate_cluster::membership::{Member, MembershipSettings, Protocol, Roles};
use tidegate_cluster::redis::{Address, Login, Password, RedisSettings, TlsSettings, Topology};
use tidegate_config::{BrokerKind, Cluster, Config, Discover, Redis, RedisMode};
use tidegate_transport::Credentials;
use tidegate_types::{NodeId, NodeNumber};

use crate::StartError;

/// Where Redis is and how it is spoken to. `section` is where the file says so.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub(crate) fn redis(redis: &Redis, section: &str) -> Result<RedisSettings, StartError> {
    let addresses = redis.servers.iter().map(|it| Address { host: (&*it.host).into(), port: it.port }).collect();
    let tls = redis.tls.as_ref();
    let topology = match redis.mode {
        RedisMode::Standalone => Topology::Standalone(addresses),
        RedisMode::Cluster => Topology::Cluster(addresses),
        RedisMode::Sentinel => Topology::Sentinel {
            sentinels: addresses,
            service: (&*redis.service).into(),
            login: login(redis.sentinel_user.as_deref(), redis.sentinel_password.as_ref()),
            tls: tls.is_some(),
        },
    };
    let fault = |what: &dyn Display| StartError::Config(format!("{section} redis_tls: {what}"));
    let read = |file: &Path| std::fs::read(file).map_err(|error| fault(&format!("{}: {error}", file.display())));
    let tls = tls.map(|tls| {
        let certificate = tls.certificate.as_ref().map(|files| {
            let (chain, key) = (read(&files.certificate)?, read(&files.key)?);
            Credentials::from_pem(&chain, &key).map_err(|error| fault(&error))
        });
        Ok::<_, StartError>(TlsSettings {
            ca: tls.ca.as_deref().map(read).transpose()?.map(Into::into),
            certificate: certificate.transpose()?,
            server_name: tls.server_name.as_deref().map(Into::into),
        })
    });
    let settings = RedisSettings {
        database: redis.database,
        login: login(redis.user.as_deref(), redis.password.as_ref()),
        tls: tls.transpose()?,
        prefix: (&*redis.prefix).into(),
        ..RedisSettings::new(topology)
    };
    settings.validate().map_err(|error| StartError::Config(format!("{section}: {error}")))?;
    Ok(settings)
}

fn login(user: Option<&str>, password: Option<&Secret>) -> Login {
    Login { user: user.map(Into::into), password: password.map(|password| Password::new(password.expose())) }
}

/// How a node lives and dies.
pub(crate) fn membership(cluster: &Cluster) -> MembershipSettings {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    MembershipSettings { heartbeat_ms: millis(cluster.heartbeat), node_timeout_ms: millis(cluster.node_timeout) }
}

/// What this process tells the others of itself; `bound` is where its internal listener is.
pub(crate) fn member(config: &Config, cluster: &Cluster, id: NodeId, bound: SocketAddr) -> Member {
    let address =
        cluster.internal_address.map_or(bound, |told| SocketAddr::new(told.ip, told.port.unwrap_or(bound.port())));
    let realtime = config.realtime.as_ref().is_some_and(|realtime| realtime.broker == BrokerKind::Redis);
    let discovers = |discover: &Option<Discover>| *discover == Some(Discover::Realtime);
    Member {
        id,
        number: NodeNumber(0),
        name: cluster.name.as_deref().map_or_else(name, Box::from),
        zone: cluster.zone.as_deref().unwrap_or_default().into(),
        version: env!("CARGO_PKG_VERSION").into(),
        protocol: Protocol::OWN,
        address,
        roles: Roles { realtime, gateway: config.upstreams.iter().any(|upstream| discovers(&upstream.discover)) },
        draining: false,
    }
}

/// The host's name and the process id: different for all nodes that one may look at together.
fn name() -> Box<str> {
    // proc(5)
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "node".to_owned());
    let host: String = host.chars().filter(|letter| !letter.is_control()).take(64).collect();
    format!("{host}-{}", std::process::id()).into()
}
