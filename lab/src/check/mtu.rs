//! Two hosts with a router between them whose MTU shrinks, that sends ICMP errors or does not, and
//! that changes under load.
//!
//! Each round is one underlay: IPv4 or IPv6, with a router that is silent or one that sends ICMP
//! errors.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use overlay_traffic::wait::rest;

use super::{Notes, ms};
use crate::capture::Capture;
use crate::cluster::Cluster;
use crate::command::{CommandOutput, HostCommand, Running};
use crate::lab::Lab;

/// The MTU of the hosts' own links.
const LINK: u32 = 9000;
/// The MTUs of the router, one after another. Each step affects paths that are in use.
const PATHS: [u32; 6] = [9000, 1500, 1420, 1300, 1280, 576];
/// The minimum MTU of IPv6.
const MIN_V6: u32 = 1280;
/// The MTUs during a transfer, including a growth that must not be noticed.
const CHANGES: [u32; 5] = [9000, 1500, 1280, 9000, 1300];
/// How many seconds each transfer takes.
const SECONDS: &str = "1.5";
/// The longest time without a byte.
const BAR: Duration = Duration::from_secs(1);
/// How long it may take until a path in use is found to have grown.
const GROWTH: Duration = Duration::from_secs(75);

/// The sending host and the receiving container.
const DIRECTIONS: [(usize, &str); 2] = [(0, "sink1"), (1, "sink0")];

/// The address family of the inner packets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

/// One kind of underlay.
struct Ground {
    is_v6: bool,
    is_mute: bool,
}

const GROUNDS: [Ground; 4] = [
    Ground { is_v6: false, is_mute: true },
    Ground { is_v6: true, is_mute: true },
    Ground { is_v6: false, is_mute: false },
    Ground { is_v6: true, is_mute: false },
];

pub(super) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let grounds = GROUNDS.iter().cycle().take(usize::try_from(rounds)?);
    for ground in grounds {
        let (family, router) = (
            if ground.is_v6 { "IPv6" } else { "IPv4" },
            if ground.is_mute { "silent" } else { "telling" },
        );
        notes.say(&format!("over {family}, {router} router"));
        ground.try_all(notes).with_context(|| format!("over {family}, {router} router"))?;
    }

    Ok(())
}

impl Ground {
    fn try_all(&self, notes: &mut Notes) -> Result<()> {
        let mut cluster = self.cluster()?;
        cluster.ctl(
            0,
            &["network", "create", "net", "--subnet", "10.64.0.0/16", "--subnet", "fd64::/64"],
        )?;
        let servers = Servers::start(&cluster)?;
        // The sessions from the agents' start have found the path through which control was
        // reached.
        set_path(&cluster, LINK)?;
        forget_sessions(&mut cluster)?;
        let captures: Vec<Capture> =
            (0..2).map(|host| cluster.lab().capture_link(host)).collect::<Result<_>>()?;

        for path in PATHS.into_iter().filter(|path| !self.is_v6 || *path >= MIN_V6) {
            set_path(&cluster, path)?;
            self.transfers(&cluster, path, notes).with_context(|| format!("path of {path}"))?;
        }
        self.growth(&cluster, notes)?;
        self.changes(&cluster, notes)?;
        set_path(&cluster, MIN_V6)?;
        forget_sessions(&mut cluster)?;
        notes.say("agents restarted, their sessions begin on a narrow path");
        self.transfers(&cluster, MIN_V6, notes).context("sessions that begin on a narrow path")?;

        for capture in captures {
            let report = capture.stop()?;
            notes.say(&format!("at the router: {report}"));
            ensure!(report.frames > 0 && report.is_complete(), "the recording has gaps: {report}");
            ensure!(report.fragments == 0, "FRAGMENTS BETWEEN THE HOSTS: {report}");
        }
        drop(servers);
        cluster.lab().mute_router(false)?;
        set_path(&cluster, LINK)?;
        cluster.finish()
    }

