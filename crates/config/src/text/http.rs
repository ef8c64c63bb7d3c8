//! What HTTP knows: paths, methods, names and values of headers, origins.

use std::sync::Arc;

use super::{host_name, suggest};
use crate::PathMatch;

/// A path of a URL as it stands in a request.
pub(crate) fn url_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err("must begin with \"/\"".to_owned());
    }
    match text.bytes().find(|byte| !byte.is_ascii_graphic() || matches!(byte, b'?' | b'#' | b'"' | b'<' | b'>')) {
        None => Ok(text.to_owned()),
        Some(b'?' | b'#') => Err("must be a path without a query".to_owned()),
        Some(_) => Err("must hold only what can stand in a URL; write %20 for a space".to_owned()),
    }
}

/// RFC 6454 section 6.2: scheme, host and a port that is not the scheme's own; nothing after it.
pub(crate) fn origin(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err("must begin with \"https://\" or \"http://\", or be \"*\"".to_owned());
    };
    if !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https") {
        return Err("must begin with \"https://\" or \"http://\"".to_owned());
    }
    if let Some((host, _)) = rest.split_once('/') {
        return Err(format!("must end after the host; did you mean \"{scheme}://{host}\"?"));
    }
    let (host, port) = match rest.rsplit_once(':') {
        Some((host, port)) if !rest.ends_with(']') => (host, Some(port)),
        Some(_) | None => (rest, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return Err("has no valid port".to_owned());
    }
    let inner = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    match inner {
        Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => Ok(text.to_ascii_lowercase()),
        Some(_) => Err("has no valid host".to_owned()),
        None => host_name(host).map(|()| text.to_ascii_lowercase()).map_err(|_| "has no valid host".to_owned()),
    }
}

/// An origin, or all below a host, or all.
pub(crate) fn origin_pattern(text: &str) -> Result<Arc<str>, String> {
    if let Some((scheme, rest)) = text.split_once("://*.") {
        return origin(&format!("{scheme}://{rest}")).map(|_| text.to_ascii_lowercase().into());
    }
    if text == "null" { Ok(text.into()) } else { origin(text).map(Arc::from) }
}

/// A path and perhaps a query.
pub(crate) fn url_target(text: &str) -> Result<Arc<str>, String> {
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    url_path(path)?;
    match query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') {
        true => Ok(text.into()),
        false => Err("must hold only what can stand in a URL; write %20 for a space".to_owned()),
    }
}

/// Which paths a route is for, as nginx's location: `/x`, `= /x`, `^~ /x`, `~ regex`, `~* regex`.
pub(crate) fn path_pattern(text: &str) -> Result<PathMatch, String> {
    let path = |path: &str| url_path(path.trim_start()).map(Arc::from);
    if let Some(rest) = text.strip_prefix('=') {
        return path(rest).map(PathMatch::Exact).map_err(|fault| format!("{fault} after \"=\""));
    }
    if let Some(rest) = text.strip_prefix("^~") {
        return path(rest).map(PathMatch::PrefixFirst).map_err(|fault| format!("{fault} after \"^~\""));
    }
    if let Some(rest) = text.strip_prefix('~') {
        let (pattern, ignore_case) = rest.strip_prefix('*').map_or((rest, false), |rest| (rest, true));
        let pattern = pattern.trim_start();
        if pattern.is_empty() {
            return Err("has no regular expression after \"~\"".to_owned());
        }
        regular_expression(pattern)?;
        return Ok(PathMatch::Regex { pattern: pattern.into(), ignore_case });
    }
    if text.starts_with('^') {
        return Err(format!("must begin with \"/\"; for a regular expression write \"~ {text}\""));
    }
    path(text).map(PathMatch::Prefix)
}

fn regular_expression(pattern: &str) -> Result<(), String> {
    // As the router makes it: over bytes, since a decoded path need not be UTF-8.
    regex::bytes::RegexBuilder::new(pattern).build().map(drop).map_err(|error| {
        let shown = error.to_string();
        let reason = shown.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        format!("is no regular expression: {reason}")
    })
}

/// RFC 9110 section 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// A method, which has upper and lower case; the usual ones are upper.
pub(crate) fn method(text: &str) -> Result<Arc<str>, String> {
    let usual = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"];
    match text {
        _ if usual.contains(&text) => Ok(text.into()),
        _ if !is_token(text) => Err("is no method".to_owned()),
        // Methods of WebDAV and others exist; in lower case none does.
        _ if text.bytes().any(|byte| byte.is_ascii_lowercase()) => {
            Err(format!("must be in upper case{}", suggest(&text.to_ascii_uppercase(), usual)))
        }
        _ => Ok(text.into()),
    }
}

/// The name of a cookie or a query parameter.
pub(crate) fn token(text: &str) -> Result<Arc<str>, String> {
    if is_token(text) { Ok(text.into()) } else { Err("must hold only letters, digits and !#$%&'*+-.^_`|~".to_owned()) }
}

/// The name of a header, lower case.
pub(crate) fn field_name(text: &str) -> Result<Arc<str>, String> {
    if is_token(text) { Ok(text.to_ascii_lowercase().into()) } else { Err("is no name of a header".to_owned()) }
}

/// What a header's value can be.
pub(crate) fn field_value(text: &str) -> Result<Arc<str>, String> {
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err("must not hold control characters, nor begin or end with a space".to_owned());
    }
    Ok(text.into())
}
