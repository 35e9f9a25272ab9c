//! Containers are found by all their names from all hosts, and by no other name.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};

use super::pair::Pair;
use crate::check::{Notes, PATIENCE};
use crate::docker::IMAGE;
use crate::wait_until;

/// A name that only Docker's own resolver can forward, to the host's name server.
const ELSEWHERE: &str = "elsewhere.example";

pub(in crate::check) fn run(_: u32, notes: &mut Notes) -> Result<()> {
    let mut pair = Pair::new(notes, false)?;
    pair.create_on_both(&["net"])?;
    pair.create_on_both(&["--ipv6", "--subnet", "10.79.0.0/16", "--subnet", "fd79::/64", "six"])?;
    pair.serve(0, "net", "asker")?;
    pair.docker(0, &["network", "connect", "six", "asker"])?;
    every_name(&pair, notes)?;
    several_labels(&pair, notes)?;
    families(&pair, notes)?;
    replicas(&pair, notes)?;
    scopes(&pair, notes)?;
    holders(&pair, notes)?;
    replicas_of_compose(&pair, notes)?;
    changes(&pair, notes)?;
    unknown(&pair, notes)?;
    agent_dies(&mut pair, notes)?;

    pair.finish()
}

/// Returns what a container finds for a name: addresses of one family, over UDP or TCP.
fn dig(pair: &Pair, host: usize, from: &str, words: &[&str]) -> Result<BTreeSet<String>> {
    let enter = format!("--net={}", pair.namespace(host, from)?);
    let dig = ["dig", "+short", "+time=1", "+tries=1", "@127.0.0.11"];
    let output = pair
        .cluster
        .host(host)
        .try_command("nsenter")?
        .arg(enter)
        .args(dig)
        .args(words)
        .output()?;

    Ok(output.stdout.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect())
}

fn finds(pair: &Pair, words: &[&str], expected: &[&str]) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|&text| text.to_owned()).collect();
    let found = || dig(pair, 0, "asker", words).unwrap_or_default();
    wait_until(PATIENCE, "a name", || found() == expected)
        .map(drop)
        .with_context(|| format!("{}: {:?} instead of {expected:?}", words.join(" "), found()))
}

fn every_name(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let run = [
        "run",
        "-d",
        "--name",
        "named",
        "--network",
        "net",
        "--network-alias",
        "alias1",
        "--network-alias",
        "alias2",
        IMAGE,
    ];
    let id = pair.docker(1, &run)?;
    let short = id.get(..12).context("an id")?;
    let format = "{{.NetworkSettings.Networks.net.IPAddress}}";
    let address = pair.docker(1, &["inspect", "-f", format, "named"])?;
    for name in ["named", "alias1", "alias2", short, "named.net", "alias1.net", "NaMeD"] {
        finds(pair, &["A", name], &[&address])?;
        finds(pair, &["+tcp", "A", name], &[&address])?;
    }
    finds(pair, &["-x", &address], &["named.net."])?;
    finds(pair, &["+tcp", "-x", &address], &["named.net."])?;
    notes
        .say("name, two aliases, short id, name.network, capital letters, and back from the address: over UDP and TCP");

    Ok(())
}

/// Names with dots are found from both hosts; what cannot be a name is reported.
fn several_labels(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let aliases = ["--network-alias", "db.internal", "--network-alias", "no-name-"];
    pair.docker(
        1,
        &[&["run", "-d", "--name", "my.app", "--network", "net"], aliases.as_slice(), &[IMAGE]]
            .concat(),
    )?;
    let address = pair
        .docker(1, &["inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", "my.app"])?;
    for name in ["my.app", "db.internal", "my.app.net", "db.internal.net"] {
        finds(pair, &["A", name], &[&address])?;
    }
    let found = dig(pair, 1, "my.app", &["A", "db.internal"])?;
    ensure!(found == [address].into(), "asked on its own host: {found:?}");
    let problem = || {
        let status = pair.cluster.ctl_json(1, &["status"]).unwrap_or_default();
        status.to_string().contains("no-name-")
    };
    wait_until(PATIENCE, "the alias that is no valid name is a problem", problem)?;
    pair.docker(1, &["rm", "-f", "my.app"])?;
    wait_until(PATIENCE, "the problem goes with the container", || !problem())?;
    notes
        .say("names and aliases with dots are found from both hosts; one that is no valid name is a problem in status");

    Ok(())
}