    fn cluster(&self) -> Result<Cluster> {
        let lab = Lab::builder(2).mtu(LINK).routed().start()?;
        lab.mute_router(self.is_mute)?;
        // Control is reached over the same narrow path.
        (0..2).try_for_each(|host| lab.set_path_mtu(host, MIN_V6))?;
        let addresses: Vec<IpAddr> =
            lab.hosts().iter().map(|host| self.address(host.plan())).collect::<Result<_>>()?;

        Cluster::advertising(lab, &addresses)
    }

    fn address(&self, plan: &crate::topology::HostPlan) -> Result<IpAddr> {
        plan.addresses()
            .find(|address| address.is_ipv6() == self.is_v6)
            .context("an address of the family")
    }

    /// Makes transfers over inner IPv4 and IPv6 in both directions over a path that has just become
    /// narrower: by TCP at once, and by UDP, which does not make room for others, one by one.
    fn transfers(&self, cluster: &Cluster, path: u32, notes: &mut Notes) -> Result<()> {
        let mut worst = Duration::ZERO;
        let ways = DIRECTIONS.map(|way| [Family::V4, Family::V6].map(|family| (way, family)));
        for (kind, at_once) in [("throughput", 4), ("datagrams", 1)] {
            for group in ways.as_flattened().chunks(at_once) {
                let mut running = Vec::new();
                for ((from, to), family) in group {
                    let address = address_of(cluster, &format!("{to}-{kind}"), *family)?;
                    let client = client(cluster, *from, kind, &address)?.spawn()?;
                    running.push((format!("{kind} to {address}"), client));
                }
                for (what, client) in running {
                    let pause = finished(client);
                    let pause = pause.with_context(|| format!("{what}: {}", peers(cluster)))?;
                    worst = worst.max(pause);
                }
            }
        }
        let expected = self.expected(path);
        for host in 0..2 {
            let known = known_mtu(cluster, host)?;
            ensure!(known == expected, "host {host} believes {known}, not {expected}");
        }

        notes.say(&format!(
            "path {path}: inner packets of {expected} bytes, longest pause {}",
            ms(worst)
        ));
        Ok(())
    }

    /// Checks that the tunnel's packets grow again once the path does.
    fn growth(&self, cluster: &Cluster, notes: &mut Notes) -> Result<()> {
        set_path(cluster, LINK)?;
        let start = Instant::now();
        loop {
            for (from, to) in DIRECTIONS {
                let to = address_of(cluster, &format!("{to}-throughput"), Family::V4)?;
                judged(&client(cluster, from, "throughput", &to)?.run()?)?;
            }
            let grown = (0..2).map(|host| known_mtu(cluster, host)).collect::<Result<Vec<_>>>()?;
            if grown == [self.expected(LINK); 2] {
                break;
            }
            ensure!(
                start.elapsed() < GROWTH,
                "the path is believed narrow for good: {}",
                peers(cluster)
            );
        }

        notes.say(&format!(
            "all of the path is in use again after {:.0} s",
            start.elapsed().as_secs_f64()
        ));
        Ok(())
    }

    /// Makes one transfer in each direction while the path changes.
    fn changes(&self, cluster: &Cluster, notes: &mut Notes) -> Result<()> {
        let kinds =
            [("throughput", 0, "sink1"), ("throughput", 1, "sink0"), ("datagrams", 0, "sink1")];
        let running: Vec<Running> = kinds
            .iter()
            .map(|(kind, from, to)| {
                let to = address_of(cluster, &format!("{to}-{kind}"), Family::V4)?;
                let name = format!("changes-{kind}-{from}");
                let command = cluster.container(*from, "net", &name)?;
                command.args(client_args(kind, &to, "12")).spawn()
            })
            .collect::<Result<_>>()?;
        for path in CHANGES {
            rest(Duration::from_secs(2));
            set_path(cluster, path)?;
        }
        let pauses = running.into_iter().map(finished).collect::<Result<Vec<_>>>()?;
        let words: Vec<_> = pauses.into_iter().map(ms).collect();

        notes.say(&format!(
            "path changed to {CHANGES:?} under load: longest pauses {}",
            words.join(", ")
        ));
        Ok(())
    }

