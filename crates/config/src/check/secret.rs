use tidegate_auth::{Secret, weakness};

use crate::check::path;
use crate::reader::{At, Reader};

/// As RFC 7518 section 3.2 has it for tokens: a key has at least the size of its hash. So has one of a cookie's HMAC.
pub(super) const MIN_HMAC_BYTES: usize = 32;

/// What a secret and the key for its file are called, and how short it may be.
pub(super) struct Names {
    pub text: &'static str,
    pub file: &'static str,
    pub what: &'static str,
    /// In bytes.
    pub least: usize,
}

/// A secret from the file itself or from one that it names. What is switched off need not be there.
pub(super) fn secret(
    reader: &Reader<'_>,
    text: Option<At<Secret>>,
    file: Option<At<String>>,
    names: &Names,
    enabled: bool,
) -> Option<At<Secret>> {
    let secret = match (text, file) {
        (Some(secret), None) => Some(secret),
        (None, Some(file)) if enabled => from_file(reader, &file, names.file),
        (None, Some(_) | None) => None,
        (Some(_), Some(file)) => {
            reader.problem(file.place, format!("there is a {:?} already; only one of both can be", names.text));
            None
        }
    };
    if let Some(secret) = &secret {
        long_enough(reader, secret, names.what, names.least);
    }
    secret
}

/// Notes it if the secret is too short.
pub(super) fn long_enough(reader: &Reader<'_>, secret: &At<Secret>, what: &str, least: usize) {
    let length = secret.value.expose().len();
    if length < least {
        reader.problem(secret.place, format!("{what} has {length} bytes; it must have at least {least}"));
    } else if let Some(weakness) = weakness(&secret.value).filter(|_| reader.production()) {
        reader.problem(secret.place, format!("production = true: {what} {weakness}"));
    }
}

fn from_file(reader: &Reader<'_>, given: &At<String>, key: &str) -> Option<At<Secret>> {
    let path = path(reader, given, key);
    if reader.production() && path.components().any(|part| part.as_os_str() == ".tidegate") {
        let message = "production = true: this is a secret of `tidegate dev`; make another one: openssl rand -hex 32";
        reader.problem(given.place, message);
    }
    match reader.read_file(&path) {
        // Editors and `echo` end a file with a newline, which belongs to no secret.
        Ok(text) => Some(At::new(Secret::from(text.trim_end_matches(['\n', '\r'])), given.place)),
        Err(error) => {
            reader.problem(given.place, format!("the file {:?} cannot be read: {error}", path.display().to_string()));
            None
        }
    }
}
