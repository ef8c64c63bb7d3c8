//! `tidegate dev`: the gateway, the realtime server, a sample backend and a page to see them, without any config.
//!
//! What must outlive a restart lies in the data directory: the secrets (so that tokens stay good) and the history.

mod banner;
mod certificate;
mod nodes;
mod page;
mod sample;
mod secrets;
mod session;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HOST, IF_NONE_MATCH};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tidegate_auth::{ApiKey, KeySet, Scopes};
use tidegate_config::{
    AccessLog, Action, Admin, Config, Drain, Fsync, Listener, ListenerTls, Log, LogFormat, LogLevel, Realtime,
    RealtimeAuth, Route, Store, StoreKind, Upstream,
};
use tidegate_server::{Extras, Local, Running, Server, StartError, start_logging};

use crate::cli::DevArgs;
use crate::failure::Failure;
use crate::output::print;
use secrets::Secrets;

pub use secrets::JWT_SECRET_FILE;

const DEFAULT_PORT: u16 = 8080;
/// How many ports are tried after the default one.
const PORTS_TO_TRY: u16 = 100;
/// How long connections may take to end after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(5);
/// More than the rooms API's 10,000, so that a load test of that size leaves room for a browser.
const MAX_CONNECTIONS: usize = 20_000;

/// Serves until a signal.
pub fn run(args: &DevArgs) -> Result<u8, Failure> {
    let log = Log {
        level: LogLevel::Warn,
        format: LogFormat::Text,
        access: AccessLog::File(args.data_dir.join("access.log")),
        ..Log::default()
    };
    start_logging(&log);
    let secrets = Secrets::open(&args.data_dir)?;
    // Of the last run there is nothing in it that anybody waits for, and it must not grow for ever.
    let _ = std::fs::remove_file(args.data_dir.join("access.log"));

    let sample = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| Ok((listener.local_addr()?, listener)))
        .map_err(|error| Failure::io("the sample backend cannot listen", error))?;
    let (sample_address, sample) = sample;
    sample::start(sample).map_err(|error| Failure::io("the sample backend cannot start", error))?;

    let nodes = match args.nodes {
        Some(count) => Some(nodes::Nodes::start(count, args.redis.as_deref(), &args.data_dir, &secrets)?),
        None => None,
    };
    let keys = KeySet::hs256(secrets.jwt.expose());
    let loopback = args.listen.is_none_or(|address| address.ip().is_loopback());
    let extras = Extras {
        local: Some(local(keys.clone(), loopback)),
        admin_everywhere: true,
        signals: true,
        ..Extras::default()
    };
    let certificate = if args.tls { Some(certificate::open(&args.data_dir, args.listen)?) } else { None };
    let config = |address| {
        let mut config = config(args, log.clone(), &secrets, sample_address, address);
        for listener in &mut config.listeners {
            listener.tls = certificate.clone().map(|files| ListenerTls::new(vec![files]));
        }
        if let Some(nodes) = &nodes {
            let (upstream, routes) = nodes::Nodes::routes();
            config.realtime = None;
            config.cluster = Some(nodes.cluster.clone());
            config.upstreams.push(upstream);
            config.routes.extend(routes);
        }
        config
    };
    let (running, moved) = start(args.listen, &config, &extras)?;
    let address = running.addresses().first().copied().unwrap_or_else(default_address);
    let token = session::token(&keys, "ada");
    print(&banner::text(&banner::Facts {
        address,
        moved,
        sample: sample_address,
        admin: running.admin_address(),
        data_dir: &args.data_dir,
        token: &token,
        api_key: secrets.api_key.expose(),
        certificate: certificate.as_ref().map(|files| &*files.certificate),
    }))?;
    if let Some(nodes) = &nodes {
        print(&nodes.banner())?;
    }
    if !loopback {
        eprintln!(
            "warning: {address} is not a loopback address: whoever reaches it gets a token from /dev/session. \
             Use `tidegate run` for anything but trying things out."
        );
    }
    let code = running.wait();
    drop(nodes);
    Ok(code)
}

