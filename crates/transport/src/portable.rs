use std::io;
use std::net::TcpStream as StdTcp;
use std::os::unix::net::UnixStream as StdUnix;

use tokio::net::{TcpStream, UnixStream};

use crate::tls::State;
use crate::{Socket, TlsStream, Transport};

/// A stream on its way from one thread's runtime to another's.
#[derive(Debug)]
pub struct Portable {
    socket: Std,
    tls: Option<Box<State>>,
}

#[derive(Debug)]
enum Std {
    Tcp(StdTcp),
    Unix(StdUnix),
}

impl Portable {
    pub(crate) fn plain(socket: Socket) -> io::Result<Self> {
        let socket = match socket {
            Socket::Tcp(stream) => Std::Tcp(stream.into_std()?),
            Socket::Unix(stream) => Std::Unix(stream.into_std()?),
        };
        Ok(Self { socket, tls: None })
    }

    pub(crate) fn tls(socket: Socket, state: State) -> io::Result<Self> {
        Ok(Self { tls: Some(Box::new(state)), ..Self::plain(socket)? })
    }

    /// Goes on in the runtime of the calling thread.
    ///
    /// # Errors
    /// The runtime does not take the socket.
    pub fn into_transport(self) -> io::Result<Transport> {
        let socket = match self.socket {
            Std::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            Std::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        };
        Ok(match self.tls {
            None => Transport::Plain(socket),
            Some(state) => TlsStream::from_parts(socket, *state).into(),
        })
    }
}
