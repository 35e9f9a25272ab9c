//! A network made on one host has all its settings on the other.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::pair::Pair;
use crate::check::{Notes, PATIENCE};
use crate::docker::IMAGE;
use crate::wait_until;

pub(in crate::check) fn run(_: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    options(&pair, notes)?;
    honoured(&pair, notes)?;
    any_title(&pair, notes)?;
    both_ways(&pair, notes)?;
    adoption(&pair, notes)?;
    taken(&pair, notes)?;
    fixed_addresses(&pair, notes)?;
    numbered_elsewhere(&pair, notes)?;
    on_both(&pair, notes)?;
    plain_prefixes(&pair, notes)?;
    prune(&pair, notes)?;

    pair.finish()
}

fn inspect(pair: &Pair, host: usize, name: &str) -> Result<Value> {
    let text = pair.docker(host, &["network", "inspect", name])?;
    let all: Value = serde_json::from_str(&text).context("network inspect prints JSON")?;

    Ok(all[0].clone())
}

/// Returns the settings that must be equal on both hosts.
fn settings(network: &Value, gateways: bool) -> BTreeMap<&'static str, Value> {
    let mut config = network["IPAM"]["Config"].as_array().cloned().unwrap_or_default();
    // Docker writes a field without a value as empty or not at all.
    for part in config.iter_mut().filter_map(Value::as_object_mut) {
        part.retain(|_, value| {
            value.as_str() != Some("") && value.as_object().is_none_or(|map| !map.is_empty())
        });
        if !gateways {
            part.remove("Gateway");
        }
    }
    let part = |key: &'static str| (key, network[key].clone());

    BTreeMap::from([
        part("Internal"),
        part("EnableIPv6"),
        part("Options"),
        part("Labels"),
        ("Config", config.into()),
    ])
}

fn equal(pair: &Pair, name: &str) -> Result<()> {
    let (one, other) = (inspect(pair, 0, name)?, inspect(pair, 1, name)?);
    // A gateway that was not given is not shown where the network was made.
    let gateways =
        [&one, &other].iter().all(|network| !network["IPAM"]["Config"][0]["Gateway"].is_null());
    ensure!(
        settings(&one, gateways) == settings(&other, gateways),
        "{name} differs:\n{one:#}\n{other:#}"
    );

    Ok(())
}

fn options(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let all: [&[&str]; 5] = [
        &["plain"],
        &[
            "--label",
            "team=store",
            "--label",
            "empty=",
            "-o",
            "com.docker.network.driver.mtu=1300",
            "labelled",
        ],
        &[
            "--subnet",
            "10.80.0.0/16",
            "--gateway",
            "10.80.9.9",
            "--ip-range",
            "10.80.4.0/24",
            "--aux-address",
            "router=10.80.4.7",
            "ranged",
        ],
        &[
            "--ipam-driver",
            "overlay-wg",
            "--subnet",
            "10.81.0.0/16",
            "--gateway",
            "10.81.0.77",
            "--internal",
            "inner",
        ],
        &[
            "--ipam-driver",
            "overlay-wg",
            "--ipv6",
            "--subnet",
            "10.82.0.0/16",
            "--subnet",
            "fd82::/64",
            "six",
        ],
    ];
    for args in all {
        let name = args.last().copied().unwrap_or_default();
        pair.create_on_both(args)?;
        equal(pair, name)?;
        for host in [0, 1] {
            pair.docker(host, &["run", "--rm", "--network", name, IMAGE, "true"])?;
        }
    }
    let ranged =
        pair.docker(1, &["run", "--rm", "--network", "ranged", IMAGE, "ip", "-4", "addr"])?;
    ensure!(ranged.contains("inet 10.80.4."), "not in --ip-range: {ranged}");
    for (host, args) in all.iter().enumerate() {
        let (host, name) = (host % 2, args.last().copied().unwrap_or_default());
        pair.docker(host, &["network", "rm", name])?;
        pair.wait_for_removal(1 - host, name)?;
    }
    notes.say("labels, -o, --subnet, --gateway, --ip-range, --aux-address, --internal, --ipv6 are alike on both hosts; removed on either, gone on both");

    Ok(())
}

