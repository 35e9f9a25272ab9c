//! Many networks at once, two of them with the same prefix: all work, and nothing crosses between
//! them.

use anyhow::{Context, Result, ensure};

use super::pair::Pair;
use crate::capture::Capture;
use crate::check::{Notes, PATIENCE};
use crate::docker::IMAGE;
use crate::wait_until;

/// The number of networks.
const NETWORKS: usize = 8;
/// The prefix of the first two.
const SHARED: &str = "10.77.0.0/16";
/// The start of every marker.
const MARKER: &str = "belongs-to-network-";

/// A network of the check.
struct Net {
    name: String,
    marker: String,
}

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    let nets = make(&pair)?;
    let captures = nets.iter().map(|net| capture(&pair, net)).collect::<Result<Vec<_>>>()?;
    inside(&pair, &nets, rounds, notes)?;
    across(&pair, &nets, notes)?;
    sealed(&nets, captures, notes)?;
    live(&pair, &nets, rounds, notes)?;

    pair.finish()
}

/// Makes the networks, a server for each on both hosts, and one container per host that is on
/// several.
fn make(pair: &Pair) -> Result<Vec<Net>> {
    let mut nets = Vec::new();
    for number in 0..NETWORKS {
        let net = Net { name: format!("net{number}"), marker: format!("{MARKER}{number}-only") };
        let shared = ["--ipam-driver", "overlay-wg", "--subnet", SHARED];
        let how: &[&str] = match number {
            0 | 1 => &shared,
            // The plain command on either host, with our own address management.
            2 | 3 | 6 => &[],
            _ => &shared[..2],
        };
        let host = number % 2;
        pair.create(host, &[how, &[net.name.as_str()]].concat())?;
        pair.wait_for_network(1 - host, &net.name)?;
        for host in [0, 1] {
            pair.serve(host, &net.name, &server(number, host))?;
        }
        nets.push(net);
    }
    for host in [0, 1] {
        let several = several(host);
        pair.serve(host, "net0", &several)?;
        // Not net1, because a container cannot be on two networks with the same prefix.
        for net in &nets[2..5] {
            pair.docker(host, &["network", "connect", &net.name, &several])?;
        }
    }

    Ok(nets)
}

fn server(number: usize, host: usize) -> String {
    format!("server{number}-{}", host + 1)
}

fn several(host: usize) -> String {
    format!("several{}", host + 1)
}

/// Captures on all links of a network's namespace on host1.
fn capture(pair: &Pair, net: &Net) -> Result<Capture> {
    let id = pair.cluster.ctl_json(0, &["network", "inspect", &net.name])?;
    let id = id["id"].as_str().context("a network has an id")?;
    let enter = format!("--net=/run/overlay/netns/ovn-{id}");
    let tool =
        pair.cluster.host(0).try_command("nsenter")?.args([&enter, "overlay-lab", "capture"]);

    Capture::start(tool.args(["--except", &net.marker]), Some(MARKER), None)
}

/// Sends a marker to a server and back.
fn echo(pair: &Pair, host: usize, from: &str, to: &str, marker: &str) -> Result<bool> {
    let url = format!("http://{to}:8080/echo");
    let post =
        ["exec", from, "curl", "-sS", "-m", "2", "--connect-timeout", "1", "-d", marker, &url];
    let output = pair.engines[host].docker(&post)?.output()?;

    Ok(output.status.success() && output.stdout.trim() == marker)
}

fn inside(pair: &Pair, nets: &[Net], rounds: u32, notes: &mut Notes) -> Result<()> {
    let mut calls = 0;
    for round in 0..rounds {
        for (number, net) in nets.iter().enumerate() {
            for host in [0, 1] {
                let (from, to) = (server(number, host), server(number, 1 - host));
                // The first one waits until the other host knows the containers.
                let works = || echo(pair, host, &from, &to, &net.marker).unwrap_or(false);
                let works = if round == 0 {
                    wait_until(PATIENCE, "an answer", works).is_ok()
                } else {
                    works()
                };
                ensure!(works, "{from} does not reach {to}");
                calls += 1;
            }
        }
    }
    for host in [0, 1] {
        for (number, net) in nets.iter().enumerate().take(5).filter(|(number, _)| *number != 1) {
            for to in [server(number, 0), server(number, 1)] {
                ensure!(
                    echo(pair, host, &several(host), &to, &net.marker)?,
                    "{} misses {to}",
                    several(host)
                );
                calls += 1;
            }
        }
    }
    notes.say(&format!(
        "{} networks, two of one prefix, {} containers: {calls} calls inside answered",
        nets.len(),
        nets.len() * 2 + 2
    ));

    Ok(())
}