    /// Returns the largest inner packet: what the outer headers leave, in multiples of the padding.
    fn expected(&self, path: u32) -> u64 {
        const WIREGUARD: u32 = 8 + 32;
        let header = |is_v6| if is_v6 { 40 } else { 20 };
        let tunnel = (LINK - header(true) - WIREGUARD) / 16 * 16;

        u64::from(((path - header(self.is_v6) - WIREGUARD) / 16 * 16).min(tunnel))
    }
}

/// The servers on each host.
struct Servers {
    _running: Vec<Running>,
}

impl Servers {
    fn start(cluster: &Cluster) -> Result<Self> {
        let mut running = Vec::new();
        for host in 0..2 {
            for (kind, listen) in [("throughput", "[::]:5201"), ("datagrams", "[::]:5202")] {
                let name = format!("sink{host}-{kind}");
                running.push(cluster.serve(
                    host,
                    "net",
                    &name,
                    &[kind, "serve", "--listen", listen],
                    "listening",
                )?);
            }
        }

        Ok(Self { _running: running })
    }
}

fn set_path(cluster: &Cluster, mtu: u32) -> Result<()> {
    (0..2).try_for_each(|host| cluster.lab().set_path_mtu(host, mtu))
}

fn forget_sessions(cluster: &mut Cluster) -> Result<()> {
    for host in 0..2 {
        let agent = cluster.agent(host)?;
        agent.kill()?;
        cluster.restart(&agent)?;
        cluster.wait_for_agent(host)?;
    }

    Ok(())
}

fn client_args(kind: &str, to: &str, seconds: &str) -> Vec<String> {
    let verify = (kind == "throughput").then_some("--verify");

    [kind, "client", "--json", "--seconds", seconds]
        .into_iter()
        .chain(verify)
        .chain([to])
        .map(str::to_owned)
        .collect()
}

fn client(cluster: &Cluster, from: usize, kind: &str, to: &str) -> Result<HostCommand> {
    let family = if to.contains(':') { 6 } else { 4 };
    let command = cluster.container(from, "net", &format!("load{from}-v{family}"))?;

    Ok(command.args(client_args(kind, to, SECONDS)))
}

/// Returns the address of a container that serves one kind of transfer.
fn address_of(cluster: &Cluster, name: &str, family: Family) -> Result<String> {
    let endpoints = cluster.ctl_json(0, &["endpoint", "ls"])?;
    let row = endpoints.as_array().and_then(|rows| rows.iter().find(|row| row["name"] == name));
    let addresses = row
        .and_then(|row| row["addresses"].as_array())
        .with_context(|| format!("{name} is not there"))?;
    let address = addresses
        .iter()
        .filter_map(|address| address.as_str())
        .find(|address| address.contains(':') == (family == Family::V6));
    let address = address.with_context(|| format!("{name} has no such address: {addresses:?}"))?;

    Ok(address.split('/').next().unwrap_or(address).to_owned())
}

fn finished(running: Running) -> Result<Duration> {
    judged(&running.wait(Duration::from_secs(60))?)
}

/// Returns how long a transfer paused, and checks that it was not too long.
fn judged(output: &CommandOutput) -> Result<Duration> {
    let summary: serde_json::Value = serde_json::from_str(&output.stdout)
        .with_context(|| format!("the transfer failed: {}", output.stderr))?;
    let pause = summary["longest_pause_ms"].as_f64().context("no pause")?;
    let pause = Duration::try_from_secs_f64(pause / 1000.0)?;

    ensure!(pause < BAR, "nothing arrived for {}: {summary}", ms(pause));
    Ok(pause)
}

fn known_mtu(cluster: &Cluster, host: usize) -> Result<u64> {
    let peers = cluster.ctl_json(host, &["peers"])?;
    let rows = peers.as_array().context("no list")?;
    let known = rows
        .iter()
        .filter(|row| row["mtu_source"] != "unprobed")
        .filter_map(|row| row["mtu"].as_u64());

    known.min().context("nothing is known of the path")
}

fn peers(cluster: &Cluster) -> String {
    let of = |host| {
        cluster
            .ctl(host, &["peers", "--lanes"])
            .map_or_else(|error| error.to_string(), |output| output.stdout)
    };

    format!("{}\n{}", of(0), of(1))
}
