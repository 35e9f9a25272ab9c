//! The configuration of the agent.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

use crate::docker::{plugin, plugin_proxy};

/// The default configuration file.
pub const DEFAULT_FILE: &str = "/etc/overlay/overlayd.toml";

/// The most lanes by default: more cores than this rarely help, and each lane costs one key per
/// network.
const MAX_DEFAULT_LANES: u16 = 8;

/// The implementation of WireGuard that carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendChoice {
    /// The best one that this host offers.
    Auto,
    /// The agent's own engine.
    Userspace,
    /// The kernel's WireGuard.
    Kernel,
}

/// The command line of `overlayd`.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "overlayd",
    version,
    args_conflicts_with_subcommands = true,
    about = "The agent of Overlay: puts this host's containers onto encrypted networks that span hosts",
    after_help = "Example:\n  overlayd --state /var/lib/overlay\n\nStart it as root; then `overlayctl join JOIN-LINE` makes this host a node.\n\n\
        Options may stand in /etc/overlay/overlayd.toml, one a line: port = 51900. The command line goes before the \
        environment, and that before the file. Exit code 64: the configuration cannot be used."
)]
pub struct Arguments {
    /// A subcommand other than the agent itself.
    #[command(subcommand)]
    pub other: Option<Other>,
    /// The agent's own options.
    #[command(flatten)]
    pub config: Config,
}

/// The other programs in this binary.
#[derive(Debug, Clone, Subcommand)]
pub enum Other {
    /// Keep Docker's plugin socket, so that Docker starts without waiting for the agent
    #[command(after_help = "Example:\n  overlayd door --agent /run/overlay/docker.sock")]
    #[command(name = "door")]
    PluginProxy(plugin_proxy::ProxyOptions),
}

/// The agent of Overlay: puts this host's containers onto encrypted networks that span hosts.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// A file with options [default: /etc/overlay/overlayd.toml where that is]
    #[arg(long, value_name = "FILE", env = "OVERLAYD_CONFIG")]
    pub config: Option<PathBuf>,
    /// Check the options and the file, and end
    #[arg(long)]
    pub check_config: bool,
    /// Take the place of the running agent at standard input, which `overlayctl upgrade` has ask
    /// for it
    #[arg(long, hide = true)]
    pub take_over: bool,
    /// Where everything durable is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/overlay", env = "OVERLAYD_STATE")]
    pub state: PathBuf,
    /// The local socket that overlayctl talks to [default: agent.sock in the run directory]
    #[arg(long, value_name = "PATH", env = "OVERLAYD_SOCKET")]
    socket: Option<PathBuf>,
    /// The UDP port of the first lane; the others follow
    #[arg(long, value_name = "N", default_value = "51820", env = "OVERLAYD_PORT")]
    pub port: NonZeroU16,
    /// Threads that carry packets [default: one a core, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), env = "OVERLAYD_LANES")]
    lanes: Option<u16>,
    /// Which WireGuard carries the packets
    #[arg(long, value_enum, default_value = "auto", env = "OVERLAYD_BACKEND")]
    pub backend: BackendChoice,
    /// Docker's API socket, "auto" for the usual one where Docker is installed, or "off"
    #[arg(long, value_name = "PATH|auto|off", default_value = "auto", env = "OVERLAYD_DOCKER")]
    docker: PathBuf,
    /// Where Docker looks for its plugin of this name
    #[arg(long, value_name = "PATH", default_value = plugin::PATH, hide = true, env = "OVERLAYD_DOCKER_PLUGIN")]
    pub docker_plugin: PathBuf,
    /// Where namespaces are pinned and sockets are made
    #[arg(long, value_name = "DIR", default_value = "/run/overlay", env = "OVERLAYD_RUN_DIR")]
    pub run_dir: PathBuf,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// Kernel WireGuard was requested.
    #[error(
        "--backend kernel is not supported by this version; use --backend auto or --backend userspace"
    )]
    KernelBackend,
    /// The lanes' ports do not fit below 65,536.
    #[error("--port {port} leaves no room for {lanes} lanes; use {} or lower", 65_536 - u32::from(*lanes))]
    Ports {
        /// The first port.
        port: u16,
        /// The lanes.
        lanes: u16,
    },
    /// Several mistakes.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Several(Vec<Self>),
    /// The path of the socket is longer than the kernel allows.
    #[error("--socket {}: the path is longer than 107 bytes, which is the kernel's limit", .0.display())]
    SocketPath(PathBuf),
}

/// The longest path of a Unix socket in bytes: `sun_path` without the final zero.
const MAX_SOCKET_PATH: usize = 107;

