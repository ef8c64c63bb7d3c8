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
  tidegate dev --listen 127.0.0.1:3000 --data-dir /tmp/tidegate
  tidegate dev --nodes 3      # a Redis and three realtime nodes behind one port, to kill one and see")]
    Dev(DevArgs),
    /// Mint a JWT for the realtime server; prints only the token.
    #[command(after_help = "\
Examples:
  tidegate token --data-dir .tidegate --user ada
  tidegate token --secret-file jwt-secret --user ada --tenant acme --ttl 15m --permission 'room:lobby:join,send'
  JWT_SECRET=… tidegate token --user ada
  tidegate token --key-file issuer.pem --key-id 2026-11 --user ada --issuer https://id.example --audience rooms
  tidegate token --key-file rsa.pem --algorithm PS256 --user bot --kind agent --token-id job-7

A key of an issuer and its public half, for [realtime.auth] public_keys:
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out issuer.pem
  openssl pkey -in issuer.pem -pubout -out issuer.pub.pem")]
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
    /// Drains when standard input ends: for whoever starts this process and must not leave it behind.
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,
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
    /// So many realtime nodes, processes of their own, behind this one as their gateway. Starts a Redis for them.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=32))]
    pub nodes: Option<u16>,
    /// A Redis that runs already, for --nodes (`redis://[user:password@]host:port`).
    #[arg(long, value_name = "URL", requires = "nodes")]
    pub redis: Option<String>,
}

#[derive(Debug, Args)]
pub struct TokenArgs {
    /// The shared secret itself. Other users of the machine can see it in the process list: prefer the other ways.
    #[arg(long, conflicts_with_all = ["secret_file", "data_dir", "key_file"])]
    pub secret: Option<String>,
    /// A file with the shared secret.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["data_dir", "key_file"])]
    pub secret_file: Option<PathBuf>,
    /// A file with the issuer's private key (PEM, PKCS #8; RSA, P-256, P-384 or Ed25519).
    #[arg(long, value_name = "FILE", conflicts_with = "data_dir")]
    pub key_file: Option<PathBuf>,
    /// How to sign: HS256, HS384, HS512 with a secret; RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA with
    /// a key [default: HS256, or the usual one of the key]
    #[arg(long, value_name = "NAME")]
    pub algorithm: Option<tidegate_auth::Algorithm>,
    /// The name of the key (`kid`), as it stands in the issuer's JWKS.
    #[arg(long, value_name = "KID")]
    pub key_id: Option<String>,
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
    /// What the user is (claim `kind`): user, agent or anonymous.
    #[arg(long, value_parser = ["user", "agent", "anonymous"])]
    pub kind: Option<String>,
    /// The token's own name (claim `jti`), by which it can be revoked.
    #[arg(long, value_name = "ID")]
    pub token_id: Option<String>,
    /// Who signs it (claim `iss`).
    #[arg(long)]
    pub issuer: Option<String>,
    /// Whom it is meant for (claim `aud`); may be given several times.
    #[arg(long)]
    pub audience: Vec<String>,
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
