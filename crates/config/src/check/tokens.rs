//! Who may have signed a token: shared by [jwt] and [realtime.auth], which differ in the names of the secret only.

use std::sync::Arc;
use std::time::Duration;

use tidegate_auth::{Algorithm, Jwks, Key, KeyKind, Secret, Secrets};

use crate::check::secret::{Names, secret};
use crate::check::{delay, path, period};
use crate::reader::{AlgorithmName, At, List, Optional, Reader, Span, Url};
use crate::{PublicKeys, Tokens};

/// The keys that both sections have.
pub(super) struct Found {
    /// The section, for messages.
    pub section: &'static str,
    pub place: usize,
    pub secret: Option<At<Secret>>,
    pub secret_file: Option<At<String>>,
    pub secret_name: &'static str,
    pub secret_file_name: &'static str,
    pub algorithms: Option<At<List<AlgorithmName>>>,
    pub public_keys: Option<At<List<String>>>,
    pub jwks_url: Option<At<Optional<Url>>>,
    pub jwks_file: Option<At<Optional<String>>>,
    pub jwks_refresh: Option<At<Span>>,
    pub audience: Option<At<List<String>>>,
    pub issuer: Option<At<List<String>>>,
    pub leeway: Option<At<Span>>,
}

/// Beyond this it is no difference of clocks any more.
const MOST_LEEWAY: Duration = Duration::from_secs(300);

pub(super) fn tokens(reader: &Reader<'_>, found: Found, has_key: bool, enabled: bool) -> Tokens {
    let default = Tokens::default();
    if enabled && !has_key {
        let (section, secret, file) = (found.section, found.secret_name, found.secret_file_name);
        reader.problem(
            found.place,
            format!("{section} needs keys: set {secret:?} or {file:?}, \"public_keys\", \"jwks_url\" or \"jwks_file\""),
        );
    }
    let algorithms = algorithms(found.algorithms);
    let hmac = KeyKind::Secret.choose(&algorithms);
    let given = found.secret.as_ref().map(|secret| secret.place);
    let given = given.or_else(|| found.secret_file.as_ref().map(|file| file.place));
    if let (Some(place), None) = (given, hmac) {
        reader.problem(place, "none of the \"algorithms\" takes a secret; add \"HS256\", or take the secret out");
    }
    let names = Names {
        text: found.secret_name,
        file: found.secret_file_name,
        what: "the JWT secret",
        least: hmac.unwrap_or(Algorithm::Hs256).least_secret_bytes(),
    };
    let secret = secret(reader, found.secret, found.secret_file, &names, enabled);
    let public_keys = found.public_keys.map(|list| list.value.0).unwrap_or_default();
    let public_keys =
        public_keys.into_iter().filter(|_| enabled).filter_map(|file| public_key(reader, &file, &algorithms));
    let public_keys: Vec<PublicKeys> = public_keys.collect();
    let jwks_file = super::given(found.jwks_file).map(|file| {
        let path = path(reader, &file, "jwks_file");
        if enabled {
            jwks(reader, &file, &path, &algorithms);
        }
        path
    });
    let jwks_url = super::given(found.jwks_url).map(|url| {
        if reader.production() && url.value.0.starts_with("http://") {
            let message = "production = true: keys must come by https, or whoever is on the way makes tokens";
            reader.problem(url.place, message);
        }
        url.value.0
    });
    let leeway = delay(reader, found.leeway.clone(), "leeway", default.leeway);
    if let (true, Some(found)) = (leeway > MOST_LEEWAY, found.leeway) {
        reader.problem(found.place, "\"leeway\" must be at most 5m: it lets tokens in that have expired");
    }
    let jwks_refresh = period(reader, found.jwks_refresh, "jwks_refresh", default.jwks_refresh);
    Tokens {
        secret: secret.map(|secret| secret.value),
        algorithms,
        public_keys,
        jwks_url,
        jwks_file,
        jwks_refresh,
        audience: texts(reader, found.audience, "audience"),
        issuer: texts(reader, found.issuer, "issuer"),
        leeway,
    }
}

fn algorithms(found: Option<At<List<AlgorithmName>>>) -> Vec<Algorithm> {
    found.map(|list| list.value.0.into_iter().map(|name| name.value.0).collect()).unwrap_or_default()
}

fn public_key(reader: &Reader<'_>, file: &At<String>, algorithms: &[Algorithm]) -> Option<PublicKeys> {
    let path = path(reader, file, "public_keys");
    let text = read(reader, file, &path)?;
    match Key::from_pem(&text, algorithms) {
        Ok(_) => Some(PublicKeys { path, text: text.into() }),
        Err(fault) => {
            reader.problem(file.place, format!("the key in {:?} cannot be used: {fault}", path.display().to_string()));
            None
        }
    }
}

fn jwks(reader: &Reader<'_>, file: &At<String>, path: &std::path::Path, algorithms: &[Algorithm]) {
    let Some(text) = read(reader, file, path) else { return };
    if let Err(fault) = Jwks::parse(text.as_bytes(), algorithms, Secrets::Accepted) {
        reader.problem(file.place, format!("the file {:?} cannot be used: {fault}", path.display().to_string()));
    }
}

fn read(reader: &Reader<'_>, file: &At<String>, path: &std::path::Path) -> Option<String> {
    reader
        .read_file(path)
        .map_err(|error| {
            let path = path.display().to_string();
            reader.problem(file.place, format!("the file {path:?} cannot be read: {error}"));
        })
        .ok()
}

fn texts(reader: &Reader<'_>, found: Option<At<List<String>>>, key: &str) -> Vec<Box<str>> {
    let found = found.map(|list| list.value.0).unwrap_or_default();
    for empty in found.iter().filter(|text| text.value.is_empty()) {
        reader.problem(empty.place, format!("{key:?} must not hold an empty text"));
    }
    found.into_iter().map(|text| text.value.into_boxed_str()).collect()
}

/// Notes it if an origin has no place in production: everybody's, or one of the developer's own machine.
pub(super) fn origin_of_production(reader: &Reader<'_>, origin: &str, place: usize) {
    if !reader.production() {
        return;
    }
    if origin == "*" {
        reader.problem(place, "production = true: the origin \"*\" lets every page in; name the origins");
        return;
    }
    let host = origin.split_once("://").map_or(origin, |(_, rest)| rest);
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split([':', '/']).next().unwrap_or_default(),
    };
    let host = host.to_ascii_lowercase();
    if host == "localhost"
        || host.ends_with(".localhost")
        || host.starts_with("127.")
        || host == "::1"
        || host == "0.0.0.0"
    {
        reader.problem(
            place,
            format!("production = true: the origin {origin:?} is a page of one's own machine; take it out"),
        );
    }
}

/// What the default of an `Arc<str>` key is.
pub(super) fn name_or(found: Option<At<Optional<crate::reader::Token>>>, default: &str) -> Option<Arc<str>> {
    match found {
        None => Some(default.into()),
        Some(found) => found.value.0.map(|name| name.0),
    }
}
