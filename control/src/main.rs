//! `overlay-control`: makes a cluster (`init`), serves it (`serve`) and makes tokens at its state directory (`token`).
//!
//! Exit codes: 0 done, 1 refused or failed, 2 wrong usage.

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use overlay_control::{Config, InitConfig, Server, StartError, create_token, init, parse_duration};
use overlay_core::Role;
use overlay_daemon::descriptors;
use overlay_daemon::log::{self, Log};
use overlay_proto::JoinLine;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

const DEFAULT_STATE: &str = "/var/lib/overlay/control";

/// The control service of Overlay.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a cluster and prints the line that its first node, an admin, joins with.
    #[command(after_help = "Example: overlay-control init --state /var/lib/overlay/control --advertise 192.0.2.1:7443")]
    Init(InitArgs),
    /// Serves a cluster in the foreground until SIGTERM or SIGINT.
    #[command(after_help = "Example: overlay-control serve --state /var/lib/overlay/control")]
    Serve(ServeArgs),
    /// Makes a join token while control does not serve; otherwise use overlayctl token create.
    #[command(after_help = "Example: overlay-control token --state /var/lib/overlay/control --role admin --ttl 15m")]
    Token(TokenArgs),
}

#[derive(Debug, Args)]
struct InitArgs {
    /// The directory to make; it holds the cluster's keys.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Where serve listens [default: every address, port 7443]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where the prefixes of networks come from
    #[arg(long, value_name = "CIDR", default_value = overlay_control::DEFAULT_POOL)]
    pool: Ipv4Net,
    /// What join lines carry, the likeliest first; may be repeated [default: this host's addresses]
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    advertise: Vec<String>,
    /// Print {"join": "…", "cluster": "…", "addresses": […]}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// The directory that init made
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Where to listen [default: what init was told]
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
    /// Where the cluster's memory is kept
    #[arg(long, value_name = "embedded|etcd=URL", default_value = "embedded")]
    store: String,
    /// How long a node's certificate is valid
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    cert_ttl: Duration,
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// The directory that init made
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// How long it admits
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    /// How many nodes it admits
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// What the nodes it admits may ask
    #[arg(long, value_enum, default_value_t = TokenRole::Node)]
    role: TokenRole,
    /// Print {"join": "…"}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum TokenRole {
    Admin,
    Node,
}

impl From<TokenRole> for Role {
    fn from(role: TokenRole) -> Self {
        match role {
            TokenRole::Admin => Self::Admin,
            TokenRole::Node => Self::Node,
        }
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (filter, unknown) = log::filter(&["OVERLAY_LOG", "RUST_LOG"]);
    let log = match Log::start(filter, false) {
        Ok(log) => log,
        Err(error) => return fail(&format!("no thread for the log: {error}"), 1),
    };
    log.take_panics(|| false);
    if let Some(variable) = unknown {
        tracing::warn!(variable, "What is to be logged is not understood, logging info and above");
    }

    let done = match cli.command {
        Command::Init(args) => run_init(args),
        Command::Serve(args) => run_serve(args, log.clone()),
        Command::Token(args) => run_token(&args),
    };
    log.flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(text)) => fail(&text, 2),
        Err(Failure::Start(error @ StartError::Config(_))) => fail(&error.to_string(), 2),
        Err(Failure::Start(error)) => fail(&error.to_string(), 1),
        Err(Failure::Refused(text)) => fail(&text, 1),
    }
}

#[derive(Debug)]
enum Failure {
    Usage(String),
    Refused(String),
    Start(StartError),
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        Self::Start(error)
    }
}

fn fail(text: &str, code: u8) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    let _ = writeln!(std::io::stderr(), "overlay-control: {text}");

    ExitCode::from(code)
}

fn print(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}").map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

fn run_init(args: InitArgs) -> Result<(), Failure> {
    let defaults = InitConfig::new(args.state);
    let listen = args.listen.unwrap_or(defaults.listen);
    if listen.port() == 0 {
        return Err(Failure::Usage(format!("--listen {listen}: name a port, for join lines carry it")));
    }
    let made = init(InitConfig { listen, pool: args.pool, advertise: args.advertise, ..defaults })?;
    let (join, cluster, addresses) = (made.join.expose(), made.cluster.to_string(), made.join.addresses.clone());

    if args.json {
        return print(&json!({ "join": join, "cluster": cluster, "addresses": addresses }).to_string());
    }
    print(&join)
}

fn run_token(args: &TokenArgs) -> Result<(), Failure> {
    let line: JoinLine = create_token(&args.state, args.ttl.as_secs(), args.uses, args.role.into())?;

    print(&if args.json { json!({ "join": line.expose() }).to_string() } else { line.expose() })
}

fn run_serve(args: ServeArgs, log: Log) -> Result<(), Failure> {
    match args.store.as_str() {
        "embedded" => {}
        other if other.starts_with("etcd=") => {
            return Err(Failure::Refused(
                "unsupported: this version has no etcd store; use --store embedded".to_owned(),
            ));
        }
        other => return Err(Failure::Usage(format!("--store {other:?}: use embedded"))),
    }
    // A connection takes a descriptor; the usual soft limit of 1,024 would be the number of nodes.
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "Failed to raise the limit of open files");
    }
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::Refused(format!("no runtime: {error}")))?;

    runtime.block_on(serve(Config { listen: args.listen, cert_ttl: args.cert_ttl, log, ..Config::new(args.state) }))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let shutdown = shutdown().map_err(|error| Failure::Refused(format!("signals: {error}")))?;
    let server = Server::bind(config).await?;
    tracing::info!(address = %server.local_addr(), "Serving");

    Ok(server.run(shutdown).await?)
}

fn shutdown() -> std::io::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;

    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
