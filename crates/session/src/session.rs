use std::borrow::Cow;

use bytes::Bytes;
use smallvec::SmallVec;
use tidegate_types::{CloseReason, Millis, Namespace};
use tidegate_wire::engine_io::Packet;
use tidegate_wire::socket_io::{self, Kind};

/// The numbers of the handshake and the limits of one session.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Between two pings of the server, ms.
    pub ping_interval_ms: u64,
    /// How long a pong may take, ms.
    pub ping_timeout_ms: u64,
    /// How long a client may stay without a Socket.IO CONNECT, ms.
    pub connect_timeout_ms: u64,
    /// How long an upgrade may take from the WebSocket's opening to packet `5`, ms.
    pub upgrade_timeout_ms: u64,
    /// The largest packet or payload, and the most that the attachments of one packet may add up to, bytes.
    pub max_payload_bytes: usize,
    /// The most namespaces one session may be connected to.
    pub max_namespaces: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ping_interval_ms: 25_000,
            ping_timeout_ms: 20_000,
            connect_timeout_ms: 45_000,
            upgrade_timeout_ms: 10_000,
            max_payload_bytes: 1_000_000,
            max_namespaces: 16,
        }
    }
}

/// How the session's packets travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// HTTP long polling.
    Polling,
    /// Polling, with a WebSocket that has opened and is being probed.
    Probing,
    /// WebSocket.
    WebSocket,
}

/// What a packet means for the application.
#[derive(Debug, PartialEq, Eq)]
pub enum Input<'a> {
    /// Nothing to do.
    Nothing,
    /// The client wants into a namespace; answer with CONNECT after [`Session::accept`], or with CONNECT_ERROR.
    Connect {
        /// The namespace asked for.
        namespace: Namespace,
        /// The auth payload, a JSON object, or empty.
        auth: &'a str,
    },
    /// An event in a connected namespace.
    Event {
        /// The namespace.
        namespace: Namespace,
        /// The client's ack id, if it wants an answer.
        ack_id: Option<u64>,
        /// The JSON array: name and arguments.
        payload: Cow<'a, str>,
        /// The binary values, by placeholder number.
        attachments: Vec<Bytes>,
    },
    /// The answer to an event of ours.
    Ack {
        /// The namespace.
        namespace: Namespace,
        /// Our ack id.
        ack_id: u64,
        /// The JSON array of arguments.
        payload: Cow<'a, str>,
        /// The binary values, by placeholder number.
        attachments: Vec<Bytes>,
    },
    /// The client has left a namespace.
    Disconnect {
        /// The namespace.
        namespace: Namespace,
    },
    /// The client has closed the session.
    Close,
}

/// What a packet of bare Engine.IO means for the application.
#[derive(Debug, PartialEq, Eq)]
pub enum Bare<'a> {
    /// Nothing to do.
    Nothing,
    /// A text message.
    Text(&'a str),
    /// A binary message.
    Binary(Bytes),
    /// The client has closed the session.
    Close,
}

/// Why a GET cannot be taken as a poll. Engine.IO answers both with "Bad request".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PollRefused {
    /// Another GET of this session is open; the session must close.
    #[error("overlapping poll")]
    Overlap,
    /// The session has run out of time, though nobody has noticed yet; it must close.
    #[error("session has timed out")]
    TimedOut,
    /// The session has moved to WebSocket.
    #[error("session is not polling")]
    NotPolling,
}

/// The session is not polling, or is being upgraded already; the new WebSocket is closed, the session lives on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("session cannot be upgraded")]
pub struct UpgradeRefused;

/// What to do after a packet on a WebSocket that is being probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProbeStep {
    /// Send `3probe` on the WebSocket and release an open poll with a noop.
    Pong,
    /// The WebSocket is now the transport.
    Upgraded,
}

/// A binary packet whose attachments have not all come.
#[derive(Debug)]
struct Partial {
    kind: Kind,
    namespace: Namespace,
    ack_id: Option<u64>,
    payload: String,
    wanted: usize,
    bytes: usize,
    attachments: Vec<Bytes>,
}

