//! TLS of listeners: the handshakes, their limits and counts, and the certificates, which are looked at while they are used.

mod files;
mod refuse;
mod watch;

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use tidegate_balance::{BucketSettings, TokenBucket};
use tidegate_config::{Listener, ListenerTls};
use tidegate_metrics::{CertificateLabels, Counter, Handshake, HandshakeLabels, Metrics, Name};
use tidegate_transport::rustls::{self, ServerConfig};
use tidegate_transport::{HandshakeError, Socket, TlsStream};
use tidegate_types::Millis;
use tokio::net::TcpStream;

use crate::StartError;

use files::Files;
pub(crate) use watch::watch;

/// The TLS of one listener, shared by all workers.
#[derive(Debug)]
pub(crate) struct Termination {
    listener: Arc<str>,
    settings: ListenerTls,
    http2: bool,
    /// What new handshakes go by.
    config: RwLock<Arc<ServerConfig>>,
    files: Mutex<Files>,
    limit: Option<Limit>,
    counts: [Counter; Handshake::COUNT],
}

/// How many handshakes there may be. One for the listener: an attack does not choose its worker.
#[derive(Debug)]
struct Limit {
    settings: BucketSettings,
    bucket: Mutex<TokenBucket>,
    start: Instant,
}

impl Limit {
    fn new(tls: &ListenerTls) -> Option<Self> {
        let settings = BucketSettings { rate: tls.handshakes_per_second, burst: tls.handshake_burst };
        let bucket = Mutex::new(TokenBucket::new(settings, 0));
        (settings.rate > 0).then(|| Self { settings, bucket, start: Instant::now() })
    }

    fn take(&self) -> bool {
        let now: Millis = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner).take(self.settings, 1, now)
    }
}

impl Termination {
    /// Reads the listener's files. One of a plan before is taken over if it is set up the same: with it go the sessions of its
    /// clients and the certificates that it has.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it should be.
    pub fn of(
        listener: &Listener,
        before: Option<&Arc<Self>>,
        metrics: &Metrics,
    ) -> Result<Option<Arc<Self>>, StartError> {
        let Some(settings) = &listener.tls else { return Ok(None) };
        let same = |known: &&Arc<Self>| known.settings == *settings && known.http2 == listener.http2;
        if let Some(known) = before.filter(same) {
            return Ok(Some(known.clone()));
        }
        let (files, config) =
            Files::open(settings, listener.http2).map_err(|problem| StartError::Config(problem.of(&listener.name)))?;
        let this = Self {
            listener: listener.name.clone(),
            settings: settings.clone(),
            http2: listener.http2,
            config: RwLock::new(config),
            files: Mutex::new(files),
            limit: Limit::new(settings),
            counts: counts(&listener.name, metrics),
        };
        this.tell_expiry(metrics);
        Ok(Some(Arc::new(this)))
    }

    /// That of the internal listener, whose certificates are this process' own.
    pub fn of_nodes(name: &Arc<str>, config: Arc<ServerConfig>, metrics: &Metrics) -> Arc<Self> {
        let settings = ListenerTls::new(Vec::new());
        Arc::new(Self {
            listener: name.clone(),
            http2: false,
            config: RwLock::new(config),
            files: Mutex::new(Files::none()),
            limit: Limit::new(&settings),
            settings,
            counts: counts(name, metrics),
        })
    }

    /// Looks at the files, and takes up what has changed and fits together.
    pub fn look(&self, metrics: &Metrics) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let look = files.look(&self.settings, self.http2);
        for problem in &look.problems {
            tracing::error!("{}; what was there before stays in use", problem.of(&self.listener));
            metrics.tls_certificates_refused.get_or_create(&self.label(&problem.file)).inc();
        }
        drop(files);
        if let Some(config) = look.config {
            *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
            self.tell_expiry(metrics);
            tracing::info!(listener = &*self.listener, "new certificates are in use");
        }
    }

    fn tell_expiry(&self, metrics: &Metrics) {
        for (file, expires) in self.files.lock().unwrap_or_else(PoisonError::into_inner).expiries() {
            let gauge = metrics.tls_certificate_expiry_seconds.get_or_create(&self.label(file));
            gauge.set(i64::try_from(expires).unwrap_or(i64::MAX));
        }
    }

    fn label(&self, file: &std::path::Path) -> CertificateLabels {
        CertificateLabels { listener: Name::new(&self.listener), certificate: Name::new(&file.to_string_lossy()) }
    }

    /// A handshake with a client that has just connected. `None` if it came to nothing, which is counted.
    pub async fn shake(&self, stream: TcpStream) -> Option<TlsStream> {
        if self.limit.as_ref().is_some_and(|limit| !limit.take()) {
            self.count(Handshake::Limited);
            return None;
        }
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let handshake = TlsStream::accept(Socket::from(stream), config);
        match tokio::time::timeout(self.settings.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => return Some(stream),
            Err(_elapsed) => self.count(Handshake::Timeout),
            Ok(Err(error)) => {
                self.count(reason(&error));
                tracing::debug!(listener = &*self.listener, %error, "a TLS handshake failed");
                if let HandshakeError::PlainHttp(socket) = error {
                    refuse::plain_http(socket).await;
                }
            }
        }
        None
    }

    /// Counts a handshake.
    pub fn count(&self, result: Handshake) {
        if let Some(counter) = self.counts.get(result as usize) {
            counter.inc();
        }
    }
}

fn counts(listener: &str, metrics: &Metrics) -> [Counter; Handshake::COUNT] {
    let name = Name::new(listener);
    std::array::from_fn(|index| {
        let result = Handshake::ALL.get(index).copied().unwrap_or(Handshake::Malformed);
        metrics.tls_handshakes.get_or_create_owned(&HandshakeLabels { listener: name.clone(), result })
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "rustls::Error is open")]
fn reason(error: &HandshakeError) -> Handshake {
    let error = match error {
        HandshakeError::PlainHttp(_) => return Handshake::PlainHttp,
        HandshakeError::Closed | HandshakeError::Io(_) => return Handshake::Closed,
        HandshakeError::Tls(error) => error,
    };
    match error {
        rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_) => Handshake::ClientCertificate,
        rustls::Error::AlertReceived(_) => Handshake::Refused,
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => Handshake::Incompatible,
        _ => Handshake::Malformed,
    }
}