impl Config {
    /// Checks what the command line parser cannot.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names the option and what to use instead.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        let mut wrong = Vec::new();
        if self.backend == BackendChoice::Kernel {
            wrong.push(InvalidConfig::KernelBackend);
        }
        let (port, lanes) = (self.port.get(), self.lanes());
        if u32::from(port) + u32::from(lanes) > 65_536 {
            wrong.push(InvalidConfig::Ports { port, lanes });
        }
        let socket = self.socket();
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            wrong.push(InvalidConfig::SocketPath(socket));
        }

        match wrong.len() {
            0 => Ok(()),
            1 => Err(wrong.remove(0)),
            _ => Err(InvalidConfig::Several(wrong)),
        }
    }

    /// Returns the path of the local socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join("agent.sock"))
    }

    /// Returns the number of lanes.
    pub fn lanes(&self) -> u16 {
        let cores = std::thread::available_parallelism()
            .ok()
            .and_then(|n| u16::try_from(n.get()).ok())
            .unwrap_or(1);

        self.lanes.unwrap_or(cores.min(MAX_DEFAULT_LANES))
    }

    /// Returns Docker's API socket if Docker is used: if it was named, or is installed on this
    /// host.
    pub fn docker(&self) -> Option<PathBuf> {
        match self.docker.to_str() {
            Some("off") => None,
            Some("auto") => has_docker().then(|| PathBuf::from(DOCKER_SOCKET)),
            _ => Some(self.docker.clone()),
        }
    }
}

/// The default API socket of Docker.
const DOCKER_SOCKET: &str = "/run/docker.sock";
/// The programs by which an installed Docker is recognised.
const DOCKER_PROGRAMS: [&str; 4] =
    ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/snap/bin/dockerd"];

fn has_docker() -> bool {
    Path::new(DOCKER_SOCKET).exists() || DOCKER_PROGRAMS.iter().any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_host::config;

    use super::*;

    fn parse(args: &[&str]) -> Config {
        Arguments::try_parse_from([&["overlayd"], args].concat()).expect("arguments").config
    }

    #[test]
    fn the_door_takes_arguments_of_its_own_and_none_of_the_agents() {
        let door =
            Arguments::try_parse_from(["overlayd", "door", "--agent", "/x"]).expect("arguments");

        assert!(matches!(door.other, Some(Other::PluginProxy(_))));
        assert!(Arguments::try_parse_from(["overlayd", "--port", "7", "door"]).is_err());
    }

    #[test]
    fn without_arguments_the_documented_defaults_hold() {
        let config = parse(&[]);

        assert_eq!(config.state, Path::new("/var/lib/overlay"));
        assert_eq!(config.socket(), Path::new("/run/overlay/agent.sock"));
        assert_eq!(config.port.get(), 51820);
        assert!((1..=MAX_DEFAULT_LANES).contains(&config.lanes()));
        assert!(config.check().is_ok());
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let kernel = parse(&["--backend", "kernel"]).check().expect_err("unsupported").to_string();
        let ports =
            parse(&["--port", "65535", "--lanes", "2"]).check().expect_err("no room").to_string();
        let socket = parse(&["--socket", &format!("/{}", "x".repeat(108))])
            .check()
            .expect_err("too long")
            .to_string();

        assert!(kernel.starts_with("--backend kernel"), "{kernel}");
        assert!(ports.ends_with("use 65534 or lower"), "{ports}");
        assert!(socket.starts_with("--socket"), "{socket}");
    }

    #[test]
    fn all_that_cannot_run_is_said_at_once() {
        let said = parse(&["--backend", "kernel", "--port", "65535", "--lanes", "2"])
            .check()
            .expect_err("two mistakes");

        assert!(matches!(&said, InvalidConfig::Several(wrong) if wrong.len() == 2), "{said}");
    }

    #[test]
    fn the_example_has_every_option_and_all_of_them_work() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/overlayd.toml");
        let table: BTreeSet<_> = std::fs::read_to_string(&file)
            .expect("the example")
            .lines()
            .filter_map(|line| Some(line.split_once(" = ")?.0.to_owned()))
            .collect();

        let read =
            config::parse::<Arguments>(&file, ["overlayd".into()]).expect("a configuration").config;

        read.check().expect("it can run");
        assert_eq!(read.lanes(), 4);
        assert_eq!(table, config::keys::<Arguments>().into_iter().collect());
    }

    #[test]
    fn docker_off_is_not_wanted() {
        assert_eq!(parse(&["--docker", "off"]).docker(), None);
        assert_eq!(
            parse(&["--docker", "/run/other.sock"]).docker(),
            Some("/run/other.sock".into())
        );
    }
}
