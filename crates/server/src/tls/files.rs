//! The files of a listener's TLS: read when they are new, and only used when they fit together.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidegate_config::{CertificateFiles, ClientAuth, ListenerTls, TlsVersion};
use tidegate_transport::rustls::ServerConfig;
use tidegate_transport::{Clients, Credentials, ServerTerms, Tickets};

/// What is in use, and from what.
#[derive(Debug)]
pub(super) struct Files {
    pairs: Vec<Pair>,
    /// The certificates that clients are checked against.
    client_ca: Option<Vec<u8>>,
    /// A client certificate that could not be used, so that it is told once.
    refused_ca: Option<Vec<u8>>,
    tickets: Option<Tickets>,
}

#[derive(Debug)]
struct Pair {
    files: CertificateFiles,
    credentials: Credentials,
    /// The texts that were looked at last, used or refused.
    seen: (Vec<u8>, Vec<u8>),
}

/// What is wrong with a file.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) file: PathBuf,
    what: String,
}

impl Problem {
    fn new(file: &Path, what: impl Display) -> Self {
        Self { file: file.to_owned(), what: what.to_string() }
    }

    /// As a sentence.
    pub(super) fn of(&self, listener: &str) -> String {
        format!("listener {listener:?}: TLS file {}: {}", self.file.display(), self.what)
    }
}

/// What a look at the files found.
#[derive(Debug, Default)]
pub(super) struct Look {
    /// To be used from now on.
    pub(super) config: Option<Arc<ServerConfig>>,
    pub(super) problems: Vec<Problem>,
}

fn read(file: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(file).map_err(|error| Problem::new(file, error))
}

/// Reads a pair. If only one of the two is new yet, they do not fit together, and the next look finds both.
fn read_pair(files: &CertificateFiles) -> Result<(Vec<u8>, Vec<u8>), Problem> {
    Ok((read(&files.certificate)?, read(&files.key)?))
}

fn credentials(files: &CertificateFiles, (chain, key): &(Vec<u8>, Vec<u8>)) -> Result<Credentials, Problem> {
    Credentials::from_pem(chain, key).map_err(|error| {
        let key = files.key.display();
        Problem::new(&files.certificate, format!("{error} (key: {key})"))
    })
}

impl Files {
    /// There are none to look at.
    pub(super) fn none() -> Self {
        Self { pairs: Vec::new(), client_ca: None, refused_ca: None, tickets: None }
    }

    /// Reads everything.
    pub(super) fn open(settings: &ListenerTls, http2: bool) -> Result<(Self, Arc<ServerConfig>), Problem> {
        let pairs = settings.certificates.iter().map(|files| {
            let seen = read_pair(files)?;
            let credentials = credentials(files, &seen)?;
            Ok(Pair { files: files.clone(), credentials, seen })
        });
        let pairs = pairs.collect::<Result<Vec<_>, Problem>>()?;
        let client_ca = settings.client_ca.as_deref().map(read).transpose()?;
        let tickets = match settings.session_tickets {
            true => Some(Tickets::new().map_err(|error| Problem::new(Path::new(""), error))?),
            false => None,
        };
        let this = Self { pairs, client_ca, refused_ca: None, tickets };
        let config = this.config(settings, http2, this.client_ca.as_deref(), this.tickets.clone())?;
        Ok((this, config))
    }

    fn config(
        &self,
        settings: &ListenerTls,
        http2: bool,
        client_ca: Option<&[u8]>,
        tickets: Option<Tickets>,
    ) -> Result<Arc<ServerConfig>, Problem> {
        let clients = match (settings.client_auth, client_ca) {
            (ClientAuth::Off, _) | (_, None) => Clients::Unasked,
            (ClientAuth::Optional, Some(ca)) => Clients::Asked(ca),
            (ClientAuth::Required, Some(ca)) => Clients::Required(ca),
        };
        let certificates: Vec<_> = self.pairs.iter().map(|pair| pair.credentials.clone()).collect();
        let tls13_only = settings.min_version == TlsVersion::Tls13;
        let terms = ServerTerms { certificates: &certificates, tls13_only, clients, http2, tickets };
        let blamed = settings.client_ca.as_deref().unwrap_or(Path::new(""));
        terms.config().map_err(|error| Problem::new(blamed, error))
    }

    /// Reads the files again. What is new and good is used, and what is bad is told, once.
    pub(super) fn look(&mut self, settings: &ListenerTls, http2: bool) -> Look {
        let mut look = Look::default();
        let mut changed = false;
        for pair in &mut self.pairs {
            // A file that is being replaced is not there for a moment.
            let Ok(now) = read_pair(&pair.files) else { continue };
            if now == pair.seen {
                continue;
            }
            match credentials(&pair.files, &now) {
                Ok(good) => {
                    pair.credentials = good;
                    changed = true;
                }
                Err(problem) => look.problems.push(problem),
            }
            pair.seen = now;
        }
        if let Some(file) = &settings.client_ca
            && let Ok(ca) = read(file)
            && Some(&ca) != self.client_ca.as_ref()
            && Some(&ca) != self.refused_ca.as_ref()
        {
            // Whoever resumes a session is not checked again: no session outlives the roots that it was checked by.
            let tickets = self.tickets.is_some().then(Tickets::new).and_then(Result::ok);
            match self.config(settings, http2, Some(&ca), tickets.clone()) {
                Ok(config) => {
                    look.config = Some(config);
                    (self.client_ca, self.refused_ca, self.tickets) = (Some(ca), None, tickets);
                    return look;
                }
                Err(problem) => {
                    look.problems.push(problem);
                    self.refused_ca = Some(ca);
                }
            }
        }
        if changed {
            match self.config(settings, http2, self.client_ca.as_deref(), self.tickets.clone()) {
                Ok(config) => look.config = Some(config),
                Err(problem) => look.problems.push(problem),
            }
        }
        look
    }

    /// The certificates in use and when they expire, seconds since the Unix epoch.
    pub(super) fn expiries(&self) -> impl Iterator<Item = (&Path, u64)> {
        self.pairs.iter().map(|pair| (&*pair.files.certificate, pair.credentials.expires()))
    }
}
