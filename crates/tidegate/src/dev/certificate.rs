//! The certificate of `tidegate dev --tls`: made at the first start, for this machine's names only.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use tidegate_config::CertificateFiles;

use crate::failure::Failure;

const CERTIFICATE_FILE: &str = "dev-certificate.pem";
const KEY_FILE: &str = "dev-certificate.key";

/// The files in the data directory; makes them if they are not there, or not for the address that is listened on.
pub fn open(directory: &Path, listen: Option<SocketAddr>) -> Result<CertificateFiles, Failure> {
    super::ensure_directory(directory)?;
    let named = listen.filter(|address| !address.ip().is_loopback() && !address.ip().is_unspecified());
    let suffix = named.map(|address| format!("-{}", address.ip())).unwrap_or_default();
    let at = |file: &str| directory.join(file.replacen("dev-", &format!("dev{suffix}-"), 1));
    let files = CertificateFiles { certificate: at(CERTIFICATE_FILE), key: at(KEY_FILE) };
    if files.certificate.exists() && files.key.exists() {
        return Ok(files);
    }
    let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    names.extend(named.map(|address| address.ip().to_string()));
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| Failure::io("cannot make a certificate", std::io::Error::other(error.to_string())))?;
    let kept = |path: &Path, text: &str, mode| {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())
    };
    kept(&files.key, &made.signing_key.serialize_pem(), 0o600)
        .and_then(|()| kept(&files.certificate, &made.cert.pem(), 0o644))
        .map_err(|error| Failure::io(format!("cannot keep a certificate in {}", directory.display()), error))?;
    Ok(files)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_certificate_stays_the_same_and_its_key_is_nobody_elses() {
        let directory = tempfile::tempdir().unwrap();
        let first = open(directory.path(), None).unwrap();
        let text = std::fs::read(&first.certificate).unwrap();
        let again = open(directory.path(), None).unwrap();
        assert_eq!(std::fs::read(again.certificate).unwrap(), text);
        assert_eq!(std::fs::metadata(first.key).unwrap().permissions().mode() & 0o777, 0o600);
        let other = open(directory.path(), Some("192.0.2.1:443".parse().unwrap())).unwrap();
        assert_ne!(std::fs::read(other.certificate).unwrap(), text);
    }
}