/// A name without an IPv6 address gets an empty answer for AAAA at once; one with both has both.
fn families(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.serve(1, "six", "both")?;
    let format = "{{.NetworkSettings.Networks.six.IPAddress}} {{.NetworkSettings.Networks.six.GlobalIPv6Address}}";
    let addresses = pair.docker(1, &["inspect", "-f", format, "both"])?;
    let (v4, v6) = addresses.split_once(' ').context("two addresses")?;
    finds(pair, &["A", "both"], &[v4])?;
    finds(pair, &["AAAA", "both"], &[v6])?;
    finds(pair, &["-x", v6], &["both.six."])?;
    let enter = format!("--net={}", pair.namespace(0, "asker")?);
    let ask = ["dig", "+time=1", "+tries=1", "@127.0.0.11", "AAAA", "named"];
    let said = pair.cluster.host(0).try_command("nsenter")?.arg(enter).args(ask).run()?.stdout;
    ensure!(
        said.contains("status: NOERROR") && said.contains("ANSWER: 0"),
        "AAAA of a name with IPv4 only: {said}"
    );
    notes.say("AAAA of a name with IPv4 only is an empty answer; one with both families has both");

    Ok(())
}

/// An alias that containers on both hosts share finds all of them, from both hosts.
fn replicas(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let mut addresses = BTreeSet::new();
    for (host, name) in [(0, "web1"), (0, "web2"), (1, "web3"), (1, "web4")] {
        pair.docker(
            host,
            &["run", "-d", "--name", name, "--network", "net", "--network-alias", "web", IMAGE],
        )?;
        addresses.insert(pair.docker(
            host,
            &["inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", name],
        )?);
    }
    for (host, from) in [(0, "asker"), (0, "web1"), (1, "web3"), (1, "named")] {
        let found = || dig(pair, host, from, &["A", "web"]).unwrap_or_default();
        wait_until(PATIENCE, "all replicas", || found() == addresses)
            .with_context(|| format!("{from} finds {:?} instead of {addresses:?}", found()))?;
    }
    notes.say("an alias of four containers on two hosts: all four, asked from either host and from themselves");

    Ok(())
}

/// A name is its first holder's, whatever becomes of that one, until it is removed.
fn holders(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let format = "{{.NetworkSettings.Networks.net.IPAddress}}";
    let address = |host: usize| pair.docker(host, &["inspect", "-f", format, "service1"]);
    pair.serve(0, "net", "service1")?;
    finds(pair, &["A", "service1"], &[&address(0)?])?;
    pair.serve(1, "net", "service1")?;
    let second = address(1)?;
    finds(pair, &["A", "service1.host2"], &[&second])?;
    let told = |host: usize| {
        let status = pair.cluster.ctl_json(host, &["status"]).unwrap_or_default();
        status["problems"].to_string().contains("name-taken")
    };
    wait_until(PATIENCE, "both hosts are told", || told(0) && told(1))?;
    notes.say("a second service1 on the other host: found as service1.host2, told on both hosts");

    for _ in 0..5 {
        pair.docker(0, &["restart", "--time", "0", "service1"])?;
        let first = address(0)?;
        let found = || dig(pair, 1, "service1", &["A", "service1"]).unwrap_or_default();
        wait_until(PATIENCE, "the holder is back", || {
            let found = found();
            !found.is_empty() && (found == [first.clone()].into() || found.contains(&second))
        })?;
        ensure!(found() == [first].into(), "the second one took the name of one that restarts");
    }
    pair.docker(0, &["stop", "--time", "0", "service1"])?;
    finds(pair, &["A", "service1"], &[])?;
    let listed = pair.cluster.endpoints(1)?;
    let stopped = listed.iter().any(|row| {
        row["name"] == "service1" && row["node"] == "host1" && row["addresses"][0].is_null()
    });
    ensure!(stopped, "service1 is not listed as stopped: {listed:?}");
    pair.docker(0, &["start", "service1"])?;
    finds(pair, &["A", "service1"], &[&address(0)?])?;
    pair.docker(0, &["rm", "-f", "service1"])?;
    finds(pair, &["A", "service1"], &[&second])?;
    wait_until(PATIENCE, "nobody is told any more", || !told(0) && !told(1))?;
    pair.docker(1, &["rm", "-f", "service1"])?;
    finds(pair, &["A", "service1"], &[])?;
    notes.say(
        "the holder restarted five times, stopped and started: the name stays its own; removed: \
         the second one has it",
    );

    Ok(())
}

