//! Calls: commands and scripts on their way to Redis.

use std::fmt::Write;

use sha1::{Digest, Sha1};

/// The command that tells a server a script.
pub(super) const LOAD: &str = "SCRIPT";

/// A script, called by its hash. Each link tells its server the text before the first call (`SCRIPT LOAD`), and again when
/// the server has forgotten it.
#[derive(Debug)]
pub struct Script {
    name: &'static str,
    source: String,
    sha: String,
}

impl Script {
    /// `name` is what it is called in metrics.
    pub fn new(name: &'static str, source: impl Into<String>) -> Self {
        let source = source.into();
        let mut sha = String::with_capacity(40);
        for byte in Sha1::digest(source.as_bytes()) {
            let _ = write!(sha, "{byte:02x}");
        }
        Self { name, source, sha }
    }

    /// What makes it known to a server. Not `EVAL`: a server forgets what it knows by that when it knows many (Redis 7.4).
    pub(super) fn load(&self) -> Call {
        Call::new(LOAD).arg("LOAD").arg(&self.source)
    }
}

/// A command or a script with its arguments.
#[derive(Clone, Debug)]
pub struct Call {
    name: &'static str,
    script: Option<&'static Script>,
    arguments: usize,
    /// The arguments as they are sent.
    body: Vec<u8>,
}

impl Call {
    /// A command, such as `HGETALL`; a subcommand is an argument.
    pub fn new(name: &'static str) -> Self {
        Self { name, script: None, arguments: 0, body: Vec::new() }
    }

    /// A script. All keys must be in one slot; other arguments follow by [`Call::arg`].
    pub fn script<K: AsRef<[u8]>>(script: &'static Script, keys: &[K]) -> Self {
        // Most calls of scripts are messages: one allocation for a small one.
        let body = Vec::with_capacity(512);
        let call = Self { name: script.name, script: Some(script), arguments: 0, body };
        keys.iter().fold(call.int(keys.len()), |call, key| call.arg(key))
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<[u8]>) -> Self {
        bulk(&mut self.body, argument.as_ref());
        self.arguments += 1;
        self
    }

    /// One more argument, a whole number.
    #[must_use]
    pub fn int(self, number: impl itoa::Integer) -> Self {
        self.arg(itoa::Buffer::new().format(number))
    }

    /// What it is called in metrics.
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// About as many bytes as it takes on the wire, or in memory.
    pub(super) fn size(&self) -> usize {
        self.body.len() + 64
    }

    /// The script that it calls.
    pub(super) fn script_called(&self) -> Option<&'static Script> {
        self.script
    }

    /// As it is sent; a script by its hash.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        header(out, b'*', self.arguments + 1 + usize::from(self.script.is_some()));
        match self.script {
            Some(script) => {
                bulk(out, b"EVALSHA");
                bulk(out, script.sha.as_bytes());
            }
            None => bulk(out, self.name.as_bytes()),
        }
        out.extend_from_slice(&self.body);
    }
}

fn header(out: &mut Vec<u8>, kind: u8, number: usize) {
    out.push(kind);
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn bulk(out: &mut Vec<u8>, bytes: &[u8]) {
    header(out, b'$', bytes.len());
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_array_of_strings() {
        let mut out = Vec::new();
        Call::new("SET").arg("k").int(-5).encode(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n-5\r\n");
    }

    #[test]
    fn a_script_goes_by_its_hash_and_by_its_text() {
        let script: &'static Script = Box::leak(Box::new(Script::new("one", "return 1")));
        let call = Call::script(script, &["{a}k"]).arg("x");
        let mut out = Vec::new();
        call.encode(&mut out);
        let sha = "e0e1f9fabfc9d4800c877a703b823ac0578ff8db";
        let tail = "$1\r\n1\r\n$4\r\n{a}k\r\n$1\r\nx\r\n";
        assert_eq!(String::from_utf8_lossy(&out), format!("*5\r\n$7\r\nEVALSHA\r\n$40\r\n{sha}\r\n{tail}"));
        out.clear();
        script.load().encode(&mut out);
        assert_eq!(String::from_utf8_lossy(&out), "*3\r\n$6\r\nSCRIPT\r\n$4\r\nLOAD\r\n$8\r\nreturn 1\r\n");
    }
}