/// One Engine.IO session.
#[derive(Debug)]
pub struct Session {
    opened_at: Millis,
    /// When the ping went out whose pong is missing; 0 for none.
    ping_sent_at: Millis,
    /// When the last ping went out that was answered, or the session was opened.
    answered_ping_at: Millis,
    sockets: SmallVec<[Namespace; 1]>,
    partial: Option<Box<Partial>>,
    transport: Transport,
    poll_open: bool,
    greeted: bool,
}

impl Session {
    /// A session that has just been opened.
    pub fn open(transport: Transport, now: Millis) -> Self {
        Self {
            opened_at: now,
            ping_sent_at: 0,
            answered_ping_at: now,
            sockets: SmallVec::new(),
            partial: None,
            transport,
            poll_open: false,
            greeted: false,
        }
    }

    /// How packets travel now.
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// When the session was opened.
    pub fn opened_at(&self) -> Millis {
        self.opened_at
    }

    /// The namespaces the client is in.
    pub fn namespaces(&self) -> &[Namespace] {
        &self.sockets
    }

    /// Whether the client is in the namespace.
    pub fn is_connected(&self, namespace: &Namespace) -> bool {
        self.sockets.contains(namespace)
    }

    /// The client is let into the namespace.
    pub fn accept(&mut self, namespace: Namespace) {
        self.greeted = true;
        if !self.is_connected(&namespace) {
            self.sockets.push(namespace);
        }
    }

    /// The client is out of the namespace.
    pub fn remove(&mut self, namespace: &Namespace) {
        self.sockets.retain(|socket| socket != namespace);
    }

