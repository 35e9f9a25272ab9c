//! Docker networks across hosts: on two real engines, with the commands that people type.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::pair::Pair;
use crate::check::{Notes, PATIENCE, ms, percentile};
use crate::docker::IMAGE;
use crate::wait_until;

/// How soon another host must know of a change.
const SOON: Duration = Duration::from_secs(1);

/// The commands of the first hour, as in the README: the host, and what is typed there.
pub const FIRST_HOUR: [(usize, &str); 4] = [
    (0, "docker network create -d overlay-wg my-network"),
    (1, "docker run -d --name service2 --network my-network my-image"),
    (0, "docker run -d --name service1 --network my-network my-image"),
    (0, "docker exec service1 curl http://service2:8080/hello"),
];

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    first_hour(&pair, notes)?;
    one_line(&pair, rounds, notes)?;
    latencies(&pair, rounds.div_ceil(2), notes)?;
    equal_prefixes(&pair, notes)?;
    live(&pair, notes)?;
    dual_stack(&pair, notes)?;
    compose(&pair, notes)?;

    pair.finish()
}

/// The commands, exactly, in both directions.
fn first_hour(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let type_in = |(host, line): (usize, &str)| {
        let words: Vec<_> = line.split(' ').skip(1).collect();
        pair.docker(host, &words)
    };
    let [create, service2, service1, fetch] = FIRST_HOUR;
    type_in(create)?;
    let waited = pair.wait_for_network(1, "my-network")?;
    type_in(service2)?;
    type_in(service1)?;
    let answer = type_in(fetch)?;
    ensure!(answer.starts_with("hello from "), "service2 said {answer:?}");
    let back = pair.fetch(1, "service2", "http://service1.my-network:8080/hello")?;
    ensure!(back.starts_with("hello from ") && back != answer, "service1 said {back:?}");
    notes.say(&format!("made on host1, there on host2 after {}; {answer}, {back}", ms(waited)));

    Ok(())
}

/// `network create && run` in one line.
fn one_line(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    for round in 0..rounds {
        let host = usize::try_from(round % 2)?;
        let script = format!(
            "docker network create -d overlay-wg line{round} && docker run --rm --network line{round} {IMAGE} true && \
             docker network rm line{round}"
        );
        pair.engines[host]
            .shell(&script)?
            .deadline(PATIENCE)
            .run()
            .with_context(|| format!("round {round}"))?;
    }
    notes.say(&format!("network create && run in one line: {rounds} of {rounds}"));

    Ok(())
}

/// How soon the other host knows of networks, names, aliases, and their removal.
fn latencies(pair: &Pair, rounds: u32, notes: &mut Notes) -> Result<()> {
    let (mut usable, mut named, mut renamed, mut gone) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let knows = |name: &str| {
        let found =
            pair.engines[0].docker(&["exec", "service1", "nslookup", "-type=a", name])?.output()?;
        Ok::<_, anyhow::Error>(
            found.stdout.lines().any(|line| line.trim_start().starts_with("Name:")),
        )
    };
    let until = |name: &str, wanted: bool| {
        wait_until(PATIENCE, name, || {
            pair.cluster.ctl_json(0, &["endpoint", "ls"]).is_ok_and(|list| {
                // A killed container keeps its name, but has no address.
                let runs = |row: &serde_json::Value| {
                    row["name"] == name && row["addresses"][0].is_string()
                };
                list.as_array().is_some_and(|rows| rows.iter().any(runs)) == wanted
            })
        })
    };
    for round in 0..rounds {
        let network = format!("soon{round}");
        pair.docker(0, &["network", "create", "-d", "overlay-wg", &network])?;
        usable.push(pair.wait_for_network(1, &network)?);
        pair.docker(0, &["network", "rm", &network])?;
        let (name, other) = (format!("soon{round}"), format!("other{round}"));
        pair.docker(1, &["run", "-d", "--name", &name, "--network", "my-network", IMAGE])?;
        named.push(until(&name, true)?);
        ensure!(knows(&name)?, "{name} is listed and not found");
        pair.docker(1, &["rename", &name, &other])?;
        renamed.push(until(&other, true)?);
        pair.docker(1, &["kill", &other])?;
        gone.push(until(&other, false)?);
        pair.docker(1, &["rm", &other])?;
    }
    let all = [("network", usable), ("name", named), ("rename", renamed), ("end of a name", gone)];
    for (what, times) in all {
        let slow = percentile(&times, 95);
        notes.say(&format!("{what} known to the other host: p95 {} of {rounds}", ms(slow)));
        ensure!(slow <= SOON, "{what}: p95 {} is past {}", ms(slow), ms(SOON));
    }

    Ok(())
}

