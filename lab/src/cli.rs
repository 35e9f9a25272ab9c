//! The command line of `overlay-lab`.

use std::ffi::OsString;
use std::net::IpAddr;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use crate::check::{CHECKS, Check};
use crate::docker::{DockerDaemon, Image, Release};
use crate::lab::Lab;
use crate::snapshot::Snapshot;
use crate::state::{self, LabRecord};
use crate::tool::{
    capture, change, crowd, datagrams, fetch, fill, flood, flows, forge, http_server, initiations, ping, plugin,
    processes, successor, throughput, uapi, usage,
};
use crate::{bench, demo, enter, host_init, supervisor};

const EXAMPLES: &str = "Examples:
  overlay-lab demo                          show all of Overlay on two hosts, in half a minute
  overlay-lab up 3                          three hosts that stay
  overlay-lab exec host1 -- overlayctl init
  overlay-lab exec host2 -- bash            a shell on host2
  overlay-lab down

Inside hosts and containers, where nothing else may be installed, these help:
  serve-http, fetch, ping, throughput, capture   (each has --help)";

/// Where the agent pins the namespaces of its networks.
const PINNED: &str = "/run/overlay/netns";

/// Hosts made of Linux namespaces, on this machine.
#[derive(Debug, Parser)]
#[command(name = "overlay-lab", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show all of Overlay on two hosts, in half a minute
    #[command(after_help = "Example:\n  cargo run --release -p overlay-lab -- demo")]
    Demo(demo::Options),
    /// Make hosts that stay until `overlay-lab down`
    #[command(after_help = "Example:\n  overlay-lab up 2 && overlay-lab exec host1 -- overlay-lab ping host2")]
    Up(Up),
    /// Run a command on a host
    #[command(after_help = "Example:\n  overlay-lab exec host1 -- overlayctl status")]
    Exec {
        #[command(flatten)]
        lab: LabName,
        /// host1, host2, … or a, b, …
        host: String,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// List the hosts that are up
    #[command(after_help = "Example:\n  overlay-lab ls --json")]
    Ls {
        /// Print the list as JSON
        #[arg(long)]
        json: bool,
    },
    /// Take the hosts down; nothing of them remains
    #[command(after_help = "Example:\n  overlay-lab down --lab second")]
    Down {
        #[command(flatten)]
        lab: LabName,
    },
    /// Test one property of Overlay on hosts of its own, in many rounds
    #[command(
        after_help = "Examples:\n  overlay-lab check             lists them\n  overlay-lab check restart --rounds 10\n  overlay-lab check docker --rounds 2 --engine installed,$(lab/engines.sh | tail -n 1)\n  overlay-lab check docker-slow --stage 60s,load"
    )]
    Check {
        /// Name of the check; all are listed if it is left out
        name: Option<String>,
        /// Number of rounds [default: as many as it takes to be sure]
        #[arg(long, visible_alias = "minutes", value_parser = clap::value_parser!(u32).range(1..))]
        rounds: Option<u32>,
        /// Docker engines for the hosts in turn: folders as lab/engines.sh prints them, or
        /// "installed"
        #[arg(long, value_name = "DIR", value_delimiter = ',')]
        engine: Vec<Release>,
        /// Run only these stages, of a check that consists of stages
        #[arg(long, value_name = "STAGE", value_delimiter = ',')]
        stage: Vec<String>,
    },
    /// Compare Overlay with other userspace tunnels, in one run
    #[command(
        after_help = "Examples:\n  overlay-lab bench                                    the table\n  overlay-lab bench --rounds 1 --only wireguard-go --json"
    )]
    Bench(bench::Options),
    #[command(flatten)]
    Tool(Tool),
}

#[derive(Debug, clap::Args)]
struct LabName {
    /// Name of the lab, if there are several
    #[arg(long = "lab", value_name = "NAME", default_value = "default", value_parser = state::check_name)]
    name: String,
}

