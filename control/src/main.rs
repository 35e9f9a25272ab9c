//! `overlay-control`: creates a cluster (`init`), serves it (`serve`) and creates tokens in its
//! state directory (`token`).
//!
//! Exit codes: 0 success, 1 refused or failed, 2 wrong usage, 64 invalid configuration.

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use ipnet::Ipv4Net;
use overlay_control::{
    BackupSummary, Config, InitConfig, InvalidConfig, RestoreConfig, Server, StartError, back_up,
    create_token, init, parse_duration, restore,
};
use overlay_core::instant::rfc3339;
use overlay_core::{Role, message};
use overlay_daemon::descriptors;
use overlay_daemon::log::{self, Log};
use overlay_host::config::{self, EXIT_CODE};
use overlay_proto::JoinLine;
use sd_notify::NotifyState;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

const DEFAULT_STATE: &str = "/var/lib/overlay/control";
/// The default configuration file of `init` and `serve`.
const DEFAULT_FILE: &str = "/etc/overlay/control.toml";
const FILE_HELP: &str = "\n\nOptions may stand in /etc/overlay/control.toml, one a line: listen = \"192.0.2.1:7443\". \
    The command line goes before the environment, and that before the file. Exit code 64: the configuration cannot be used.";

/// The control service of Overlay.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Creates a cluster and prints the join line of its first node, an admin.
    #[command(after_help = format!("Example: overlay-control init --state /var/lib/overlay/control --advertise 192.0.2.1:7443{FILE_HELP}"))]
    Init(InitArgs),
    /// Serves a cluster in the foreground until SIGTERM or SIGINT.
    #[command(after_help = format!("Example: overlay-control serve --state /var/lib/overlay/control{FILE_HELP}"))]
    Serve(ServeArgs),
    /// Creates a join token while control is not running; otherwise use overlayctl token create.
    #[command(
        after_help = "Example: overlay-control token --state /var/lib/overlay/control --role admin --ttl 15m"
    )]
    Token(TokenArgs),
    /// Writes a backup of control, which may be running, to a file.
    #[command(after_help = "Example: overlay-control backup /var/backups/overlay.backup")]
    Backup(BackupArgs),
    /// Makes a state directory of a backup, while control is not running.
    #[command(
        after_help = "Example: overlay-control restore /var/backups/overlay.backup --keep-old"
    )]
    Restore(RestoreArgs),
}

#[derive(Debug, Args)]
struct BackupArgs {
    /// The file to make; it holds the cluster's keys
    file: PathBuf,
    /// The state directory of control
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Replace the file if it is there
    #[arg(long)]
    force: bool,
    /// Print {"cluster": "…", "revision": N, "nodes": N, "networks": N, "bytes": N}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct RestoreArgs {
    /// The backup
    file: PathBuf,
    /// The state directory to make
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// Move a state that is there aside, to DIR.before-TIME; its removed nodes stay removed
    #[arg(long)]
    keep_old: bool,
    /// How long nodes that do not come back keep new blocks and addresses from being given
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_duration)]
    wait: Duration,
}