/// Two networks with the same prefix on the same hosts: each request reaches its own.
fn equal_prefixes(pair: &Pair, notes: &mut Notes) -> Result<()> {
    for network in ["red", "blue"] {
        let ipam = ["--ipam-driver", "overlay-wg", "--subnet", "10.77.0.0/16"];
        pair.docker(
            0,
            &[&["network", "create", "-d", "overlay-wg"], ipam.as_slice(), &[network]].concat(),
        )?;
        pair.wait_for_network(1, network)?;
        let name = format!("{network}-server");
        pair.docker(
            1,
            &["run", "-d", "--name", &name, "--network", network, "--ip", "10.77.3.3", IMAGE],
        )?;
    }
    let mut answers = Vec::new();
    for network in ["red", "blue"] {
        let fetch = [
            "run",
            "--rm",
            "--network",
            network,
            IMAGE,
            "curl",
            "-sS",
            "-m",
            "5",
            "http://10.77.3.3:8080/hello",
        ];
        answers.push(pair.docker(0, &fetch)?);
        let other = if network == "red" { "blue-server" } else { "red-server" };
        let url = format!("http://{other}:8080/hello");
        let foreign = ["run", "--rm", "--network", network, IMAGE, "curl", "-sS", "-m", "1", &url];
        ensure!(
            !pair.engines[0].docker(&foreign)?.output()?.status.success(),
            "{other} is reached from {network}"
        );
    }
    ensure!(answers[0] != answers[1], "both networks answer alike: {answers:?}");
    notes.say("two networks of one prefix, one address: each has its own server, neither knows the other's names");

    Ok(())
}

/// A running container is connected to a network and disconnected from it, while another network
/// goes on.
fn live(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let start = Instant::now();
    pair.docker(
        0,
        &[
            "network",
            "create",
            "-d",
            "overlay-wg",
            "--ipam-driver",
            "overlay-wg",
            "--subnet",
            "10.78.0.0/16",
            "late-net",
        ],
    )?;
    pair.wait_for_network(1, "late-net")?;
    pair.docker(
        1,
        &["network", "connect", "--alias", "late", "--ip", "10.78.2.2", "late-net", "service2"],
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
        "5",
        "http://late:8080/hello",
    ];
    wait_until(PATIENCE, "the alias is known", || pair.docker(0, &fetch).is_ok())?;
    pair.docker(1, &["network", "disconnect", "late-net", "service2"])?;
    pair.fetch(0, "service1", "http://service2:8080/hello")
        .context("another network of the container was touched")?;
    notes.say(&format!(
        "connect --alias --ip, then disconnect, of a running container: {}",
        ms(start.elapsed())
    ));

    Ok(())
}

/// The compose file of the examples: a service on each host, and one `driver:` line.
fn compose(pair: &Pair, notes: &mut Notes) -> Result<()> {
    const FILE: &str = include_str!("../../../../examples/docker/compose.yaml");
    const PROGRAM: &str = "docker-compose";
    if !std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|path| path.join(PROGRAM).exists())
    {
        notes.say("docker-compose is not installed: the compose file was NOT tried");
        return Ok(());
    }
    for (host, service) in [(0, "service1"), (1, "service2")] {
        let on = pair.engines[host].host();
        on.write("/run/compose.yaml", FILE)?;
        let up = ["-p", "demo", "-f", "/run/compose.yaml", "up", "-d", service];
        let compose =
            on.try_command(PROGRAM)?.env("DOCKER_HOST", "unix:///run/docker.sock").args(up);
        compose.deadline(PATIENCE).run()?;
        if host == 0 {
            pair.wait_for_network(1, "demo_shared")?;
        }
    }
    let answer = pair.fetch(0, "demo_service1_1", "http://service2:8080/hello")?;
    ensure!(answer.starts_with("hello from "), "service2 said {answer:?}");
    for (host, service) in [(0, "demo_service1_1"), (1, "demo_service2_1")] {
        pair.docker(host, &["rm", "-f", service])?;
        pair.engines[host].host().try_command("rm")?.arg("/run/compose.yaml").run()?;
    }
    notes.say("a compose project of two services over two hosts, with one driver: line");

    Ok(())
}

fn dual_stack(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let subnets = ["--subnet", "10.79.0.0/16", "--subnet", "fd79::/64"];
    for (ipam, network) in [(vec![], "plain6"), (vec!["--ipam-driver", "overlay-wg"], "ours6")] {
        pair.docker(
            0,
            &[
                &["network", "create", "-d", "overlay-wg", "--ipv6"],
                ipam.as_slice(),
                &subnets,
                &[network],
            ]
            .concat(),
        )?;
        pair.wait_for_network(1, network)?;
        let listen = ["/bin/overlay-lab", "serve-http", "--listen", "[::]:8080"];
        for (host, name) in [(0, format!("{network}-a")), (1, format!("{network}-b"))] {
            let run = ["run", "-d", "--name", &name, "--network", network, IMAGE];
            pair.docker(host, &[run.as_slice(), &listen].concat())?;
        }
        for (host, from, to) in [(0, "a", "b"), (1, "b", "a")] {
            let (from, url) =
                (format!("{network}-{from}"), format!("http://{network}-{to}:8080/hello"));
            for family in ["-4", "-6"] {
                pair.docker(host, &["exec", &from, "curl", family, "-sS", "-m", "5", &url])?;
            }
        }
        pair.docker(0, &["rm", "-f", &format!("{network}-a")])?;
        pair.docker(1, &["rm", "-f", &format!("{network}-b")])?;
        pair.docker(0, &["network", "rm", network])?;
    }
    notes.say("IPv4 and IPv6, both ways, with Docker's addresses and with ours");

    Ok(())
}