    /// Takes one Engine.IO packet from the client on its current transport.
    ///
    /// # Errors
    /// The reason to close the session for, when the packet breaks the protocol or a limit.
    pub fn receive<'a>(&mut self, packet: Packet<'a>, settings: &Settings) -> Result<Input<'a>, CloseReason> {
        match packet {
            Packet::Message(text) => self.receive_text(text, settings),
            Packet::Binary(bytes) => self.receive_attachment(bytes, settings),
            Packet::Pong(_) => {
                self.pong();
                Ok(Input::Nothing)
            }
            Packet::Close => Ok(Input::Close),
            // Heartbeats go from server to client only in v4.
            Packet::Ping(_) | Packet::Open(_) => Err(CloseReason::ProtocolError),
            Packet::Upgrade | Packet::Noop => Ok(Input::Nothing),
        }
    }

    /// Takes one packet of a session in which nothing but Engine.IO is spoken.
    ///
    /// # Errors
    /// The reason to close the session for, when the packet breaks the protocol.
    pub fn receive_bare<'a>(&mut self, packet: Packet<'a>) -> Result<Bare<'a>, CloseReason> {
        match packet {
            Packet::Message(text) => Ok(Bare::Text(text)),
            Packet::Binary(bytes) => Ok(Bare::Binary(bytes)),
            Packet::Pong(_) => {
                self.pong();
                Ok(Bare::Nothing)
            }
            Packet::Close => Ok(Bare::Close),
            Packet::Ping(_) | Packet::Open(_) => Err(CloseReason::ProtocolError),
            Packet::Upgrade | Packet::Noop => Ok(Bare::Nothing),
        }
    }

    /// There is no CONNECT to wait for.
    pub fn greet(&mut self) {
        self.greeted = true;
    }

    /// The client has answered a ping.
    pub fn pong(&mut self) {
        if self.ping_sent_at != 0 {
            self.answered_ping_at = self.ping_sent_at;
            self.ping_sent_at = 0;
        }
    }

    fn receive_text<'a>(&mut self, text: &'a str, settings: &Settings) -> Result<Input<'a>, CloseReason> {
        if self.partial.is_some() {
            return Err(CloseReason::ProtocolError);
        }
        let header = socket_io::decode(text).map_err(|_| CloseReason::ProtocolError)?;
        if header.kind == Kind::Connect {
            if self.sockets.len() >= settings.max_namespaces {
                return Err(CloseReason::ProtocolError);
            }
            let namespace = Namespace::try_from(header.namespace).map_err(|_| CloseReason::ProtocolError)?;
            if self.is_connected(&namespace) {
                return Err(CloseReason::ProtocolError);
            }
            return Ok(Input::Connect { namespace, auth: header.payload });
        }
        let Some(namespace) = self.sockets.iter().find(|socket| socket.as_str() == header.namespace).cloned() else {
            return Err(CloseReason::ProtocolError);
        };
        match header.kind {
            Kind::Disconnect => {
                self.remove(&namespace);
                Ok(Input::Disconnect { namespace })
            }
            Kind::Event => Ok(Input::Event {
                namespace,
                ack_id: header.ack_id,
                payload: Cow::Borrowed(header.payload),
                attachments: Vec::new(),
            }),
            Kind::Ack => Ok(Input::Ack {
                namespace,
                ack_id: header.ack_id.ok_or(CloseReason::ProtocolError)?,
                payload: Cow::Borrowed(header.payload),
                attachments: Vec::new(),
            }),
            Kind::BinaryEvent | Kind::BinaryAck => {
                let wanted = header.attachments as usize;
                if socket_io::check_placeholders(header.payload, wanted).is_err() {
                    return Err(CloseReason::ProtocolError);
                }
                let partial = Partial {
                    kind: header.kind,
                    namespace,
                    ack_id: header.ack_id,
                    payload: header.payload.to_owned(),
                    wanted,
                    bytes: 0,
                    attachments: Vec::new(),
                };
                if wanted == 0 {
                    return finish(partial);
                }
                self.partial = Some(Box::new(partial));
                Ok(Input::Nothing)
            }
            // A client never sends these (Socket.IO protocol v5, "Packet types").
            Kind::Connect | Kind::ConnectError => Err(CloseReason::ProtocolError),
        }
    }

    fn receive_attachment<'a>(&mut self, bytes: Bytes, settings: &Settings) -> Result<Input<'a>, CloseReason> {
        let Some(partial) = self.partial.as_mut() else {
            return Err(CloseReason::ProtocolError);
        };
        partial.bytes += bytes.len();
        if partial.bytes > settings.max_payload_bytes {
            return Err(CloseReason::MessageTooLarge);
        }
        partial.attachments.push(bytes);
        if partial.attachments.len() < partial.wanted {
            return Ok(Input::Nothing);
        }
        match self.partial.take() {
            Some(partial) => finish(*partial),
            None => Ok(Input::Nothing),
        }
    }

    /// It is this session's turn for a ping: whether to send one. The caller gives each session a turn once per
    /// `ping_interval`.
    pub fn ping_turn(&mut self, now: Millis) -> bool {
        if self.ping_sent_at != 0 {
            return false;
        }
        self.ping_sent_at = now.max(1);
        true
    }

    /// Whether the session has run out of time, and why.
    pub fn expired(&self, now: Millis, settings: &Settings) -> Option<CloseReason> {
        if self.ping_sent_at != 0 && now.saturating_sub(self.ping_sent_at) >= settings.ping_timeout_ms {
            return Some(CloseReason::PingTimeout);
        }
        if !self.greeted && now.saturating_sub(self.opened_at) >= settings.connect_timeout_ms {
            return Some(CloseReason::ConnectTimeout);
        }
        None
    }

    /// Whether a client that asks for packets now has been silent for longer than it may. By the clock alone, where
    /// [`Session::expired`] depends on when the session had its turns: the reference server's timers are as exact.
    fn is_overdue(&self, now: Millis, settings: &Settings) -> bool {
        let silent_since = match self.ping_sent_at {
            0 => self.answered_ping_at + settings.ping_interval_ms,
            sent => sent.min(self.answered_ping_at + settings.ping_interval_ms),
        };
        now >= silent_since + settings.ping_timeout_ms
    }

    /// A GET has come. It stays open until [`Session::poll_ended`].
    ///
    /// # Errors
    /// [`PollRefused`]; on `Overlap` the session must close with [`CloseReason::ProtocolError`], on `TimedOut` with
    /// [`CloseReason::PingTimeout`].
    pub fn poll_started(&mut self, now: Millis, settings: &Settings) -> Result<(), PollRefused> {
        match self.transport {
            Transport::Polling | Transport::Probing if self.is_overdue(now, settings) => Err(PollRefused::TimedOut),
            Transport::WebSocket => Err(PollRefused::NotPolling),
            Transport::Polling | Transport::Probing if self.poll_open => Err(PollRefused::Overlap),
            Transport::Polling | Transport::Probing => {
                self.poll_open = true;
                Ok(())
            }
        }
    }

    /// The open GET has been answered.
    pub fn poll_ended(&mut self) {
        self.poll_open = false;
    }

    /// A WebSocket has opened for this session.
    ///
    /// # Errors
    /// [`UpgradeRefused`] unless the session is polling.
    pub fn probe_started(&mut self) -> Result<(), UpgradeRefused> {
        match self.transport {
            Transport::Polling => {
                self.transport = Transport::Probing;
                Ok(())
            }
            Transport::Probing | Transport::WebSocket => Err(UpgradeRefused),
        }
    }

    /// Takes a packet on the WebSocket that is being probed.
    ///
    /// # Errors
    /// [`UpgradeRefused`] for anything but `2probe` and, after it, `5`.
    pub fn probe_packet(&mut self, packet: &Packet<'_>) -> Result<ProbeStep, UpgradeRefused> {
        match (self.transport, packet) {
            (Transport::Probing, Packet::Ping("probe")) => Ok(ProbeStep::Pong),
            (Transport::Probing, Packet::Upgrade) => {
                self.transport = Transport::WebSocket;
                Ok(ProbeStep::Upgraded)
            }
            _ => Err(UpgradeRefused),
        }
    }

    /// The WebSocket being probed has gone; the session goes on polling.
    pub fn probe_failed(&mut self) {
        if self.transport == Transport::Probing {
            self.transport = Transport::Polling;
        }
    }
}

