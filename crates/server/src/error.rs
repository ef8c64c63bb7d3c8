use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use thiserror::Error;

/// Exit codes of the process (those of `sysexits.h` where there is one), as `tidegate --help` documents them.
pub mod exit {
    /// Everything went as asked.
    pub const OK: u8 = 0;
    /// The config or the command line is wrong.
    pub const CONFIG: u8 = 64;
    /// An address is in use or cannot be listened on.
    pub const ADDRESS: u8 = 69;
    /// A defect: a worker panicked.
    pub const DEFECT: u8 = 70;
    /// Reading or writing failed: the store, the data directory, a log file.
    pub const IO: u8 = 74;
    /// Ended by a second SIGINT.
    pub const INTERRUPTED: u8 = 130;
    /// Ended by a second SIGTERM.
    pub const TERMINATED: u8 = 143;
}

/// Why the server cannot start. The text names what to change.
#[derive(Debug, Error)]
pub enum StartError {
    /// Something in the settings cannot be.
    #[error("{0}")]
    Config(String),
    /// Another process listens there.
    #[error(
        "cannot listen on {address} ({role}): the address is in use. Stop the process that listens there (`ss -ltnp 'sport = :{}'` \
         names it) or choose another address", address.port()
    )]
    AddressInUse {
        /// The address.
        address: SocketAddr,
        /// Which listener.
        role: String,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address} ({role}): {source}. {}", advice(source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Which listener.
        role: String,
        /// Why.
        source: io::Error,
    },
    /// The history store cannot be opened.
    #[error("cannot open the history store: {0}")]
    Store(String),
    /// A file cannot be used.
    #[error("cannot open {path}: {source}", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused a thread or a runtime.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

impl StartError {
    /// The process's exit code; see [`exit`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => exit::CONFIG,
            Self::AddressInUse { .. } | Self::Listen { .. } => exit::ADDRESS,
            Self::Store(_) | Self::File { .. } | Self::Thread(_) => exit::IO,
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "io::ErrorKind is open")]
fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "Ports below 1024 need the capability CAP_NET_BIND_SERVICE (`setcap cap_net_bind_service=+ep tidegate`) or another port"
        }
        io::ErrorKind::AddrNotAvailable => {
            "This machine has no such address; 0.0.0.0 or [::] listens on all of its addresses"
        }
        _ => "Choose another address",
    }
}
