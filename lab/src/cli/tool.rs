//! The small programs for hosts and containers on the command line.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Subcommand;
use overlay_traffic::{
    capture, datagrams, fetch, flood, flows, forge, hostile, http_server, initiations, ping,
    questions, throughput,
};

use crate::lab::Lab;
use crate::snapshot::Snapshot;
use crate::supervisor::BRIDGE;
use crate::tool::{change, crowd, fill, hostile_node, plugin, processes, successor, uapi, usage};

/// Where the agent pins the namespaces of its networks.
const PINNED: &str = "/run/overlay/netns";

/// A small program.
#[derive(Debug, Subcommand)]
pub(super) enum Tool {
    /// Serve /hello, /peer, /bytes?n=NUMBER and /echo over HTTP
    #[command(hide = true, after_help = "Example:\n  overlay-lab serve-http --listen 0.0.0.0:8080")]
    ServeHttp(http_server::Options),
    /// Get a page over HTTP
    #[command(hide = true, after_help = "Example:\n  overlay-lab fetch http://service2:8080/hello")]
    Fetch(fetch::Options),
    /// Send ICMP echoes
    #[command(
        hide = true,
        after_help = "Example:\n  overlay-lab ping --count 10 --interval-ms 100 service2"
    )]
    Ping(ping::Options),
    /// Measure TCP throughput
    #[command(
        hide = true,
        after_help = "Example:\n  overlay-lab throughput client service2 --seconds 5 --verify"
    )]
    Throughput {
        #[command(subcommand)]
        end: throughput::End,
    },
    /// Carry data over UDP datagrams that must not be fragmented
    #[command(
        hide = true,
        after_help = "Example:\n  overlay-lab datagrams client service2 --seconds 5"
    )]
    Datagrams {
        #[command(subcommand)]
        end: datagrams::End,
    },
    /// Keep numbered datagrams and TCP connections going, and report what became of them
    #[command(
        hide = true,
        after_help = "Example:\n  overlay-lab flows client service2 --connections 10"
    )]
    Flows {
        #[command(subcommand)]
        end: flows::End,
    },
    /// Be a program that does not take a running agent's place
    #[command(hide = true, after_help = "Example:\n  overlay-lab successor refuses")]
    Successor {
        /// Where it fails
        stage: successor::Stage,
    },
    /// Search for the highest rate of datagrams that arrives
    #[command(
        hide = true,
        after_help = "Example:\n  overlay-lab flood client service2 --size 1372"
    )]
    Flood {
        #[command(subcommand)]
        end: flood::End,
    },
    /// Print what the processes of a program, or one process, have cost, as JSON
    #[command(hide = true)]
    Usage {
        /// The program's file name
        #[arg(required_unless_present = "pid", conflicts_with = "pid")]
        program: Option<String>,
        /// The process alone
        #[arg(long, value_name = "PID")]
        pid: Option<i32>,
    },
    /// Count frames and look for a marker in them
    #[command(
        hide = true,
        after_help = "Example:\n  overlay-lab capture --interface eth0 --marker secret --seconds 5"
    )]
    Capture(capture::Options),
    /// Relay between Docker and a plugin, or call one
    #[command(
        hide = true,
        after_help = "Example:\n  overlay-lab plugin relay --listen /run/docker/plugins/x.sock --to /run/x.sock"
    )]
    Plugin {
        #[command(subcommand)]
        tool: plugin::PluginTool,
    },
    /// Print what this host has, as JSON
    #[command(hide = true)]
    Snapshot {
        /// Folders to list
        folders: Vec<PathBuf>,
    },
    /// Hold a lab until killed
    #[command(hide = true)]
    Hold {
        /// Number of hosts
        hosts: usize,
    },
    /// Print the process ids of a program
    #[command(hide = true)]
    Pids {
        /// The program's file name
        program: String,
    },
    /// Send a signal
    #[command(hide = true)]
    Kill {
        /// Name or number of the signal
        signal: String,
        /// Process id
        pid: i32,
    },
    /// Make packets to an underlay neighbour get lost, or restore it
    #[command(hide = true)]
    Neighbour {
        /// What to do
        change: change::Neighbour,
        /// The neighbour
        address: IpAddr,
    },
    /// Give a link an address
    #[command(hide = true)]
    Address {
        /// The link
        name: String,
        /// Address and prefix length
        address: ipnet::IpNet,
    },
    /// Set a link's MTU
    #[command(hide = true)]
    Mtu {
        /// The link
        name: String,
        /// Bytes
        mtu: u32,
    },
    /// Set how many packets a link's queue holds
    #[command(hide = true)]
    QueueLen {
        /// The link
        name: String,
        /// Packets
        packets: u32,
    },
    /// Set the largest packet that this router forwards to a host
    #[command(hide = true)]
    PathMtu {
        /// The link to the host
        link: String,
        /// The host
        address: IpAddr,
        /// Bytes
        mtu: u32,
    },
    /// Print the IPv4 addresses of a link
    #[command(hide = true)]
    Addresses {
        /// The link
        name: String,
    },
    /// Send packets with any source address
    #[command(hide = true)]
    Forge(forge::Options),
    /// Attack others from a container by raw frames, or count what arrives of that
    #[command(hide = true)]
    Hostile {
        #[command(subcommand)]
        tool: hostile::HostileTool,
    },
    /// Attack control and the other nodes by every means that a node has
    #[command(hide = true)]
    HostileNode(hostile_node::Options),
    /// Flood the name server of this host with questions
    #[command(hide = true)]
    Questions(questions::Options),
    /// Flood a lane with handshake initiations from random addresses
    #[command(hide = true)]
    Initiations(initiations::Options),
    /// Take the free file descriptors of a process with idle connections
    #[command(hide = true)]
    Fill(fill::Options),
    /// Be many nodes at once
    #[command(hide = true)]
    Crowd(crowd::Options),
    /// Configure a userspace WireGuard interface by what standard input says
    #[command(hide = true)]
    Uapi {
        /// The interface
        name: String,
    },
    /// Set a link up or down
    #[command(hide = true)]
    Link {
        /// The link
        name: String,
        /// What to do
        change: change::AdminState,
    },
}

