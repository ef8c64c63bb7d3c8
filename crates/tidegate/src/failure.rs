use std::fmt;

use tidegate_server::{StartError, exit};

/// Why a command failed: what to tell, and the exit code.
#[derive(Debug)]
pub struct Failure {
    error: anyhow::Error,
    code: u8,
}

impl Failure {
    /// A failure of the kind that the exit code stands for.
    pub fn new(code: u8, error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), code }
    }

    /// The config or the command line is wrong.
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(exit::CONFIG, anyhow::anyhow!("{message}"))
    }

    /// A file or directory cannot be used.
    pub fn io(what: impl fmt::Display, error: std::io::Error) -> Self {
        Self::new(exit::IO, anyhow::anyhow!("{what}: {error}"))
    }

    pub fn exit_code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // With the causes, in one line.
        write!(f, "{:#}", self.error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self { code: error.exit_code(), error: error.into() }
    }
}

/// The generic failure of a tool.
impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { error, code: 1 }
    }
}
