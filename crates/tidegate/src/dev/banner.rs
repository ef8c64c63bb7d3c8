use std::net::SocketAddr;
use std::path::Path;

/// What the banner tells.
pub struct Facts<'a> {
    pub address: SocketAddr,
    /// The default port was taken.
    pub moved: bool,
    pub sample: SocketAddr,
    pub admin: Option<SocketAddr>,
    pub data_dir: &'a Path,
    pub token: &'a str,
    pub api_key: &'a str,
    /// Its file, if TLS is spoken.
    pub certificate: Option<&'a Path>,
}

/// The text that `dev` prints when it serves. Commands are complete: they work when pasted.
pub fn text(facts: &Facts<'_>) -> String {
    let Facts { address, moved, sample, admin, data_dir, token, api_key, certificate } = *facts;
    // 0.0.0.0 can be listened on, but not gone to.
    let mut goal = address;
    if goal.ip().is_unspecified() {
        let loopback = if goal.is_ipv4() { [127, 0, 0, 1].into() } else { std::net::Ipv6Addr::LOCALHOST.into() };
        goal.set_ip(loopback);
    }
    let moved = if moved { "  (port 8080 is taken)" } else { "" };
    let admin = admin.map(|admin| format!("  admin    http://{admin}/health\n")).unwrap_or_default();
    let data = data_dir.display();
    let program = program();
    let secret = quoted(&data_dir.join(super::JWT_SECRET_FILE));
    let (scheme, ca) = match certificate {
        None => ("http", String::new()),
        Some(file) => ("https", format!(" --cacert {}", quoted(file))),
    };
    let socket = if certificate.is_some() { "wss" } else { "ws" };
    let trust = match certificate {
        None => String::new(),
        Some(file) => format!(
            "\
The certificate is for localhost and vouches for itself. To have it trusted:

  curl     --cacert {file}
  Node     NODE_EXTRA_CA_CERTS={file}
  Debian   sudo cp {file} /usr/local/share/ca-certificates/tidegate-dev.crt && sudo update-ca-certificates
  browsers import it as an authority, or accept it when asked

",
            file = quoted(file),
        ),
    };
    format!(
        "\
Tidegate {version} dev, listening on {scheme}://{address}{moved}

  page     {scheme}://{goal}/
  sample   {scheme}://{goal}/api/hello  (backend on {sample})
  realtime {scheme}://{goal}/socket.io/  {scheme}://{goal}/realtime/rooms/lobby/events
  health   {scheme}://{goal}/health  /stats  /metrics
{admin}  data     {data}  (history, jwt-secret, api-key, access.log)

A token for user ada, good for 24 hours, also after a restart:

  {token}

Commands to try, each in a terminal of its own:

  # 1. Receive the room \"lobby\" as server-sent events
  curl{ca} -N -H 'Authorization: Bearer {token}' {scheme}://{goal}/realtime/rooms/lobby/events

  # 2. Publish to it as a backend does; the message is kept and replayed
  curl{ca} -X POST -H 'X-Api-Key: {api_key}' -H 'Content-Type: application/json' \\
    -d '{{\"payload\":{{\"text\":\"hello\"}},\"persistent\":true}}' {scheme}://{goal}/realtime/rooms/lobby/messages

  # 3. A thousand Socket.IO clients in one room, 50 messages a second to each
  {program} bench fanout --url {socket}://{goal} --secret-file {secret}

{trust}Ctrl-C drains and stops; a second Ctrl-C stops at once.
",
        version = env!("CARGO_PKG_VERSION"),
    )
}

/// How this program was started, so that a pasted command finds it.
fn program() -> String {
    let path = std::env::current_exe().ok();
    path.map_or_else(|| "tidegate".to_owned(), |path| quoted(&path))
}

/// As one word of a shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:@".contains(character);
    if !text.is_empty() && text.chars().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_banner_names_a_place_one_can_go_to() {
        let text = text(&Facts {
            address: "0.0.0.0:8081".parse().unwrap(),
            moved: true,
            sample: "127.0.0.1:9".parse().unwrap(),
            admin: None,
            data_dir: Path::new("my dir/.tidegate"),
            token: "TOKEN",
            api_key: "KEY",
            certificate: None,
        });
        assert!(text.contains("listening on http://0.0.0.0:8081"));
        assert!(text.contains("http://127.0.0.1:8081/realtime/rooms/lobby/events"));
        assert!(text.contains("--secret-file 'my dir/.tidegate/jwt-secret'"));
    }
}