impl Tool {
    /// Runs it.
    #[expect(clippy::print_stdout, reason = "this is a command line")]
    pub(super) fn run(self) -> Result<()> {
        match self {
            Self::ServeHttp(options) => http_server::run(&options),
            Self::Fetch(options) => fetch::run(&options),
            Self::Ping(options) => ping::run(&options),
            Self::Throughput { end } => throughput::run(&end),
            Self::Datagrams { end } => datagrams::run(&end),
            Self::Flows { end } => flows::run(&end),
            Self::Successor { stage } => successor::run(stage),
            Self::Flood { end } => flood::run(&end),
            Self::Usage { program, pid } => usage::print(program.as_deref(), pid),
            Self::QueueLen { name, packets } => change::queue_len(&name, packets),
            Self::PathMtu { link, address, mtu } => change::path_mtu(&link, address, mtu),
            Self::Capture(options) => capture::run(&options, BRIDGE),
            Self::Plugin { tool } => plugin::run(&tool),
            Self::Hold { hosts } => hold(hosts),
            Self::Pids { program } => processes::print_pids(&program),
            Self::Kill { signal, pid } => processes::send(&signal, pid),
            Self::Neighbour { change, address } => change::neighbour(change, address),
            Self::Address { name, address } => change::address(&name, address),
            Self::Mtu { name, mtu } => change::mtu(&name, mtu),
            Self::Addresses { name } => change::print_addresses(&name),
            Self::Forge(options) => forge::run(&options),
            Self::Hostile { tool } => hostile::run(&tool),
            Self::HostileNode(options) => hostile_node::run(&options),
            Self::Questions(options) => questions::run(&options),
            Self::Initiations(options) => initiations::run(&options),
            Self::Fill(options) => fill::run(&options),
            Self::Crowd(options) => crowd::run(&options),
            Self::Uapi { name } => uapi::run(&name),
            Self::Link { name, change } => change::link(&name, change),
            Self::Snapshot { folders } => {
                let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
                let snapshot = Snapshot::take(&folders).with_pinned_networks(Path::new(PINNED))?;
                println!("{}", serde_json::to_string(&snapshot)?);
                Ok(())
            }
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn hold(hosts: usize) -> Result<()> {
    let _lab = Lab::new(hosts)?;
    println!("up");
    loop {
        nix::unistd::pause();
    }
}
