use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// An authority, and what it signed for `localhost` and 127.0.0.1: a server's and a client's certificate. PEM files.
#[derive(Debug)]
pub struct Certificates {
    folder: tempfile::TempDir,
}

impl Certificates {
    /// New ones.
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("certificates").tempdir().expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("a file");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        write("ca.pem", authority.pem());
        for name in ["server", "client"] {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = CertificateParams::new(names).expect("parameters");
            // Another one than the authority's: OpenSSL takes a certificate for self-signed whose issuer has its name.
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().expect("a key");
            write(&format!("{name}.pem"), params.signed_by(&key, &authority).expect("a certificate").pem());
            write(&format!("{name}-key.pem"), key.serialize_pem());
        }
        Self { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whom to believe.
    pub fn ca(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// The server's.
    pub fn server_certificate(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// Its key.
    pub fn server_key(&self) -> PathBuf {
        self.file("server-key.pem")
    }

    /// A client's.
    pub fn client_certificate(&self) -> PathBuf {
        self.file("client.pem")
    }

    /// Its key.
    pub fn client_key(&self) -> PathBuf {
        self.file("client-key.pem")
    }
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}