#[derive(Debug, Args)]
struct InitArgs {
    /// A file with options [default: /etc/overlay/control.toml if it exists]
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONTROL_CONFIG")]
    config: Option<PathBuf>,
    /// The directory to create; it holds the cluster's keys.
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE, env = "OVERLAY_CONTROL_STATE")]
    state: PathBuf,
    /// Where serve listens [default: all addresses, port 7443]
    #[arg(long, value_name = "ADDR:PORT", env = "OVERLAY_CONTROL_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where the prefixes of networks come from
    #[arg(long, value_name = "CIDR", default_value = overlay_control::DEFAULT_POOL, env = "OVERLAY_CONTROL_POOL")]
    pool: Ipv4Net,
    /// The addresses in join lines, the likeliest first; may be repeated [default: this host's
    /// addresses]
    #[arg(
        long,
        value_name = "HOST:PORT",
        value_delimiter = ',',
        env = "OVERLAY_CONTROL_ADVERTISE"
    )]
    advertise: Vec<String>,
    /// Print {"join": "…", "cluster": "…", "addresses": […]}
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// A file with options [default: /etc/overlay/control.toml if it exists]
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONTROL_CONFIG")]
    config: Option<PathBuf>,
    /// Check the options and the file, and exit
    #[arg(long)]
    check_config: bool,
    /// The directory that init created
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE, env = "OVERLAY_CONTROL_STATE")]
    state: PathBuf,
    /// Where to listen [default: where init was told to]
    #[arg(long, value_name = "ADDR:PORT", env = "OVERLAY_CONTROL_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where the cluster's state is kept
    #[arg(
        long,
        value_name = "embedded|etcd=URL",
        default_value = "embedded",
        env = "OVERLAY_CONTROL_STORE"
    )]
    store: String,
    /// How long a node's certificate is valid
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = cert_ttl, env = "OVERLAY_CONTROL_CERT_TTL")]
    cert_ttl: Duration,
}

/// Parses and checks how long certificates are valid.
fn cert_ttl(text: &str) -> Result<Duration, InvalidConfig> {
    let cert_ttl = parse_duration(text)?;
    Config { cert_ttl, ..Config::new("") }.check()?;

    Ok(cert_ttl)
}

#[derive(Debug, Args)]
struct TokenArgs {
    /// The directory that init created
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE)]
    state: PathBuf,
    /// How long it is valid
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    /// How many nodes it admits
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// The role of the nodes it admits
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
    let cli: Cli = match config::parse(Path::new(DEFAULT_FILE), std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => return fail(&error.to_string(), EXIT_CODE),
    };
    let (filter, unknown) = log::filter();
    let log = match Log::start(filter, false) {
        Ok(log) => log,
        Err(error) => return fail(&format!("cannot start the thread for the log: {error}"), 1),
    };
    log.log_panics(|| false);
    if let Some(error) = unknown {
        tracing::warn!(%error, "OVERLAY_LOG is not a valid filter, logging info and above");
    }

    let done = match cli.command {
        Command::Init(args) => run_init(args),
        Command::Serve(args) => run_serve(args, log.clone()),
        Command::Token(args) => run_token(&args),
        Command::Backup(args) => run_backup(&args),
        Command::Restore(args) => run_restore(args),
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
    // With standard error closed, there is nobody left to tell.
    let _ = writeln!(std::io::stderr(), "overlay-control: {}", message::plain(text));

    ExitCode::from(code)
}

fn print(text: &str) -> Result<(), Failure> {
    writeln!(std::io::stdout(), "{text}")
        .map_err(|error| Failure::Refused(format!("standard output: {error}")))
}

fn run_init(args: InitArgs) -> Result<(), Failure> {
    let defaults = InitConfig::new(args.state);
    let listen = args.listen.unwrap_or(defaults.listen);
    if listen.port() == 0 {
        return Err(Failure::Usage(format!(
            "--listen {listen}: name a port, for join lines carry it"
        )));
    }
    let made = init(InitConfig { listen, pool: args.pool, advertise: args.advertise, ..defaults })?;
    let (join, cluster, addresses) =
        (made.join.expose(), made.cluster.to_string(), made.join.addresses.clone());

    if args.json {
        return print(
            &json!({ "join": join, "cluster": cluster, "addresses": addresses }).to_string(),
        );
    }
    print(&join)
}

fn run_token(args: &TokenArgs) -> Result<(), Failure> {
    let line: JoinLine =
        create_token(&args.state, args.ttl.as_secs(), args.uses, args.role.into())?;

    print(&if args.json { json!({ "join": line.expose() }).to_string() } else { line.expose() })
}