fn default_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, DEFAULT_PORT).into()
}

/// Starts at the address asked for, or else at the first free port from the default one on. The second value is whether
/// the default port was taken.
fn start(
    asked: Option<SocketAddr>,
    config: &dyn Fn(SocketAddr) -> Config,
    extras: &Extras,
) -> Result<(Running, bool), Failure> {
    if let Some(address) = asked {
        return Ok((Server::start(config(address), extras.clone())?, false));
    }
    let mut address = default_address();
    for port in DEFAULT_PORT..DEFAULT_PORT.saturating_add(PORTS_TO_TRY) {
        address.set_port(port);
        match Server::start(config(address), extras.clone()) {
            Ok(running) => return Ok((running, port != DEFAULT_PORT)),
            // Only the main address may move: an admin address was asked for.
            Err(StartError::AddressInUse { address: taken, .. }) if taken == address => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StartError::AddressInUse { address, role: "dev".to_owned() }.into())
}

fn config(args: &DevArgs, log: Log, secrets: &Secrets, sample: SocketAddr, address: SocketAddr) -> Config {
    let route = |name: &str, path: &str| Route::new(name, path, Action::upstream("sample"));
    let listener: Arc<str> = "dev".into();
    let api_key = ApiKey::new("dev", &secrets.api_key, None).with_scopes(Scopes::ALL);
    let auth = RealtimeAuth { api_keys: vec![api_key], ..RealtimeAuth::hs256(secrets.jwt.clone()) };
    Config {
        workers: args.workers.unwrap_or(0),
        listeners: vec![Listener::new(&listener, address)],
        admin: args.admin.map(|address| Admin { address, token: None }),
        upstreams: vec![Upstream::new("sample", &[sample.to_string().as_str()])],
        routes: vec![route("api", "/api/"), route("echo", "/echo")],
        realtime: Some(Realtime {
            max_connections: MAX_CONNECTIONS,
            // The application under development is served from another port.
            cors_origins: vec!["*".to_owned()],
            ..Realtime::new(auth, vec![listener])
        }),
        store: Store {
            kind: StoreKind::Embedded {
                path: args.data_dir.join("history"),
                fsync: Fsync::Interval(Duration::from_secs(1)),
            },
            ..Store::default()
        },
        log,
        drain: Drain { timeout: DRAIN, delay: Duration::ZERO, ..Drain::default() },
        ..Config::default()
    }
}

/// The page, its files, and `/dev/session`.
fn local(keys: KeySet, loopback: bool) -> Local {
    Arc::new(move |request| {
        let path = request.uri().path();
        if path == "/dev/session" {
            return Some(session::answer(&keys, request, loopback));
        }
        let asset = page::asset(path)?;
        Some(serve(request, &asset))
    })
}

fn serve<B>(request: &Request<B>, asset: &page::Asset) -> Response<Bytes> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
    }
    let known = request.headers().get(IF_NONE_MATCH).is_some_and(|etag| etag.as_bytes() == asset.etag.as_bytes());
    let mut response = if known {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        Response::new(Bytes::from_static(asset.body))
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    // The files change with the binary only, but then at once.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(page::CONTENT_SECURITY_POLICY));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    if let Ok(etag) = HeaderValue::from_str(&asset.etag) {
        headers.insert(ETAG, etag);
    }
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Whether the request was meant for this machine by name: a web page elsewhere whose name was made to point here
/// (DNS rebinding) sends its own name.
fn names_this_machine<B>(request: &Request<B>) -> bool {
    let host = request.headers().get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.parse::<http::uri::Authority>().map(|authority| authority.host().to_owned()).unwrap_or_default();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

fn ensure_directory(path: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::DirBuilderExt as _;
    // Secrets lie in it.
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Failure::io(format!("cannot create the data directory {}", path.display()), error))
}