/// Containers of one compose service share also their names.
fn replicas_of_compose(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let mut addresses = BTreeSet::new();
    for host in [0, 1] {
        let labels = ["com.docker.compose.project=shop", "com.docker.compose.service=cart"];
        let labels = labels.map(|label| ["--label", label]).concat();
        let run = ["run", "-d", "--name", "shop-cart-1", "--network", "net"];
        pair.docker(host, &[run.as_slice(), &labels, &[IMAGE]].concat())?;
        let format = "{{.NetworkSettings.Networks.net.IPAddress}}";
        addresses.insert(pair.docker(host, &["inspect", "-f", format, "shop-cart-1"])?);
    }
    let all: Vec<_> = addresses.iter().map(String::as_str).collect();
    finds(pair, &["A", "shop-cart-1"], &all)?;
    for host in [0, 1] {
        pair.docker(host, &["rm", "-f", "shop-cart-1"])?;
    }
    notes.say("containers of one compose service on two hosts share their name");

    Ok(())
}

/// A container finds only the names of the networks that it is on.
fn scopes(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["apart"])?;
    pair.serve(1, "apart", "hidden")?;
    pair.serve(0, "apart", "insider")?;
    pair.reaches(0, "insider", "hidden")?;
    for name in ["hidden", "hidden.apart"] {
        let found = dig(pair, 0, "asker", &["A", name])?;
        ensure!(found.is_empty(), "{name} is found from outside its network: {found:?}");
    }
    pair.docker(0, &["network", "connect", "apart", "asker"])?;
    pair.reaches(0, "asker", "hidden")?;
    pair.docker(0, &["network", "disconnect", "apart", "asker"])?;
    wait_until(PATIENCE, "the name is not known any more", || {
        dig(pair, 0, "asker", &["A", "hidden"]).is_ok_and(|found| found.is_empty())
    })?;
    notes.say("names of a network are known on it only, from its connect to its disconnect");

    Ok(())
}

fn changes(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let address = pair.cluster.address_of(0, "named")?;
    pair.docker(1, &["rename", "named", "renamed"])?;
    finds(pair, &["A", "renamed"], &[&address])?;
    finds(pair, &["A", "named"], &[])?;
    pair.docker(1, &["kill", "renamed"])?;
    finds(pair, &["A", "renamed"], &[])?;
    pair.docker(1, &["start", "renamed"])?;
    let again = || pair.cluster.address_of(0, "renamed");
    wait_until(PATIENCE, "it is listed again", || again().is_ok())?;
    finds(pair, &["A", "alias1"], &[&again()?])?;
    notes.say("renamed, killed and started again: the names follow");

    Ok(())
}

/// Docker's own resolver answers for unknown names, by asking the host's name servers.
fn unknown(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let found = dig(pair, 0, "asker", &["A", "nobody-is-called-this"])?;
    ensure!(found.is_empty(), "{found:?}");
    let host = pair.docker(
        0,
        &[
            "run",
            "--rm",
            "--network",
            "net",
            "--add-host",
            &format!("{ELSEWHERE}:203.0.113.9"),
            IMAGE,
            "cat",
            "/etc/hosts",
        ],
    )?;
    ensure!(host.contains(ELSEWHERE), "{host}");
    // A container that is on one of Docker's own networks as well; Docker alone knows its names
    // there.
    pair.docker(0, &["network", "create", "dockers-own"])?;
    pair.serve(0, "dockers-own", "neighbour")?;
    pair.docker(0, &["network", "connect", "dockers-own", "asker"])?;
    let address = pair.docker(
        0,
        &[
            "inspect",
            "-f",
            "{{(index .NetworkSettings.Networks \"dockers-own\").IPAddress}}",
            "neighbour",
        ],
    )?;
    finds(pair, &["A", "neighbour"], &[&address])?;
    pair.docker(0, &["rm", "-f", "neighbour"])?;
    pair.docker(0, &["network", "disconnect", "dockers-own", "asker"])?;
    pair.docker(0, &["network", "rm", "dockers-own"])?;
    notes.say("names of Docker's own networks and unknown ones are Docker's own resolver's");

    Ok(())
}

/// Without the agent Docker's own resolver answers; with the next agent everything is back.
fn agent_dies(pair: &mut Pair, notes: &mut Notes) -> Result<()> {
    let address = pair.cluster.address_of(0, "web3")?;
    let agent = pair.cluster.agent(0)?;
    agent.kill()?;
    ensure!(
        dig(pair, 0, "asker", &["A", "web3"])?.is_empty(),
        "a name of another host without the agent"
    );
    let local =
        pair.docker(0, &["inspect", "-f", "{{.NetworkSettings.Networks.net.IPAddress}}", "web1"])?;
    finds(pair, &["A", "web1"], &[&local])?;
    pair.cluster.restart(&agent)?;
    pair.cluster.wait_for_agent(0)?;
    finds(pair, &["A", "web3"], &[&address])?;
    notes.say("agent killed: Docker's own resolver answers for its own containers; agent back: the others are back");

    Ok(())
}
