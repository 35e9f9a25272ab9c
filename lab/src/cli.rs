//! The command line of `overlay-lab`.

mod tool;

use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

use self::tool::Tool;
use crate::check::{CHECKS, Check};
use crate::docker::{DockerDaemon, Image, Release};
use crate::lab::Lab;
use crate::state::{self, LabRecord};
use crate::{bench, demo, enter, host_init, supervisor};

const EXAMPLES: &str = "Examples:
  overlay-lab demo                          show all of Overlay on two hosts, in half a minute
  overlay-lab up 3                          three hosts that stay
  overlay-lab exec host1 -- overlayctl init
  overlay-lab exec host2 -- bash            a shell on host2
  overlay-lab down

Inside hosts and containers, where nothing else may be installed, these help:
  serve-http, fetch, ping, throughput, capture   (each has --help)";

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
    #[command(
        after_help = "Example:\n  overlay-lab up 2 && overlay-lab exec host1 -- overlay-lab ping host2"
    )]
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
        enter::COMMAND => Some(
            enter::run(&args[2..]).map_or_else(|error| Ok(complain(&error)), |code| Ok(exit(code))),
        ),
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
        Command::Demo(options) => {
            return Ok(if demo::run(&options)? { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Up(options) => up(&options)?,
        Command::Exec { lab, host, command } => return exec(&lab.name, &host, &command),
        Command::Ls { json } => ls(json)?,
        Command::Down { lab } => down(&lab.name)?,
        Command::Check { name, rounds, engine, stage } => {
            check(name.as_deref(), rounds, &engine, &stage)?
        }
        Command::Bench(options) => bench::run(&options)?,
        Command::Tool(tool) => tool.run()?,
    }

    Ok(ExitCode::SUCCESS)
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn up(options: &Up) -> Result<()> {
    if let (true, Some(program)) = (options.docker, DockerDaemon::missing_program()) {
        bail!(
            "--docker takes Debian's docker.io, busybox-static and curl: {program} is not installed"
        );
    }
    state::clean()?;
    if LabRecord::load(&options.lab.name)?.is_some() {
        bail!(
            "lab {0} is up already: `overlay-lab down --lab {0}` takes it down",
            options.lab.name
        );
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
fn check(
    name: Option<&str>,
    rounds: Option<u32>,
    engines: &[Release],
    stages: &[String],
) -> Result<()> {
    let Some(name) = name else {
        for check in CHECKS {
            println!("{:<16} {} ({} rounds)", check.name, check.what, check.rounds);
            if !check.stages().is_empty() {
                println!("{:<16} stages: {}", "", check.stages().join(", "));
            }
        }
        return Ok(());
    };
    let check = Check::find(name)
        .with_context(|| format!("there is no check {name}: `overlay-lab check` lists them"))?;
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
    LabRecord::load(lab)?
        .with_context(|| format!("lab {lab} is not up: `overlay-lab up 2` makes one"))
}
