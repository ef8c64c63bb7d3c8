use std::io::{Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tidegate_server::exit;

use crate::cli::HealthcheckArgs;
use crate::failure::Failure;

/// Exit code 0 if the answer is a 2xx. Without an HTTP client: a container's check must start fast and need nothing.
pub fn run(args: &HealthcheckArgs) -> Result<u8, Failure> {
    let uri: http::Uri = args.url.parse().map_err(|error| Failure::usage(format!("--url {}: {error}", args.url)))?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else {
        return Err(Failure::usage("--url must begin with http://"));
    };
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let status = ask(authority, path, args.timeout).with_context(|| format!("{} does not answer", args.url))?;
    if (200..300).contains(&status) {
        Ok(exit::OK)
    } else {
        Err(anyhow::anyhow!("{} answers {status}", args.url).into())
    }
}

fn ask(authority: &http::uri::Authority, path: &str, timeout: Duration) -> anyhow::Result<u16> {
    let deadline = Instant::now() + timeout;
    let left = || {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(anyhow::anyhow!("no answer within {timeout:?}")) } else { Ok(left) }
    };
    let host = authority.host().trim_start_matches('[').trim_end_matches(']');
    let addresses: Vec<_> = (host, authority.port_u16().unwrap_or(80)).to_socket_addrs()?.collect();
    let mut stream = Err(anyhow::anyhow!("the name has no address"));
    for address in addresses {
        stream = TcpStream::connect_timeout(&address, left()?).map_err(Into::into);
        if stream.is_ok() {
            break;
        }
    }
    let mut stream = stream?;
    stream.set_write_timeout(Some(left()?))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n")?;
    let mut head = Vec::new();
    // "HTTP/1.1 200" is all that is wanted.
    while head.len() < 12 {
        stream.set_read_timeout(Some(left()?))?;
        let mut buffer = [0; 64];
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            bail!("the connection was closed");
        }
        head.extend(buffer.iter().take(read));
    }
    let text = String::from_utf8_lossy(&head);
    let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|word| word.get(..3));
    status.and_then(|status| status.parse().ok()).context("the answer is not HTTP")
}
