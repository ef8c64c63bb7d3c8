use rustls::{CipherSuite, HandshakeKind, ProtocolVersion};

use super::credentials::subject;
use super::stream::TlsStream;

/// What a handshake told a server about its client, in the words of nginx's variables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTls {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// As OpenSSL names it: `TLS_AES_128_GCM_SHA256`, `ECDHE-RSA-AES128-GCM-SHA256`.
    pub cipher: &'static str,
    /// The name that the client asked for, in small letters; empty if it named none.
    pub sni: Box<str>,
    /// The subject of its certificate (RFC 4514); empty without one.
    pub subject: Box<str>,
    /// `SUCCESS` if it showed a certificate, which then was good; otherwise `NONE`.
    pub verified: &'static str,
    /// Whether it came back to a session that it had before.
    pub resumed: bool,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
}

impl TlsStream {
    /// What the handshake told.
    pub fn client(&self) -> ClientTls {
        let sni = self.server_name().unwrap_or_default();
        self.inspect(|session| {
            let certificate = session.peer_certificates().and_then(<[_]>::first);
            ClientTls {
                version: match session.protocol_version() {
                    Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
                    _ => "TLSv1.2",
                },
                cipher: session.negotiated_cipher_suite().map_or("", |suite| cipher(suite.suite())),
                sni,
                subject: certificate.and_then(subject).unwrap_or_default().into(),
                verified: if certificate.is_some() { "SUCCESS" } else { "NONE" },
                resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
                http2: session.alpn_protocol() == Some(b"h2"),
            }
        })
    }
}

/// Those that rustls speaks with ring.
#[expect(clippy::wildcard_enum_match_arm, reason = "there are hundreds; rustls speaks these")]
fn cipher(suite: CipherSuite) -> &'static str {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        CipherSuite::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => "ECDHE-RSA-CHACHA20-POLY1305",
        other => other.as_str().unwrap_or("unknown"),
    }
}
