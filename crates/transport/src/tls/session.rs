use std::fmt;
use std::ops::Deref;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{CommonState, Error};

/// Either side of a connection.
pub(crate) enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// Not its keys.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Client(_) => "Client",
            Self::Server(_) => "Server",
        })
    }
}

impl Deref for Session {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Self::Client(session) => session,
            Self::Server(session) => session,
        }
    }
}

/// What came of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// There may be more.
    Again,
    /// The peer has said that it sends nothing more; there may be records of ours to send.
    PeerClosed,
    /// Everything that came is processed, and data may be sent.
    Open,
    /// Everything that came is processed, and data may not be sent: not yet, or not any more.
    Waiting,
}

/// Something to be encrypted once data may be sent. It is appended to the records that are given.
pub(super) enum Outgoing<'a> {
    Nothing,
    Data(&'a [u8]),
    CloseNotify,
}

impl Session {
    /// One step with what has come: plaintext goes to `plain`, records to send are appended to `out`. Returns how many bytes
    /// of `incoming` are done with. `outgoing` is taken at [`Step::Open`].
    ///
    /// What was left of `incoming` by one call must be at the start of the next one's: rustls remembers where in it the
    /// fragments of a message lie.
    pub(super) fn step(
        &mut self,
        incoming: &mut [u8],
        plain: &mut dyn FnMut(&[u8]),
        out: &mut Vec<u8>,
        outgoing: &Outgoing<'_>,
    ) -> (usize, Result<Step, Error>) {
        match self {
            Self::Client(session) => step(session.process_tls_records(incoming), plain, out, outgoing),
            Self::Server(session) => step(session.process_tls_records(incoming), plain, out, outgoing),
        }
    }
}

fn step<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    plain: &mut dyn FnMut(&[u8]),
    out: &mut Vec<u8>,
    outgoing: &Outgoing<'_>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let step = match state {
        Err(error) => Err(error),
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                None => break Ok(Step::Again),
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain(record.payload);
                }
                Some(Err(error)) => break Err(error),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => append(out, 0, |room| {
            data.encode(room).map_err(|error| match error {
                EncodeError::InsufficientSize(needed) => Some(needed.required_size),
                EncodeError::AlreadyEncoded => None,
            })
        })
        .map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // It has been put with what is to be sent, which is as good.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::PeerClosed) => Ok(Step::PeerClosed),
        Ok(ConnectionState::WriteTraffic(mut traffic)) => encrypt(&mut traffic, out, outgoing).map(|()| Step::Open),
        // Early data is not accepted, so that none comes.
        Ok(_) => Ok(Step::Waiting),
    };
    (discard, step)
}

fn encrypt<Data>(
    traffic: &mut WriteTraffic<'_, Data>,
    out: &mut Vec<u8>,
    outgoing: &Outgoing<'_>,
) -> Result<(), Error> {
    /// More than any cipher suite adds to a record.
    const OVERHEAD: usize = 64;
    let size = |error| match error {
        EncryptError::InsufficientSize(needed) => Some(needed.required_size),
        EncryptError::EncryptExhausted => None,
    };
    match outgoing {
        Outgoing::Nothing => Ok(()),
        Outgoing::Data(bytes) => {
            let records = bytes.len() / MAX_FRAGMENT + 1;
            append(out, bytes.len() + records * OVERHEAD, |room| traffic.encrypt(bytes, room).map_err(size))
        }
        Outgoing::CloseNotify => append(out, OVERHEAD, |room| traffic.queue_close_notify(room).map_err(size)),
    }
}

/// The most plaintext of one record (RFC 8446 section 5.1).
pub(super) const MAX_FRAGMENT: usize = 16 * 1024;

/// Appends what `encode` writes. It says how much room it needs if that is not enough, or that it cannot at all.
fn append(
    out: &mut Vec<u8>,
    room: usize,
    mut encode: impl FnMut(&mut [u8]) -> Result<usize, Option<usize>>,
) -> Result<(), Error> {
    let start = out.len();
    let mut room = room;
    loop {
        out.resize(start + room, 0);
        match encode(out.get_mut(start..).unwrap_or_default()) {
            Ok(length) => {
                out.truncate(start + length);
                return Ok(());
            }
            Err(Some(needed)) if needed > room => room = needed,
            Err(_) => {
                out.truncate(start);
                return Err(Error::EncryptError);
            }
        }
    }
}