/// Known options take effect on all hosts; others are refused by name.
fn honoured(pair: &Pair, notes: &mut Notes) -> Result<()> {
    const IFNAME: &str = "com.docker.network.endpoint.ifname";
    pair.create_on_both(&["-o", "com.docker.network.driver.mtu=1300", "narrow"])?;
    for host in [0, 1] {
        let network = format!("name=narrow,driver-opt={IFNAME}=web0");
        let run = ["run", "--rm", "--network", &network, IMAGE, "cat", "/sys/class/net/web0/mtu"];
        let mtu = pair.docker(host, &run)?;
        ensure!(mtu == "1300", "the MTU of web0 on host{} is {mtu}", host + 1);
    }
    let mut told = Vec::new();
    let create = ["network", "create", "-d", "overlay-wg", "-o"];
    for (option, word) in [
        ("no.such.option=x", "no.such.option"),
        ("com.docker.network.driver.mtu=big", "mtu=big"),
        ("com.docker.network.bridge.name=br7", "bridge.name"),
        ("nodes=role=", "nodes: at character 6"),
        ("lease=9s", "lease: write a lease as a time from 10s to 30d"),
        ("nodes=no-such-label", "does not match the labels of this node"),
    ] {
        let said = pair.refused(0, &[&create, [option, "refused"].as_slice()].concat())?;
        ensure!(said.contains(word), "{option} is refused by other words: {said}");
        told.push(said.trim().to_owned());
    }
    let said = pair.refused(
        0,
        &["run", "--rm", "--network", "name=narrow,driver-opt=no.such=x", IMAGE, "true"],
    )?;
    ensure!(said.contains("no.such") && said.contains(IFNAME), "{said}");
    pair.docker(1, &["network", "rm", "narrow"])?;
    pair.wait_for_removal(0, "narrow")?;
    notes.say(&format!(
        "an MTU and an interface's name are honoured on both hosts; refused: {}",
        told[0]
    ));

    Ok(())
}

/// Whatever Docker accepts as a network name works on all hosts.
fn any_title(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["my net"])?;
    for host in [0, 1] {
        pair.docker(host, &["run", "--rm", "--network", "my net", IMAGE, "true"])?;
    }
    pair.docker(1, &["network", "rm", "my net"])?;
    pair.wait_for_removal(0, "my net")?;
    notes.say("a network called \"my net\" is on both hosts by that name");

    Ok(())
}

/// A fixed address on a host whose engine does not assign the network's addresses must come from
/// this host's block, which the error names.
fn numbered_elsewhere(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["--subnet", "10.89.0.0/16", "numbered"])?;
    let run = |address: &str| {
        ["run", "--rm", "--network", "numbered", "--ip", address, IMAGE, "true"].map(str::to_owned)
    };
    let run = |host: usize, address: &str| {
        pair.engines[host].docker(&run(address).each_ref().map(String::as_str))?.output()
    };
    let said = run(1, "10.89.7.7")?.stderr;
    ensure!(
        said.contains("host1") && said.contains("--ipam-driver overlay-wg"),
        "the error names no remedy: {said}"
    );
    let block =
        said.split("choose an --ip of ").nth(1).and_then(|rest| rest.split(['/', ',', ';']).next());
    let first: std::net::Ipv4Addr =
        block.context("the refusal names no block")?.parse().context("a block")?;
    let within = std::net::Ipv4Addr::from_bits(first.to_bits() + 77).to_string();
    let given = run(1, &within)?;
    ensure!(given.status.success(), "{within} of the block is refused: {}", given.stderr);
    ensure!(run(0, "10.89.7.7")?.status.success(), "where Docker numbers, any address is given");
    pair.docker(0, &["network", "rm", "numbered"])?;
    pair.wait_for_removal(1, "numbered")?;
    notes.say(&format!(
        "--ip where another host's engine numbers: {}",
        said.lines().next().unwrap_or_default()
    ));

    Ok(())
}

/// A host has a bridge on an overlay network's prefix: a container cannot be on both, and the error
/// says so.
fn on_both(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["--ipam-driver", "overlay-wg", "--subnet", "10.90.0.0/16", "shared"])?;
    pair.docker(1, &["network", "create", "--subnet", "10.90.0.0/16", "same"])?;
    pair.serve(1, "same", "on-both")?;
    let said = pair.refused(1, &["network", "connect", "shared", "on-both"])?;
    ensure!(
        said.contains("no container can be on both") && said.contains("10.90.0.0/16"),
        "{said}"
    );
    pair.docker(1, &["rm", "-f", "on-both"])?;
    pair.docker(1, &["network", "rm", "same"])?;
    pair.docker(1, &["network", "rm", "shared"])?;
    pair.wait_for_removal(0, "shared")?;
    notes.say(&format!("on a bridge and a network of one prefix: {}", said.trim()));

    Ok(())
}

