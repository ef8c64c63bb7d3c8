//! Where something is: addresses and hosts.

use std::net::{Ipv4Addr, SocketAddr};

fn refuse_scheme(text: &str) -> Result<(), String> {
    let Some((scheme, rest)) = text.split_once("://") else { return Ok(()) };
    let host = rest.split('/').next().unwrap_or_default();
    Err(format!("must be host:port without {:?}; did you mean {host:?}?", format!("{scheme}://")))
}

/// An address to listen on: an IP address and a port. `localhost` is 127.0.0.1; nothing else is looked up.
pub(crate) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    refuse_scheme(text)?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    if let Some(port) = text.strip_prefix("localhost:").and_then(|port| port.parse().ok()) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    let port = text.rsplit_once(':').map_or(text, |(_, port)| port);
    let host_is_open = matches!(text.rsplit_once(':'), None | Some(("" | "*", _)));
    Err(match port.parse::<u16>() {
        Ok(port) if host_is_open => {
            format!("has no IP address; did you mean \"0.0.0.0:{port}\" or \"127.0.0.1:{port}\"?")
        }
        Ok(_) => "must be an IP address and a port, such as \"127.0.0.1:8080\" or \"[::1]:8080\"".to_owned(),
        Err(_) if text.parse::<std::net::IpAddr>().is_ok() => "has no port, such as in \"127.0.0.1:8080\"".to_owned(),
        Err(_) => "must be an IP address and a port from 0 to 65535, such as \"127.0.0.1:8080\"".to_owned(),
    })
}

/// The address of a server: a name or IP address, and a port; or `unix:` and the path of a socket.
pub(crate) fn server_address(text: &str) -> Result<String, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return match path {
            _ if !path.starts_with('/') => Err("must have an absolute path, such as \"unix:/run/app.sock\"".to_owned()),
            // sun_path of unix(7), with its terminating zero.
            _ if path.len() > 107 => Err("has a path longer than the 107 bytes of a socket's address".to_owned()),
            _ if path.chars().any(char::is_control) => Err("must not hold control characters".to_owned()),
            _ => Ok(text.to_owned()),
        };
    }
    refuse_scheme(text)?;
    if text.contains('/') {
        return Err("must be host:port without a path".to_owned());
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err("has no port; write host:port, such as \"127.0.0.1:3000\"".to_owned());
    };
    if !port.parse::<u16>().is_ok_and(|port| port > 0) || port.starts_with('+') {
        return Err(format!("has no port from 1 to 65535 but {port:?}"));
    }
    if let Some(inner) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err(format!("{inner:?} is no IPv6 address")),
        };
    }
    if host.contains(':') {
        return Err(format!("is an IPv6 address without brackets; write \"[{host}]:{port}\""));
    }
    host_name(host).map(|()| text.to_owned())
}

/// A name of DNS, or an IPv4 address: labels of letters, digits, `-` and `_`.
pub(crate) fn host_name(host: &str) -> Result<(), String> {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    if !host.is_empty() && host.len() <= 253 && host.split('.').all(label) {
        Ok(())
    } else {
        Err(format!("has no host name but {host:?}"))
    }
}

/// A host of a request, lower case.
pub(crate) fn host(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return Err("must not have a scheme".to_owned());
    }
    if text.contains('/') {
        return Err("must not have a path; that is \"path\"".to_owned());
    }
    if text.contains('*') {
        return Err("must be one host, without a wildcard".to_owned());
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Some(inner) = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        return match inner.parse::<std::net::Ipv6Addr>() {
            Ok(_) => Ok(name.to_ascii_lowercase()),
            Err(_) => Err("is no IPv6 address".to_owned()),
        };
    }
    if name.contains(':') {
        return Err("must not have a port".to_owned());
    }
    host_name(name).map(|()| name.to_ascii_lowercase()).map_err(|_| "is no host name".to_owned())
}

/// A host of a request, lower case: one, `*.example.org` or `example.*` (nginx server_name).
pub(crate) fn host_pattern(text: &str) -> Result<String, String> {
    let wildcard = "may have one wildcard, as the first label or the last: \"*.example.org\", \"example.*\"";
    if text == "*" {
        return Err("is every host: leave \"host\" out".to_owned());
    }
    if let Some(rest) = text.strip_prefix("*.") {
        return match host(rest) {
            Ok(rest) => Ok(format!("*.{rest}")),
            Err(_) if rest.contains('*') => Err(wildcard.to_owned()),
            Err(fault) => Err(fault),
        };
    }
    if let Some(rest) = text.strip_suffix(".*") {
        return match host(rest) {
            Ok(rest) => Ok(format!("{rest}.*")),
            Err(_) if rest.contains('*') => Err(wildcard.to_owned()),
            Err(fault) => Err(fault),
        };
    }
    if text.contains('*') { Err(wildcard.to_owned()) } else { host(text) }
}

/// A whole URL of http or https, without credentials, which would end up in logs.
pub(crate) fn url(text: &str) -> Result<std::sync::Arc<str>, String> {
    let Some(("http" | "https", rest)) = text.split_once("://") else {
        return Err("must begin with \"http://\" or \"https://\"".to_owned());
    };
    if text.contains(['#', '\\']) || text.contains(char::is_whitespace) || text.contains(char::is_control) {
        return Err("must have neither a fragment nor spaces".to_owned());
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err("must have no user or password before the host".to_owned());
    }
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let with_port = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    server_address(&with_port).map(|_| text.into())
}

/// Where a collector is: scheme, host, perhaps a port and a path; without a slash at its end.
pub(crate) fn endpoint(text: &str) -> Result<std::sync::Arc<str>, String> {
    let Some((scheme @ ("http" | "https"), rest)) = text.split_once("://") else {
        return Err("must begin with \"http://\" or \"https://\"".to_owned());
    };
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    if path.contains(['?', '#']) || text.contains(char::is_whitespace) {
        return Err("must have neither a query nor spaces".to_owned());
    }
    if path.trim_end_matches('/') == "v1/traces" {
        return Err(format!(
            "must be without \"/v1/traces\", which is added; did you mean \"{scheme}://{authority}\"?"
        ));
    }
    let with_port = if authority.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']')) {
        authority.to_owned()
    } else {
        format!("{authority}:80")
    };
    match server_address(&with_port) {
        Ok(_) => Ok(text.trim_end_matches('/').into()),
        Err(fault) => Err(fault),
    }
}
