use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::duration::parse as duration;

/// API gateway (HTTP, WebSocket, SSE) and Socket.IO realtime server in one binary.
#[derive(Debug, Parser)]
#[command(
    name = "tidegate",
    version,
    about,
    after_help = "\
Exit codes:
  0    ended as asked              70   a defect: a worker panicked
  1    the check or load failed    74   reading or writing failed (store, data directory, log file)
  64   config or command line      130  ended by a second SIGINT
  69   address in use              143  ended by a second SIGTERM

Signals (run, dev):
  SIGTERM, SIGINT   drain: readiness fails, listeners close, clients are told to move, then exit 0
  a second one      end at once
  SIGHUP            run: read the config again and put it in force; a bad one changes nothing
  SIGUSR1           open the log files again, after they were moved away

Examples:
  tidegate dev
  tidegate run --config tidegate.toml"
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve what a config file says.
    #[command(after_help = "\
Examples:
  tidegate run --config /etc/tidegate.toml
  JWT_SECRET=… tidegate run --config tidegate.toml --drain-delay 5s")]
    Run(RunArgs),
    /// Read a config file and report all of its problems at once.
    #[command(after_help = "\
Examples:
  tidegate check --config tidegate.toml
  tidegate check --config tidegate.toml --print   # the effective config, secrets as ***")]
    Check(CheckArgs),
    /// Print the JSON Schema of the config file.
    #[command(after_help = "Example:\n  tidegate config-schema > tidegate.schema.json")]
    ConfigSchema,
    /// Try everything at once: gateway, realtime server, sample backend and a page, without any config.
    #[command(after_help = "\
Examples:
  tidegate dev
  tidegate dev --listen 127.0.0.1:3000 --data-dir /tmp/tidegate")]
    Dev(DevArgs),
    /// Mint a JWT for the realtime server; prints only the token.
    #[command(after_help = "\
Examples:
  tidegate token --data-dir .tidegate --user ada
  tidegate token --secret-file jwt-secret --user ada --tenant acme --ttl 15m --permission 'room:lobby:join,send'
  JWT_SECRET=… tidegate token --user ada")]
    Token(TokenArgs),
    /// Ask a running server whether it is ready; exit code 0 or 1. For containers.
    #[command(after_help = "\
Examples:
  tidegate healthcheck
  tidegate healthcheck --url http://127.0.0.1:9090/health/live --timeout 2s
  HEALTHCHECK CMD [\"tidegate\", \"healthcheck\"]")]
    Healthcheck(HealthcheckArgs),
    /// Generate load and measure.
    #[command(after_help = "\
Examples:
  tidegate bench http --url http://127.0.0.1:8080/api/hello
  tidegate bench fanout --url ws://127.0.0.1:8080 --secret-file .tidegate/jwt-secret")]
    Bench(BenchArgs),
}

#[derive(Debug, Args)]
pub struct RunArgs {
    /// The config file (TOML).
    #[arg(long, short, default_value = "tidegate.toml")]
    pub config: PathBuf,
    /// How long readiness fails before the listeners close, so that load balancers notice (`500ms`, `5s`); overrides
    /// `[drain] delay`.
    #[arg(long, value_parser = duration)]
    pub drain_delay: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The config file (TOML).
    #[arg(long, short, default_value = "tidegate.toml")]
    pub config: PathBuf,
    /// Print the effective config, with defaults filled in and secrets as `***`.
    #[arg(long)]
    pub print: bool,
}

#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where to listen; port 0 takes any free one [default: 127.0.0.1:8080, or the next free port]
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Option<SocketAddr>,
    /// Where secrets, history and the access log are kept.
    #[arg(long, value_name = "DIR", default_value = ".tidegate")]
    pub data_dir: PathBuf,
    /// Worker threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Option<u16>,
    /// An admin listener of its own; health, stats and metrics are on the main one in any case.
    #[arg(long, value_name = "ADDR:PORT")]
    pub admin: Option<SocketAddr>,
    /// Speak TLS and HTTP/2, with a certificate for localhost that is made at the first start.
    #[arg(long)]
    pub tls: bool,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The HS256 secret itself. Other users of the machine can see it in the process list: prefer the other ways.
    #[arg(long, conflicts_with_all = ["secret_file", "data_dir"])]
    pub secret: Option<String>,
    /// A file with the HS256 secret.
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    pub secret_file: Option<PathBuf>,
    /// The data directory of `tidegate dev`.
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// The user (claims `sub` and `userId`).
    #[arg(long)]
    pub user: String,
    /// The tenant (claim `tenantId`).
    #[arg(long, default_value = "default")]
    pub tenant: String,
    /// How long the token is valid (`15m`, `1h`, `7d`).
    #[arg(long, default_value = "1h", value_parser = duration)]
    pub ttl: Duration,
    /// The name to show.
    #[arg(long)]
    pub username: Option<String>,
    /// A role; may be given several times.
    #[arg(long)]
    pub role: Vec<String>,
    /// A permission, such as the room grant `room:<pattern>:<join,send,history>`; may be given several times.
    #[arg(long)]
    pub permission: Vec<String>,
}

#[derive(Debug, Args)]
pub struct HealthcheckArgs {
    /// What to ask; plain HTTP.
    #[arg(long, default_value = "http://127.0.0.1:9090/health/ready")]
    pub url: String,
    /// How long to wait for the answer.
    #[arg(long, default_value = "5s", value_parser = duration)]
    pub timeout: Duration,
}
