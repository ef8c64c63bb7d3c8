use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tidegate_auth::Secret;

use crate::failure::Failure;

/// The file in the data directory that holds the JWT secret.
pub const JWT_SECRET_FILE: &str = "jwt-secret";
/// The file in the data directory that holds the API key of backends.
const API_KEY_FILE: &str = "api-key";

/// What `dev` generates at its first start and keeps.
pub struct Secrets {
    pub jwt: Secret,
    pub api_key: Secret,
}

impl Secrets {
    /// Reads the secrets of the data directory; makes what is missing.
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        super::ensure_directory(directory)?;
        Ok(Self {
            jwt: keep(&directory.join(JWT_SECRET_FILE), "", 64)?,
            api_key: keep(&directory.join(API_KEY_FILE), "tg_", 24)?,
        })
    }
}

fn keep(path: &Path, prefix: &str, random_bytes: usize) -> Result<Secret, Failure> {
    let read = || std::fs::read_to_string(path);
    let text = match read() {
        Err(error) if error.kind() == ErrorKind::NotFound => match create(path, prefix, random_bytes) {
            // Another process was faster; its secret is the secret.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => read(),
            other => other,
        },
        other => other,
    };
    let text = text.map_err(|error| Failure::io(format!("cannot keep a secret in {}", path.display()), error))?;
    let text = text.trim_end_matches(['\r', '\n']);
    if text.len() < 16 {
        let message = format!("the secret in {} is too short; delete the file to get a new one", path.display());
        return Err(Failure::usage(message));
    }
    Ok(Secret::from(text))
}

fn create(path: &Path, prefix: &str, random_bytes: usize) -> std::io::Result<String> {
    let mut bytes = vec![0; random_bytes];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    let text = format!("{prefix}{}", URL_SAFE_NO_PAD.encode(bytes));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(format!("{text}\n").as_bytes())?;
    file.sync_all()?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn secrets_are_private_long_and_kept() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("new");
        let first = Secrets::open(&directory).unwrap();
        let second = Secrets::open(&directory).unwrap();
        assert_eq!(first.jwt, second.jwt);
        assert_eq!(first.api_key, second.api_key);
        assert!(first.jwt.expose().len() >= 64);
        for name in [JWT_SECRET_FILE, API_KEY_FILE] {
            assert_eq!(directory.join(name).metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_damaged_secret_is_not_silently_replaced() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(JWT_SECRET_FILE), "short").unwrap();
        assert!(Secrets::open(directory.path()).is_err());
    }
}
