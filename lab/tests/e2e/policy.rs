//! Networks that are kept to a policy.

use std::time::Duration;

use nix::sys::signal::Signal;
use overlay_lab::{Cluster, CommandOutput, HostCommand, Running, wait_until};

use super::cluster;

pub(super) const PATIENCE: Duration = Duration::from_secs(30);
pub(super) const POLICY: &str = r#"
[network.shop]
default = "deny"

[[rule]]
name = "web-to-db"
from = { role = "web" }
to = { role = "db" }
allow = ["tcp/5432"]
"#;
/// Where `flows` has its other end: a connection, and datagrams that the policy says nothing of.
const FLOWS: &str = "5432";

/// A program `nft` that says when it begins, and takes its time.
const SLOW_NFT: &str = r#"mkdir -p /run/slow && cat > /run/slow/nft <<'END'
#!/bin/sh
touch /run/slow/begun
sleep 1
PATH="${PATH#/run/slow:}"
exec nft "$@"
END
chmod +x /run/slow/nft && printf %s "/run/slow:$PATH""#;

/// A container with a label, which runs one of this program's tools.
fn container(cluster: &Cluster, host: usize, name: &str, role: &str) -> HostCommand {
    let label = format!("role={role}");
    let run = ["run", "--network", "shop", "--name", name, "--label", &label, "--", "overlay-lab"];

    cluster.host(host).try_command("overlayctl").expect("the host is up").args(run)
}

/// Starts such a container, and waits until it says that it is ready.
pub(super) fn started(command: HostCommand, said: &str) -> Running {
    let mut running = command.spawn().expect("started");
    let is_ready = || running.stdout().contains(said) || !running.is_running();
    wait_until(PATIENCE, said, is_ready).expect("ready");
    assert!(running.is_running(), "{}{}", running.stdout(), running.stderr());

    running
}

pub(super) fn apply(cluster: &Cluster, policy: &str) {
    cluster.put_policy("apply", policy).expect("applied");
}

/// Returns how many packets a counter of a host has counted in network shop.
fn counted(cluster: &Cluster, host: usize, counter: &str) -> u64 {
    let counts = cluster.ctl_json(host, &["policy", "counts"]).expect("counts");
    let rows = counts.as_array().cloned().unwrap_or_default();
    let is_it = |row: &serde_json::Value| row["counter"] == counter && row["network"] == "shop";
    let of = rows.iter().filter(|row| is_it(row)).filter_map(|row| row["packets"].as_u64());

    of.sum()
}

/// Returns both addresses of a container.
pub(super) fn addresses(cluster: &Cluster, name: &str) -> [String; 2] {
    let rows = cluster.endpoints(0).expect("endpoints");
    let row = rows.iter().find(|row| row["name"] == name).expect("it is listed");
    let address = |n: usize| row["addresses"][n].as_str().expect("an address").to_owned();

    [address(0), format!("[{}]", address(1))]
}

pub(super) fn fetch(
    cluster: &Cluster,
    host: usize,
    role: &str,
    server: &str,
    patience: &str,
) -> CommandOutput {
    let url = format!("http://{server}/hello");
    let fetch = container(cluster, host, role, role).args(["fetch", &url, "--timeout", patience]);

    fetch.output().expect("it runs")
}

/// Returns what a host's `status` says of a policy.
fn problem(cluster: &Cluster, host: usize) -> Option<String> {
    let status = cluster.ctl_json(host, &["status"]).expect("a status");
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let problem = problems.iter().find(|problem| problem["code"] == "policy")?;

    problem["text"].as_str().map(str::to_owned)
}

/// A cluster with network shop, and its database on the first host.
pub(super) fn shop(hosts: usize) -> Option<(Cluster, Running)> {
    let cluster = cluster(hosts)?;
    let subnets = ["--subnet", "10.71.0.0/16", "--subnet", "fd00:71::/64"];
    cluster.ctl(0, &[&["network", "create", "shop"][..], &subnets].concat()).expect("made");
    let serve = ["serve-http", "--listen", "[::]:5432", "--name", "db"];
    let db = started(container(&cluster, 0, "db", "db").args(serve), "listens on");

    Some((cluster, db))
}