/// A network made with `overlayctl` is available in Docker, and the other way round.
fn both_ways(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.cluster.ctl(
        1,
        &["network", "create", "from-ctl", "--subnet", "10.83.0.0/16", "--label", "made=here"],
    )?;
    for host in [0, 1] {
        pair.wait_for_network(host, "from-ctl")?;
    }
    equal(pair, "from-ctl")?;
    pair.serve(0, "from-ctl", "served")?;
    let listed = || pair.cluster.lists(0, "served");
    wait_until(PATIENCE, "the container is listed", listed)?;
    let fetch = ["fetch", "http://served.from-ctl:8080/hello"];
    pair.cluster.container(1, "from-ctl", "no-container")?.args(fetch).run()?;
    let refused = pair
        .cluster
        .host(0)
        .try_command("overlayctl")?
        .args(["network", "rm", "from-ctl"])
        .output()?;
    ensure!(
        !refused.status.success() && refused.stderr.contains("served"),
        "in use: {}",
        refused.stderr
    );
    pair.docker(0, &["rm", "-f", "served"])?;
    let removed = || pair.cluster.ctl(0, &["network", "rm", "from-ctl"]).is_ok();
    wait_until(PATIENCE, "the network can be removed", removed)?;
    for host in [0, 1] {
        pair.wait_for_removal(host, "from-ctl")?;
    }
    notes.say("a network of overlayctl is on both engines, reached from outside of Docker, refused while in use, and goes everywhere");

    Ok(())
}

/// The same network, made by hand on both hosts at the same time, is one network.
fn adoption(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let ipam = [
        "network",
        "create",
        "-d",
        "overlay-wg",
        "--ipam-driver",
        "overlay-wg",
        "--subnet",
        "10.84.0.0/16",
        "by-hand",
    ];
    let both = [pair.engines[0].docker(&ipam)?.spawn()?, pair.engines[1].docker(&ipam)?.spawn()?];
    for made in both {
        // The slower host may find the network there already, which is as good.
        made.wait(PATIENCE)?;
    }
    pair.serve(0, "by-hand", "hand1")?;
    pair.serve(1, "by-hand", "hand2")?;
    pair.reaches(0, "hand1", "hand2")?;
    pair.reaches(1, "hand2", "hand1")?;
    let list = pair.cluster.ctl_json(0, &["network", "ls"])?;
    let known =
        list.as_array().map(|rows| rows.iter().filter(|row| row["name"] == "by-hand").count());
    ensure!(known == Some(1), "one network: {list}");
    for (host, name) in [(0, "hand1"), (1, "hand2")] {
        pair.docker(host, &["rm", "-f", name])?;
    }
    pair.docker(0, &["network", "rm", "by-hand"])?;
    pair.wait_for_removal(1, "by-hand")?;
    notes.say("made by hand on both hosts at once, it is one network");

    Ok(())
}

/// A prefix that a host uses itself is refused; the error gives the host, what uses it, and a
/// command that works.
fn taken(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.docker(1, &["network", "create", "--subnet", "10.85.0.0/16", "a-bridge"])?;
    let create = ["network", "create", "-d", "overlay-wg", "--subnet", "10.85.0.0/16", "taken"];
    let (mut said, mut removed) = (String::new(), Ok(String::new()));
    let refuses = || match pair.refused(0, &create) {
        Ok(text) => {
            said = text;
            true
        }
        // Host1 does not know it yet.
        Err(_) => {
            removed = pair.docker(0, &["network", "rm", "taken"]);
            removed.is_err()
        }
    };
    wait_until(PATIENCE, "the prefix is refused", refuses)?;
    removed?;
    ensure!(
        said.contains("10.85.0.0/16") && said.contains("host2"),
        "the refusal names neither prefix nor host: {said}"
    );
    let advice =
        said.split("use: docker ").nth(1).context("the error names no command that works")?;
    let advice = advice.trim().trim_end_matches('"').replace("NAME", "free");
    pair.docker(0, &advice.split_whitespace().collect::<Vec<_>>()).context("the advice")?;
    pair.wait_for_network(1, "free")?;
    pair.docker(0, &["network", "rm", "free"])?;
    pair.docker(1, &["network", "rm", "a-bridge"])?;
    notes.say(&format!("refused: {}", said.trim()));

    Ok(())
}