fn finish<'a>(partial: Partial) -> Result<Input<'a>, CloseReason> {
    let Partial { kind, namespace, ack_id, payload, attachments, .. } = partial;
    let payload = Cow::Owned(payload);
    if kind == Kind::BinaryAck {
        let ack_id = ack_id.ok_or(CloseReason::ProtocolError)?;
        return Ok(Input::Ack { namespace, ack_id, payload, attachments });
    }
    Ok(Input::Event { namespace, ack_id, payload, attachments })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connected() -> (Session, Settings) {
        let mut session = Session::open(Transport::WebSocket, 0);
        session.accept(Namespace::root());
        (session, Settings::default())
    }

    #[test]
    fn a_connect_names_its_namespace_and_auth() {
        let mut session = Session::open(Transport::Polling, 0);
        let input = session.receive(Packet::Message(r#"0/admin,{"token":"t"}"#), &Settings::default());
        let namespace = Namespace::try_from("/admin").unwrap();
        assert_eq!(input, Ok(Input::Connect { namespace, auth: r#"{"token":"t"}"# }));
    }

    #[test]
    fn an_event_outside_its_namespace_closes_the_session() {
        let (mut session, settings) = connected();
        let input = session.receive(Packet::Message(r#"2/other,["a"]"#), &settings);
        assert_eq!(input, Err(CloseReason::ProtocolError));
    }

    #[test]
    fn a_second_connect_to_a_namespace_closes_the_session() {
        let (mut session, settings) = connected();
        assert_eq!(session.receive(Packet::Message("0"), &settings), Err(CloseReason::ProtocolError));
    }

    #[test]
    fn a_binary_event_waits_for_its_attachments_in_order() {
        let (mut session, settings) = connected();
        let text = r#"52-7["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]"#;
        assert_eq!(session.receive(Packet::Message(text), &settings), Ok(Input::Nothing));
        let first = session.receive(Packet::Binary(Bytes::from_static(b"1")), &settings);
        assert_eq!(first, Ok(Input::Nothing));
        let Ok(Input::Event { ack_id, attachments, .. }) =
            session.receive(Packet::Binary(Bytes::from_static(b"2")), &settings)
        else {
            panic!("the event is complete");
        };
        assert_eq!(ack_id, Some(7));
        assert_eq!(attachments, [Bytes::from_static(b"1"), Bytes::from_static(b"2")]);
    }

    #[test]
    fn text_between_a_packet_and_its_attachments_closes_the_session() {
        let (mut session, settings) = connected();
        let text = r#"51-["a",{"_placeholder":true,"num":0}]"#;
        assert_eq!(session.receive(Packet::Message(text), &settings), Ok(Input::Nothing));
        assert_eq!(session.receive(Packet::Message(r#"2["b"]"#), &settings), Err(CloseReason::ProtocolError));
    }

    #[test]
    fn attachments_nobody_asked_for_and_too_large_ones_close_the_session() {
        let (mut session, mut settings) = connected();
        let stray = session.receive(Packet::Binary(Bytes::from_static(b"1")), &settings);
        assert_eq!(stray, Err(CloseReason::ProtocolError));
        settings.max_payload_bytes = 3;
        let text = r#"51-["a",{"_placeholder":true,"num":0}]"#;
        assert_eq!(session.receive(Packet::Message(text), &settings), Ok(Input::Nothing));
        let large = session.receive(Packet::Binary(Bytes::from_static(b"1234")), &settings);
        assert_eq!(large, Err(CloseReason::MessageTooLarge));
    }

    #[test]
    fn an_overlapping_poll_is_refused() {
        let settings = Settings::default();
        let mut session = Session::open(Transport::Polling, 0);
        assert_eq!(session.poll_started(0, &settings), Ok(()));
        assert_eq!(session.poll_started(0, &settings), Err(PollRefused::Overlap));
        session.poll_ended();
        assert_eq!(session.poll_started(0, &settings), Ok(()));
    }

    #[test]
    fn a_poll_after_the_time_of_a_ping_and_its_pong_is_too_late_even_if_nobody_has_noticed() {
        let settings = Settings::default();
        let mut session = Session::open(Transport::Polling, 1_000);
        assert_eq!(session.poll_started(45_999, &settings), Ok(()));
        session.poll_ended();
        // The ping itself was late.
        assert!(session.ping_turn(30_000));
        assert_eq!(session.poll_started(46_000, &settings), Err(PollRefused::TimedOut));
        assert_eq!(session.receive(Packet::Pong(""), &settings), Ok(Input::Nothing));
        assert_eq!(session.poll_started(74_999, &settings), Ok(()));
        session.poll_ended();
        assert_eq!(session.poll_started(75_000, &settings), Err(PollRefused::TimedOut));
    }

    #[test]
    fn an_upgrade_goes_probe_pong_upgrade_and_then_polling_is_over() {
        let mut session = Session::open(Transport::Polling, 0);
        assert_eq!(session.probe_started(), Ok(()));
        assert_eq!(session.probe_started(), Err(UpgradeRefused));
        assert_eq!(session.probe_packet(&Packet::Ping("probe")), Ok(ProbeStep::Pong));
        assert_eq!(session.probe_packet(&Packet::Upgrade), Ok(ProbeStep::Upgraded));
        assert_eq!(session.poll_started(0, &Settings::default()), Err(PollRefused::NotPolling));
        session.probe_failed();
        assert_eq!(session.transport(), Transport::WebSocket);
    }

    #[test]
    fn a_failed_probe_leaves_the_session_polling() {
        let mut session = Session::open(Transport::Polling, 0);
        assert_eq!(session.probe_started(), Ok(()));
        assert_eq!(session.probe_packet(&Packet::Message("x")), Err(UpgradeRefused));
        session.probe_failed();
        assert_eq!(session.poll_started(0, &Settings::default()), Ok(()));
    }

    #[test]
    fn silence_after_a_ping_and_silence_before_connect_both_end_the_session() {
        let settings = Settings::default();
        let mut session = Session::open(Transport::WebSocket, 1_000);
        assert_eq!(session.expired(45_999, &settings), None);
        assert_eq!(session.expired(46_000, &settings), Some(CloseReason::ConnectTimeout));
        session.accept(Namespace::root());
        assert!(session.ping_turn(50_000));
        assert!(!session.ping_turn(60_000));
        assert_eq!(session.expired(69_999, &settings), None);
        assert_eq!(session.expired(70_000, &settings), Some(CloseReason::PingTimeout));
        assert_eq!(session.receive(Packet::Pong(""), &settings), Ok(Input::Nothing));
        assert_eq!(session.expired(70_000, &settings), None);
    }

    #[test]
    fn an_idle_session_is_small() {
        assert!(size_of::<Session>() <= 80, "{}", size_of::<Session>());
    }
}