#[test]
fn what_the_policy_does_not_allow_is_refused_and_counted_on_one_host_and_across() {
    let Some((cluster, db)) = shop(3) else { return };
    apply(&cluster, POLICY);
    let is_there = |host| counted_networks(&cluster, host) == 1;
    wait_until(PATIENCE, "the policy is in force", || is_there(0)).unwrap();

    for host in [0, 1] {
        for address in addresses(&cluster, "db") {
            let server = format!("{address}:5432");
            let page = fetch(&cluster, host, "web", &server, "20");
            assert_eq!(page.stdout, "hello from db\n", "host {host}, {address}: {}", page.stderr);

            // Another port, another role, and the other way round.
            for (role, server) in [("web", format!("{address}:22")), ("other", server)] {
                let before = counted(&cluster, host, "default");
                let page = fetch(&cluster, host, role, &server, "1.5");
                assert!(!page.status.success(), "{role} on host {host}, {server}: {}", page.stdout);
                let counted = counted(&cluster, host, "default");
                assert!(counted > before, "{role} on host {host}, {server}: {counted} packets");
            }
        }
    }
    let ping = container(&cluster, 2, "hasty", "other");
    let [v4, _] = addresses(&cluster, "db");
    let output = ping.args(["ping", "--count", "200", "--interval-ms", "5", &v4]).output().unwrap();
    assert!(!output.status.success(), "{}", output.stdout);
    assert!(counted(&cluster, 2, "default") >= 200, "every packet of one that sends at once");

    cluster.ctl(0, &["policy", "rollback", "0"]).unwrap();
    let opened = || fetch(&cluster, 2, "other", &format!("{v4}:5432"), "1").status.success();
    wait_until(PATIENCE, "no policy is left", opened).unwrap();
    drop(db);
    cluster.finish().unwrap();
}

/// Returns how many networks of a host are kept to a policy that is in force.
fn counted_networks(cluster: &Cluster, host: usize) -> usize {
    let counts = cluster.ctl_json(host, &["policy", "counts"]).expect("counts");
    let rows = counts.as_array().cloned().unwrap_or_default();

    rows.iter().filter(|row| row["counter"] == "default" && row["in_force"] == true).count()
}

/// Returns whether a host counts by a rule.
fn has_rule(cluster: &Cluster, host: usize, rule: &str) -> bool {
    let counts = cluster.ctl_json(host, &["policy", "counts"]).expect("counts");
    let rows = counts.as_array().cloned().unwrap_or_default();

    rows.iter().any(|row| row["rule"] == rule && row["in_force"] == true)
}

#[test]
fn a_connection_stops_and_goes_on_with_the_policy_and_never_breaks() {
    let Some((cluster, db)) = shop(2) else { return };
    let with_udp = POLICY.replace("\"tcp/5432\"", "\"tcp/5432\", \"udp/5432\"");
    apply(&cluster, &with_udp);
    drop(db);
    let serve = container(&cluster, 0, "flow-db", "db").args(["flows", "serve", "--port", FLOWS]);
    let db = started(serve, "listening on");
    let [v4, _] = addresses(&cluster, "flow-db");
    let mut clients = Vec::new();
    for host in [0, 1] {
        let client = ["flows", "client", &v4, "--port", FLOWS, "--rate", "20"];
        let client = container(&cluster, host, "web", "web").args(client);
        clients.push(started(client.args(["--connections", "4"]), "under way"));
    }

    // Other rules, by which all flows may go on: each is judged once more.
    let (refused, flows) =
        (|host| counted(&cluster, host, "default"), |host| counted(&cluster, host, "rule"));
    apply(&cluster, &with_udp.replace("web-to-db", "renamed"));
    for host in [0, 1] {
        let is_renamed = || has_rule(&cluster, host, "renamed") && flows(host) >= 5;
        wait_until(PATIENCE, "the flows are judged by the new rule", is_renamed).unwrap();
        assert_eq!(refused(host), 0);
    }
    apply(&cluster, &POLICY.replace("5432", "1"));
    for host in [0, 1] {
        let ends = || refused(host) >= 20;
        wait_until(PATIENCE, "what was allowed is refused", ends).unwrap();
    }
    apply(&cluster, &with_udp);
    for host in [0, 1] {
        wait_until(PATIENCE, "what was refused is allowed", || flows(host) >= 5).unwrap();
    }
    // The connections' retransmissions have waited meanwhile.
    for client in clients {
        client.signal(Signal::SIGINT).unwrap();
        let output = client.wait(PATIENCE * 2).unwrap();
        let summary = output.stdout.lines().last().unwrap_or_default();
        let summary: serde_json::Value = serde_json::from_str(summary).expect("a summary");
        assert_eq!(summary["broken"], 0, "{summary}");
        assert!(summary["lost"].as_u64() >= Some(10), "the policy ended the flows: {summary}");
    }

    drop(db);
    cluster.finish().unwrap();
}

