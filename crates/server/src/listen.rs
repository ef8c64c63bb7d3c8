use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::StartError;

/// Connections that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// One listening socket per worker, all on one address (`SO_REUSEPORT`): the kernel spreads connections over them.
///
/// `SO_REUSEPORT` would let a second process of the same user share the port without a word. So the address is first
/// bound exclusively, which fails if anybody listens there. With port 0 the kernel chooses a port nobody has.
///
/// `send_timeout`: how long bytes may wait for a client to take them (tcp(7), `TCP_USER_TIMEOUT`; nginx's `send_timeout`).
pub(crate) fn listen(
    address: SocketAddr,
    sockets: usize,
    role: &str,
    send_timeout: Duration,
) -> Result<(SocketAddr, Vec<TcpListener>), StartError> {
    let failed = |source: io::Error| {
        if source.kind() == io::ErrorKind::AddrInUse {
            StartError::AddressInUse { address, role: role.to_owned() }
        } else {
            StartError::Listen { address, role: role.to_owned(), source }
        }
    };
    if address.port() != 0 {
        socket(address, false, send_timeout).map_err(failed)?;
    }
    let mut bound = address;
    let mut listeners = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let socket = socket(bound, true, send_timeout).map_err(failed)?;
        socket.listen(BACKLOG).map_err(failed)?;
        let listener = TcpListener::from(socket);
        bound = listener.local_addr().map_err(failed)?;
        listeners.push(listener);
    }
    Ok((bound, listeners))
}

fn socket(address: SocketAddr, shared: bool, send_timeout: Duration) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of an earlier process in TIME_WAIT must not keep a new one from starting.
    socket.set_reuse_address(true)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `[::]` takes IPv4 clients too, whatever the system's default.
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    // Accepted sockets inherit it on Linux: one system call less per connection.
    socket.set_tcp_nodelay(true)?;
    // Inherited too. A client that stops reading, or has gone without a word, is let go by the kernel; hyper would not
    // notice, since it asks for nothing more of a response while the client takes nothing.
    socket.set_tcp_user_timeout(Some(send_timeout))?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEND_TIMEOUT: Duration = Duration::from_secs(60);

    #[test]
    fn a_port_somebody_listens_on_is_refused_even_if_they_would_share_it() {
        let (address, _held) = listen("127.0.0.1:0".parse().unwrap(), 2, "http", SEND_TIMEOUT).unwrap();
        let error = listen(address, 2, "http", SEND_TIMEOUT).unwrap_err();
        assert!(matches!(error, StartError::AddressInUse { .. }), "{error}");
        assert!(error.to_string().contains(&address.to_string()), "{error}");
        assert_eq!(error.exit_code(), crate::exit::ADDRESS);
    }

    #[test]
    fn what_a_client_does_not_take_is_not_waited_for_without_end() {
        let (address, sockets) = listen("127.0.0.1:0".parse().unwrap(), 1, "http", SEND_TIMEOUT).unwrap();
        let _client = std::net::TcpStream::connect(address).unwrap();
        sockets[0].set_nonblocking(false).unwrap();
        let (accepted, _) = sockets[0].accept().unwrap();
        assert_eq!(socket2::SockRef::from(&accepted).tcp_user_timeout().unwrap(), Some(SEND_TIMEOUT));
        assert!(accepted.nodelay().unwrap());
    }

    #[test]
    fn port_0_gives_all_workers_the_same_port() {
        let (address, sockets) = listen("127.0.0.1:0".parse().unwrap(), 3, "http", SEND_TIMEOUT).unwrap();
        assert!(sockets.iter().all(|socket| socket.local_addr().unwrap() == address));
    }

    #[test]
    fn an_address_of_another_machine_is_explained() {
        let error = listen("192.0.2.1:0".parse().unwrap(), 1, "http", SEND_TIMEOUT).unwrap_err();
        assert!(error.to_string().contains("0.0.0.0"), "{error}");
    }
}