fn run_backup(args: &BackupArgs) -> Result<(), Failure> {
    let made = back_up(&args.state, &args.file, args.force)
        .map_err(|error| Failure::Refused(error.to_string()))?;
    let BackupSummary { cluster, revision, nodes, networks, bytes } = made;
    if args.json {
        let cluster = cluster.to_string();
        let summary = json!({
            "cluster": cluster,
            "revision": revision.0,
            "nodes": nodes,
            "networks": networks,
            "bytes": bytes,
        });
        return print(&summary.to_string());
    }

    print(&format!(
        "backed up cluster {cluster} at revision {revision} to {}: {nodes} nodes, {networks} \
         networks, {bytes} bytes; it holds the cluster's keys",
        args.file.display()
    ))
}

fn run_restore(args: RestoreArgs) -> Result<(), Failure> {
    let RestoreArgs { file, state, keep_old, wait } = args;
    let config = RestoreConfig { keep_old, wait, ..RestoreConfig::new(file, state.clone()) };
    let made = restore(&config).map_err(|error| Failure::Refused(error.to_string()))?;
    let until = rfc3339(made.until);
    let mut lines = vec![
        format!(
            "restored cluster {} as it was at {} (revision {})",
            made.cluster,
            rfc3339(made.made),
            made.revision
        ),
        format!(
            "fenced: {} tokens admit nobody any more; make new ones: overlayctl token create",
            made.tokens
        ),
        format!(
            "fenced: no new block, and no address outside a host's own, until {} nodes have told \
             what they hold, or {until}",
            made.awaited
        ),
    ];
    match made.lost {
        Some(lost) => lines.extend(lost.into_iter().map(|line| format!("lost: {line}"))),
        None => lines.push(
            "lost: whatever was changed after the backup; what that was is not known here"
                .to_owned(),
        ),
    }
    lines.extend(made.old.map(|old| format!("the state before is in {}", old.display())));
    lines.push(format!("start control now: overlay-control serve --state {}", state.display()));

    print(&lines.join("\n"))
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
    let config =
        Config { listen: args.listen, cert_ttl: args.cert_ttl, log, ..Config::new(args.state) };
    if args.check_config {
        return print("the configuration is valid");
    }
    // Each connection takes a file descriptor; the usual soft limit of 1,024 would limit the number
    // of nodes.
    if let Err(error) = descriptors::raise_limit() {
        tracing::warn!(%error, "Failed to raise the limit of open files");
    }
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::Refused(format!("cannot start the runtime: {error}")))?;

    runtime.block_on(serve(config))
}

async fn serve(config: Config) -> Result<(), Failure> {
    let shutdown = shutdown().map_err(|error| Failure::Refused(format!("signals: {error}")))?;
    let server = Server::bind(config).await?;
    tracing::info!(address = %server.local_addr(), "Serving");
    // From here on, connections are accepted by the kernel.
    say(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("listening on {}", server.local_addr())),
    ]);
    let shutdown = async {
        shutdown.await;
        say(&[NotifyState::Stopping]);
    };

    Ok(server.run(shutdown).await?)
}

/// Notifies whoever started control (`sd_notify(3)`): systemd or `overlayctl`.
fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "Failed to notify the process that started control");
    }
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_example_has_every_option_and_all_of_them_work() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/control.toml");
        let text = std::fs::read_to_string(&file).expect("the example");
        let written: BTreeSet<_> =
            text.lines().filter_map(|line| Some(line.split_once(" = ")?.0.to_owned())).collect();

        let read =
            |command: &str| config::parse::<Cli>(&file, ["overlay-control".into(), command.into()]);

        let Command::Init(init) = read("init").expect("a configuration").command else {
            panic!("not init")
        };
        assert_eq!(init.advertise, ["192.0.2.10:7443", "control.example.net:7443"]);
        let Command::Serve(serve) = read("serve").expect("a configuration").command else {
            panic!("not serve")
        };
        assert_eq!(serve.cert_ttl, Duration::from_secs(86_400));
        assert_eq!(written, config::keys::<Cli>().into_iter().collect());
    }

    #[test]
    fn the_example_of_the_agent_is_none_for_control() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/overlayd.toml");

        let error = config::parse::<Cli>(&file, ["overlay-control".into(), "serve".into()])
            .expect_err("not its own");

        assert!(error.to_string().contains("line 11, run-dir: there is no such option"), "{error}");
    }
}