#[derive(Debug, clap::Args)]
struct Up {
    #[command(flatten)]
    lab: LabName,
    /// Number of hosts
    #[arg(default_value_t = 2)]
    hosts: usize,
    /// MTU of the underlay
    #[arg(long, default_value_t = 1500)]
    mtu: u32,
    /// IPv4 prefix of the underlay
    #[arg(long, value_name = "CIDR", default_value = "192.0.2.0/24")]
    ipv4: ipnet::Ipv4Net,
    /// No IPv6 on the underlay
    #[arg(long)]
    no_ipv6: bool,
    /// Hosts with a Docker engine each, which has the image my-image
    #[arg(long)]
    docker: bool,
    /// Their engines, in turn: folders as lab/engines.sh prints them, or "installed"
    #[arg(long, value_name = "DIR", value_delimiter = ',', requires = "docker")]
    engine: Vec<Release>,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Serve /hello, /peer, /bytes?n=NUMBER and /echo over HTTP
    #[command(hide = true, after_help = "Example:\n  overlay-lab serve-http --listen 0.0.0.0:8080")]
    ServeHttp(http_server::Options),
    /// Get a page over HTTP
    #[command(hide = true, after_help = "Example:\n  overlay-lab fetch http://service2:8080/hello")]
    Fetch(fetch::Options),
    /// Send ICMP echoes
    #[command(hide = true, after_help = "Example:\n  overlay-lab ping --count 10 --interval-ms 100 service2")]
    Ping(ping::Options),
    /// Measure TCP throughput
    #[command(hide = true, after_help = "Example:\n  overlay-lab throughput client service2 --seconds 5 --verify")]
    Throughput {
        #[command(subcommand)]
        end: throughput::End,
    },
    /// Carry data over UDP datagrams that must not be fragmented
    #[command(hide = true, after_help = "Example:\n  overlay-lab datagrams client service2 --seconds 5")]
    Datagrams {
        #[command(subcommand)]
        end: datagrams::End,
    },
    /// Keep numbered datagrams and TCP connections going, and report what became of them
    #[command(hide = true, after_help = "Example:\n  overlay-lab flows client service2 --connections 10")]
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
    #[command(hide = true, after_help = "Example:\n  overlay-lab flood client service2 --size 1372")]
    Flood {
        #[command(subcommand)]
        end: flood::End,
    },
    /// Print what the processes of a program have cost, as JSON
    #[command(hide = true)]
    Usage {
        /// The program's file name
        program: String,
    },
    /// Count frames and look for a marker in them
    #[command(hide = true, after_help = "Example:\n  overlay-lab capture --interface eth0 --marker secret --seconds 5")]
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

/// Runs the program with these arguments, the first of which is its name.
#[expect(clippy::print_stderr, reason = "this is a command line")]
#[must_use]
pub fn main(args: &[OsString]) -> ExitCode {
    let result = match inner(args) {
        Some(result) => result,
        None => match Cli::try_parse_from(args) {
            Ok(cli) => run(cli.command),
            Err(error) => {
                let _ = error.print();
                return ExitCode::from(if error.use_stderr() { 2 } else { 0 });
            }
        },
    };

    result.unwrap_or_else(|error| {
        eprintln!("overlay-lab: {error:#}");
        ExitCode::FAILURE
    })
}

/// Runs the hidden commands by which the program calls itself, before anything could start a
/// thread.
fn inner(args: &[OsString]) -> Option<Result<ExitCode>> {
    let own = args.get(1)?.to_str()?;
    let text = || args.get(2).and_then(|arg| arg.to_str()).unwrap_or_default();
    let done = |()| ExitCode::SUCCESS;
    match own {
        supervisor::COMMAND => Some(supervisor::supervise(text()).map(done)),
        host_init::COMMAND => Some(host_init::run(text()).map(done)),
        enter::COMMAND => Some(enter::run(&args[2..]).map_or_else(|error| Ok(complain(&error)), |code| Ok(exit(code)))),
        _ => None,
    }
}

#[expect(clippy::print_stderr, reason = "this is a command line")]
fn complain(error: &anyhow::Error) -> ExitCode {
    eprintln!("overlay-lab: {error:#}");

    exit(enter::CANNOT_ENTER)
}

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code & 0xFF).unwrap_or(u8::MAX))
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Demo(options) => return Ok(if demo::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        Command::Up(options) => up(&options)?,
        Command::Exec { lab, host, command } => return exec(&lab.name, &host, &command),
        Command::Ls { json } => ls(json)?,
        Command::Down { lab } => down(&lab.name)?,
        Command::Check { name, rounds, engine, stage } => check(name.as_deref(), rounds, &engine, &stage)?,
        Command::Bench(options) => bench::run(&options)?,
        Command::Tool(tool) => run_tool(tool)?,
    }

    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn run_tool(tool: Tool) -> Result<()> {
    match tool {
        Tool::ServeHttp(options) => http_server::run(&options),
        Tool::Fetch(options) => fetch::run(&options),
        Tool::Ping(options) => ping::run(&options),
        Tool::Throughput { end } => throughput::run(&end),
        Tool::Datagrams { end } => datagrams::run(&end),
        Tool::Flows { end } => flows::run(&end),
        Tool::Successor { stage } => successor::run(stage),
        Tool::Flood { end } => flood::run(&end),
        Tool::Usage { program } => usage::print(&program),
        Tool::QueueLen { name, packets } => change::queue_len(&name, packets),
        Tool::PathMtu { link, address, mtu } => change::path_mtu(&link, address, mtu),
        Tool::Capture(options) => capture::run(&options),
        Tool::Plugin { tool } => plugin::run(&tool),
        Tool::Hold { hosts } => hold(hosts),
        Tool::Pids { program } => processes::print_pids(&program),
        Tool::Kill { signal, pid } => processes::send(&signal, pid),
        Tool::Neighbour { change, address } => change::neighbour(change, address),
        Tool::Address { name, address } => change::address(&name, address),
        Tool::Mtu { name, mtu } => change::mtu(&name, mtu),
        Tool::Addresses { name } => change::print_addresses(&name),
        Tool::Forge(options) => forge::run(&options),
        Tool::Initiations(options) => initiations::run(&options),
        Tool::Fill(options) => fill::run(&options),
        Tool::Crowd(options) => crowd::run(&options),
        Tool::Uapi { name } => uapi::run(&name),
        Tool::Link { name, change } => change::link(&name, change),
        Tool::Snapshot { folders } => {
            let folders: Vec<&Path> = folders.iter().map(PathBuf::as_path).collect();
            let snapshot = Snapshot::take(&folders).with_pinned_networks(Path::new(PINNED))?;
            println!("{}", serde_json::to_string(&snapshot)?);
            Ok(())
        }
    }
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn up(options: &Up) -> Result<()> {
    if let (true, Some(program)) = (options.docker, DockerDaemon::missing_program()) {
        bail!("--docker takes Debian's docker.io, busybox-static and curl: {program} is not installed");
    }
    state::clean()?;
    if LabRecord::load(&options.lab.name)?.is_some() {
        bail!("lab {0} is up already: `overlay-lab down --lab {0}` takes it down", options.lab.name);
    }

    let lab = Lab::builder(options.hosts).mtu(options.mtu).ipv4(options.ipv4);
    let lab = if options.no_ipv6 { lab.ipv6(None) } else { lab };
    let lab = lab.start_to_stay()?;
    if options.docker {
        let image = Image::make()?;
        for (index, host) in lab.hosts().iter().enumerate() {
            let release = options.engine.iter().cycle().nth(index).cloned().unwrap_or_default();
            DockerDaemon::start(host, &release, false)?.load(&image)?;
        }
    }
    let record = LabRecord::of(&options.lab.name, &lab)?;
    record.save()?;
    drop(lab.leave_running());

    for host in record.list() {
        println!("{host}");
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn hold(hosts: usize) -> Result<()> {
    let _lab = Lab::new(hosts)?;
    println!("up");
    loop {
        nix::unistd::pause();
    }
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn check(name: Option<&str>, rounds: Option<u32>, engines: &[Release], stages: &[String]) -> Result<()> {
    let Some(name) = name else {
        for check in CHECKS {
            println!("{:<16} {} ({} rounds)", check.name, check.what, check.rounds);
            if !check.stages().is_empty() {
                println!("{:<16} stages: {}", "", check.stages().join(", "));
            }
        }
        return Ok(());
    };
    let check =
        Check::find(name).with_context(|| format!("there is no check {name}: `overlay-lab check` lists them"))?;
    println!("{}: {}", check.name, check.what);
    let time = check.run_with(rounds, engines, stages)?;
    println!("passed in {:.1} s", time.as_secs_f64());

    Ok(())
}

fn exec(lab: &str, host: &str, command: &[OsString]) -> Result<ExitCode> {
    let record = existing(lab)?;
    let (program, args) = command.split_first().context("no command given")?;
    let status = record.host(host)?.try_command(program)?.args(args).status()?;

    Ok(exit(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn ls(json: bool) -> Result<()> {
    let hosts: Vec<_> = LabRecord::load_all()?.iter().flat_map(LabRecord::list).collect();
    if json {
        println!("{}", serde_json::to_string_pretty(&hosts)?);
    } else if hosts.is_empty() {
        println!("no lab is up: `overlay-lab up 2` makes one");
    } else {
        println!("{:<12} {:<8} {:<15} {:<22} {:<8} STATE", "LAB", "HOST", "IPV4", "IPV6", "PID");
        hosts.iter().for_each(|host| println!("{host}"));
    }

    Ok(())
}

fn down(lab: &str) -> Result<()> {
    let record = existing(lab)?;
    record.remove()?;

    state::clean()
}

fn existing(lab: &str) -> Result<LabRecord> {
    LabRecord::load(lab)?.with_context(|| format!("lab {lab} is not up: `overlay-lab up 2` makes one"))
}