/// `--ip` and `--ip6`: assigned, and refused if the other host has assigned them.
fn fixed_addresses(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&[
        "--ipam-driver",
        "overlay-wg",
        "--ipv6",
        "--subnet",
        "10.86.0.0/16",
        "--subnet",
        "fd86::/64",
        "fixed",
    ])?;
    let run = |name| {
        [
            "run",
            "-d",
            "--name",
            name,
            "--network",
            "fixed",
            "--ip",
            "10.86.7.7",
            "--ip6",
            "fd86::77",
            IMAGE,
        ]
    };
    pair.docker(0, &run("first"))?;
    let said = pair.refused(1, &run("second"))?;
    ensure!(said.contains("10.86.7.7") && said.contains("taken"), "not told: {said}");
    pair.docker(1, &["rm", "-f", "second"])?;
    let shown = pair.docker(0, &["exec", "first", "ip", "addr"])?;
    ensure!(shown.contains("10.86.7.7/32") && shown.contains("fd86::77/128"), "{shown}");
    pair.docker(0, &["rm", "-f", "first"])?;
    wait_until(PATIENCE, "the address is free again", || {
        pair.docker(1, &run("second")).is_ok() || {
            let _ = pair.docker(1, &["rm", "-f", "second"]);
            false
        }
    })?;
    pair.docker(1, &["rm", "-f", "second"])?;
    pair.docker(1, &["network", "rm", "fixed"])?;
    pair.wait_for_removal(0, "fixed")?;
    notes.say(&format!(
        "--ip and --ip6 are given, and refused on the other host: {}",
        said.lines().next().unwrap_or_default()
    ));

    Ok(())
}

/// Networks made by the plain command on alternating hosts never get the same prefix, so that a
/// container can be on all of them.
fn plain_prefixes(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let names: Vec<_> = (0..6).map(|number| format!("plain{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let host = number % 2;
        pair.create(host, &[name])?;
        pair.wait_for_network(1 - host, name)?;
        // The next prefix that Docker chooses itself must not overlap either.
        let bridge = format!("bridge{number}");
        pair.docker(1 - host, &["network", "create", &bridge])?;
    }
    for host in [0, 1] {
        pair.serve(host, &names[0], "everywhere")?;
        for name in &names[1..] {
            pair.docker(host, &["network", "connect", name, "everywhere"])?;
        }
        for number in (0..6).filter(|number| number % 2 != host) {
            pair.docker(host, &["network", "connect", &format!("bridge{number}"), "everywhere"])?;
        }
    }
    for host in [0, 1] {
        pair.docker(host, &["rm", "-f", "everywhere"])?;
        for number in (0..6).filter(|number| number % 2 != host) {
            pair.docker(host, &["network", "rm", &format!("bridge{number}")])?;
        }
    }
    for (number, name) in names.iter().enumerate() {
        pair.docker(number % 2, &["network", "rm", name])?;
        pair.wait_for_removal(1 - number % 2, name)?;
    }
    notes.say(
        "six networks by the plain command on alternate hosts, and Docker's own beside them: one container is on all",
    );

    Ok(())
}

/// `network prune` removes networks that no host uses, and no others for long.
fn prune(pair: &Pair, notes: &mut Notes) -> Result<()> {
    for name in ["used", "unused"] {
        pair.create_on_both(&[name])?;
    }
    pair.serve(1, "used", "user")?;
    let listed = || pair.cluster.lists(0, "user");
    wait_until(PATIENCE, "the container is listed", listed)?;
    let flow_target = pair.cluster.address_of(0, "user")?;
    pair.docker(0, &["network", "prune", "-f"])?;
    pair.wait_for_removal(1, "unused")?;
    pair.wait_for_network(0, "used")?;
    pair.serve(0, "used", "second-user")?;
    pair.reaches(0, "second-user", &flow_target)?;
    for (host, name) in [(0, "second-user"), (1, "user")] {
        pair.docker(host, &["rm", "-f", name])?;
    }
    notes.say("network prune removes what nobody uses on any host; what is in use elsewhere is back at once");

    Ok(())
}