#[test]
fn what_is_refused_stays_refused_while_agents_are_killed_and_without_the_program() {
    let Some((mut cluster, db)) = shop(2) else { return };
    apply(&cluster, POLICY);
    wait_until(PATIENCE, "the policy is in force", || counted_networks(&cluster, 0) == 1).unwrap();
    let [v4, _] = addresses(&cluster, "db");
    let mut pings = Vec::new();
    for host in [0, 1] {
        let ping = container(&cluster, host, "other", "other");
        let ping = ping.args(["ping", "--count", "0", "--interval-ms", "5", &v4]).spawn();
        pings.push(ping.unwrap());
        let begun = || counted(&cluster, host, "default") >= 20;
        wait_until(PATIENCE, "pings are refused", begun).unwrap();
    }

    for host in [0, 1] {
        let agent = cluster.agent(host).unwrap();
        agent.kill().unwrap();
        cluster.restart(&agent).unwrap();
        cluster.wait_for_agent(host).unwrap();
        let goes_on = || counted(&cluster, host, "default") >= 20;
        wait_until(PATIENCE, "pings are refused again", goes_on).unwrap();
    }

    // Where the program is missing, the table of before decides, and nobody new comes in.
    let agent = cluster.agent(1).unwrap();
    agent.kill().unwrap();
    let without = agent.command().unwrap().env("PATH", "/nowhere").spawn().unwrap();
    cluster.wait_for_agent(1).unwrap();
    wait_until(PATIENCE, "the host says so", || problem(&cluster, 1).is_some()).unwrap();
    let said = problem(&cluster, 1).unwrap();
    assert!(said.contains("install the package nftables"), "{said}");
    assert!(said.contains("the policy of before decides"), "{said}");
    let page = fetch(&cluster, 1, "web", &format!("{v4}:5432"), "1");
    assert!(!page.status.success() && page.stderr.contains("nftables"), "{}", page.stderr);

    let agent = cluster.agent(1).unwrap();
    agent.kill().unwrap();
    drop(without);
    cluster.restart(&agent).unwrap();
    cluster.wait_for_agent(1).unwrap();
    wait_until(PATIENCE, "the policy is in force", || problem(&cluster, 1).is_none()).unwrap();
    let page = fetch(&cluster, 1, "web", &format!("{v4}:5432"), "20");
    assert_eq!(page.stdout, "hello from db\n", "{}", page.stderr);

    for ping in pings {
        ping.signal(Signal::SIGINT).unwrap();
        let output = ping.wait(PATIENCE).unwrap();
        assert!(!output.status.success(), "no answer ever: {}", output.stdout);
    }
    drop(db);
    cluster.finish().unwrap();
}

#[test]
fn a_new_agent_takes_over_while_the_program_still_runs_for_a_network() {
    let Some((mut cluster, db)) = shop(1) else { return };
    let shell = |script: &str| cluster.host(0).command("sh").args(["-c", script]).run();
    let path = shell(SLOW_NFT).unwrap().stdout;
    let agent = cluster.agent(0).unwrap();
    agent.kill().unwrap();
    let slow = agent.command().unwrap().env("PATH", &path).spawn().unwrap();
    cluster.wait_for_agent(0).unwrap();

    shell("rm -f /run/slow/begun").unwrap();
    apply(&cluster, POLICY);
    let begins = || shell("test -e /run/slow/begun").is_ok();
    wait_until(PATIENCE, "the program begins", begins).unwrap();
    cluster.ctl(0, &["upgrade"]).unwrap();

    wait_until(PATIENCE, "the policy is in force", || counted_networks(&cluster, 0) == 1).unwrap();
    assert!(problem(&cluster, 0).is_none());
    cluster.agent(0).unwrap().kill().unwrap();
    drop(slow);
    shell("rm -r /run/slow").unwrap();
    cluster.restart(&agent).unwrap();
    cluster.wait_for_agent(0).unwrap();
    drop(db);
    cluster.finish().unwrap();
}