/// Every server tries to reach those of every other network, by name and by address.
fn across(pair: &Pair, nets: &[Net], notes: &mut Notes) -> Result<()> {
    let mut calls = 0;
    for (number, net) in nets.iter().enumerate() {
        let mut script = String::new();
        for other in (0..nets.len()).filter(|other| *other != number) {
            for host in [0, 1] {
                let name = server(other, host);
                let format =
                    format!("{{{{(index .NetworkSettings.Networks \"net{other}\").IPAddress}}}}");
                let address = pair.docker(host, &["inspect", "-f", &format, &name])?;
                let own = pair.cluster.endpoints(0)?;
                let own = own.iter().any(|row| {
                    row["network"] == net.name.as_str() && row["addresses"][0] == address.as_str()
                });
                let targets = [Some(name), (!own).then_some(address)];
                for target in targets.into_iter().flatten() {
                    script.push_str(&format!(
                        "(curl -s -m 1 --connect-timeout 0.5 -d {} http://{target}:8080/echo >/dev/null && echo {target}) & ",
                        net.marker
                    ));
                    calls += 1;
                }
            }
        }
        let answered =
            pair.docker(0, &["exec", &server(number, 0), "sh", "-c", &format!("{script} wait")])?;
        ensure!(answered.is_empty(), "{} reaches another network's {answered}", server(number, 0));
    }
    notes.say(&format!("{calls} calls across networks: none answered"));

    Ok(())
}

fn sealed(nets: &[Net], captures: Vec<Capture>, notes: &mut Notes) -> Result<()> {
    let (mut own, mut foreign) = (0, 0);
    for (net, capture) in nets.iter().zip(captures) {
        let report = capture.stop()?;
        ensure!(report.is_complete() && report.excepted > 0, "{}: {report}", net.name);
        own += report.excepted;
        foreign += report.marked;
    }
    notes.say(&format!(
        "in the networks' namespaces: {own} frames of their own, {foreign} of others"
    ));
    ensure!(foreign == 0, "{foreign} frames are in a foreign network");

    Ok(())
}

/// A running container on three networks is connected to another one, with a fixed address and an
/// alias, and disconnected from it; then it is disconnected from one of its three and connected
/// again. Traffic on the others is not disturbed.
fn live(pair: &Pair, nets: &[Net], rounds: u32, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["--ipam-driver", "overlay-wg", "--subnet", "10.178.0.0/16", "late-net"])?;
    let target = |number: usize| {
        pair.docker(
            1,
            &[
                "inspect",
                "-f",
                "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}",
                &server(number, 1),
            ],
        )
    };
    let flows = [2, 3].map(|number| pair.flow(0, "several1", &target(number)?));
    for _ in 0..rounds {
        pair.docker(
            0,
            &[
                "network",
                "connect",
                "--alias",
                "late",
                "--ip",
                "10.178.2.2",
                "late-net",
                "several1",
            ],
        )?;
        let fetch = [
            "run",
            "--rm",
            "--network",
            "late-net",
            IMAGE,
            "curl",
            "-sS",
            "-m",
            "3",
            "http://late:8080/hello",
        ];
        wait_until(PATIENCE, "the alias is known", || pair.docker(1, &fetch).is_ok())?;
        pair.docker(0, &["network", "disconnect", "late-net", "several1"])?;
        let other = nets[4].name.as_str();
        pair.docker(0, &["network", "disconnect", other, "several1"])?;
        pair.docker(0, &["network", "connect", other, "several1"])?;
        let again = || echo(pair, 0, "several1", &server(4, 1), &nets[4].marker).unwrap_or(false);
        wait_until(PATIENCE, "the network is back", again)?;
    }
    let mut echoes = 0;
    for flow in flows {
        echoes += flow?.unbroken()?;
    }
    notes.say(&format!(
        "a running container connected to and disconnected from two networks {rounds} times each: {echoes} echoes in its others, 0 lost"
    ));

    Ok(())
}
