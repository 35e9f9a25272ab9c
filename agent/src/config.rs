//! What the agent is told at its start.

use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};

use crate::docker::{door, plugin};

/// The most lanes that are made without being asked for: more cores than this rarely help, and each lane costs a key a network.
const MAX_DEFAULT_LANES: u16 = 8;

/// Which WireGuard carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// The best that this host offers.
    Auto,
    /// The agent's own engine.
    Userspace,
    /// The kernel's WireGuard.
    Kernel,
}

/// What `overlayd` shall be.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "overlayd",
    version,
    args_conflicts_with_subcommands = true,
    about = "The agent of Overlay: puts this host's containers onto encrypted networks that span hosts",
    after_help = "Example:\n  overlayd --state /var/lib/overlay\n\nStart it as root; then `overlayctl join JOIN-LINE` makes this host a node."
)]
pub struct Arguments {
    /// Something other than the agent.
    #[command(subcommand)]
    pub other: Option<Other>,
    /// The agent's own.
    #[command(flatten)]
    pub config: Config,
}

/// What else the program can be.
#[derive(Debug, Clone, Subcommand)]
pub enum Other {
    /// Keep Docker's plugin socket, so that Docker starts without waiting for the agent
    #[command(after_help = "Example:\n  overlayd door --agent /run/overlay/docker.sock")]
    Door(door::Options),
}

/// The agent of Overlay: puts this host's containers onto encrypted networks that span hosts.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Where everything durable is kept
    #[arg(long, value_name = "DIR", default_value = "/var/lib/overlay")]
    pub state: PathBuf,
    /// The local socket that overlayctl talks to [default: agent.sock in the run directory]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// The UDP port of the first lane; the others follow
    #[arg(long, value_name = "N", default_value = "51820")]
    pub port: NonZeroU16,
    /// Threads that carry packets [default: one a core, at most 8]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    lanes: Option<u16>,
    /// Which WireGuard carries the packets
    #[arg(long, value_enum, default_value = "auto")]
    pub backend: Backend,
    /// Docker's API socket, "auto" for the usual one where Docker is installed, or "off"
    #[arg(long, value_name = "PATH|auto|off", default_value = "auto")]
    docker: PathBuf,
    /// Where Docker looks for its plugin of this name
    #[arg(long, value_name = "PATH", default_value = plugin::PATH, hide = true)]
    pub docker_plugin: PathBuf,
    /// Where namespaces are pinned and sockets are made
    #[arg(long, value_name = "DIR", default_value = "/run/overlay")]
    pub run_dir: PathBuf,
}

/// The configuration cannot run.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// Kernel WireGuard was asked for.
    #[error("--backend kernel is not supported by this version; use --backend auto or --backend userspace")]
    KernelBackend,
    /// The lanes' ports do not fit below 65,536.
    #[error("--port {port} leaves no room for {lanes} lanes; use {} or lower", 65_536 - u32::from(*lanes))]
    Ports {
        /// The first port.
        port: u16,
        /// The lanes.
        lanes: u16,
    },
    /// The path of the socket is longer than the kernel takes.
    #[error("--socket {}: the path is longer than 107 bytes, which is the kernel's limit", .0.display())]
    SocketPath(PathBuf),
}

/// Bytes of a Unix socket's path at the most: `sun_path` without its final zero.
const MAX_SOCKET_PATH: usize = 107;

impl Config {
    /// Checks what the parser cannot.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names the option and what to use instead.
    pub fn check(&self) -> Result<(), InvalidConfig> {
        if self.backend == Backend::Kernel {
            return Err(InvalidConfig::KernelBackend);
        }
        let (port, lanes) = (self.port.get(), self.lanes());
        if u32::from(port) + u32::from(lanes) > 65_536 {
            return Err(InvalidConfig::Ports { port, lanes });
        }
        let socket = self.socket();
        if socket.as_os_str().len() > MAX_SOCKET_PATH {
            return Err(InvalidConfig::SocketPath(socket));
        }

        Ok(())
    }

    /// Returns the path of the local socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir.join("agent.sock"))
    }

    /// Returns how many lanes there are.
    pub fn lanes(&self) -> u16 {
        let cores = std::thread::available_parallelism().ok().and_then(|n| u16::try_from(n.get()).ok()).unwrap_or(1);

        self.lanes.unwrap_or(cores.min(MAX_DEFAULT_LANES))
    }

    /// Returns Docker's API socket, where Docker is wanted: named, or installed on this host.
    pub fn docker(&self) -> Option<PathBuf> {
        match self.docker.to_str() {
            Some("off") => None,
            Some("auto") => has_docker().then(|| PathBuf::from(DOCKER_SOCKET)),
            _ => Some(self.docker.clone()),
        }
    }
}

/// Where engines listen unless they are told otherwise.
const DOCKER_SOCKET: &str = "/run/docker.sock";
/// Where packages put the engine.
const DOCKER_PROGRAMS: [&str; 4] =
    ["/usr/bin/dockerd", "/usr/sbin/dockerd", "/usr/local/bin/dockerd", "/snap/bin/dockerd"];

fn has_docker() -> bool {
    Path::new(DOCKER_SOCKET).exists() || DOCKER_PROGRAMS.iter().any(|path| Path::new(path).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Config {
        Arguments::try_parse_from([&["overlayd"], args].concat()).expect("arguments").config
    }

    #[test]
    fn the_door_takes_arguments_of_its_own_and_none_of_the_agents() {
        let door = Arguments::try_parse_from(["overlayd", "door", "--agent", "/x"]).expect("arguments");

        assert!(matches!(door.other, Some(Other::Door(_))));
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
        let ports = parse(&["--port", "65535", "--lanes", "2"]).check().expect_err("no room").to_string();
        let socket = parse(&["--socket", &format!("/{}", "x".repeat(108))]).check().expect_err("too long").to_string();

        assert!(kernel.starts_with("--backend kernel"), "{kernel}");
        assert!(ports.ends_with("use 65534 or lower"), "{ports}");
        assert!(socket.starts_with("--socket"), "{socket}");
    }

    #[test]
    fn docker_off_is_not_wanted() {
        assert_eq!(parse(&["--docker", "off"]).docker(), None);
        assert_eq!(parse(&["--docker", "/run/other.sock"]).docker(), Some("/run/other.sock".into()));
    }
}
