//! Networks that reach each other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use overlay_lab::{Cluster, CommandOutput, Running, wait_until};

use super::cluster;

const PATIENCE: Duration = Duration::from_secs(30);
/// How long a stream may stand still when its gateway is killed, in milliseconds.
const GAP_MS: u64 = 3_000;
/// Two gateways, then a host in the first network alone, and one in the second alone.
const FRONT: [usize; 3] = [0, 1, 2];
const BACK: [usize; 3] = [0, 1, 3];
const POLICY: &str = r#"
[[rule]]
name = "web-across"
from = { network = "front" }
to = { network = "back", name = "back*" }
allow = ["tcp/8080"]
"#;

/// Two networks with a server on each of their hosts.
struct Linked {
    cluster: Cluster,
    servers: Vec<Running>,
    /// The networks' ids, by name.
    ids: BTreeMap<&'static str, String>,
}

fn linked() -> Option<Linked> {
    let cluster = cluster(4)?;
    let (mut servers, mut ids) = (Vec::new(), BTreeMap::new());
    for (network, number, hosts) in [("front", 81, FRONT), ("back", 82, BACK)] {
        let subnets = [format!("10.{number}.0.0/16"), format!("fd00:{number}::/64")];
        let create =
            ["network", "create", network, "--subnet", &subnets[0], "--subnet", &subnets[1]];
        cluster.ctl(0, &create).expect("made");
        let id = cluster.ctl(0, &["network", "inspect", network, "-q"]).expect("its id").stdout;
        ids.insert(network, id.trim().to_owned());
        for host in hosts {
            let name = format!("{network}{host}");
            let serve = ["serve-http", "--listen", "[::]:8080", "--name", &name];
            let server = cluster.serve(host, network, &name, &serve, "listens on");
            servers.push(server.expect("serves"));
        }
    }

    Some(Linked { cluster, servers, ids })
}

impl Linked {
    fn ctl(&self, args: &[&str]) -> String {
        self.cluster.ctl(0, args).expect("done").stdout
    }

    /// Fetches a page from a container of a network on a host.
    fn fetch(&self, host: usize, network: &str, server: &str, patience: &str) -> CommandOutput {
        let url = format!("http://{server}:8080/hello");
        let fetch = self.cluster.container(host, network, "client").expect("the host is up");

        fetch.args(["fetch", &url, "--timeout", patience]).output().expect("it runs")
    }

    fn reaches(&self, host: usize, network: &str, server: &str) -> bool {
        self.fetch(host, network, server, "1").status.success()
    }

    fn assert_reaches(&self, host: usize, network: &str, server: &str) {
        let page = self.fetch(host, network, server, "10");
        assert!(page.status.success(), "{network} on host {host} to {server}: {}", page.stderr);
    }

    /// Returns both addresses of a server, as hosts in URLs.
    fn addresses(&self, name: &str) -> [String; 2] {
        let rows = self.cluster.endpoints(0).expect("endpoints");
        let row = rows.iter().find(|row| row["name"] == name).expect("it is listed");
        let address = |n: usize| row["addresses"][n].as_str().expect("an address").to_owned();

        [address(0), format!("[{}]", address(1))]
    }

    /// Runs a program in a network's namespace on a host.
    fn inside(&self, host: usize, network: &str, program: &str) -> String {
        let netns = format!("--net=/run/overlay/netns/ovn-{}", self.ids[network]);
        let words = std::iter::once(netns.as_str()).chain(program.split(' '));
        let command = self.cluster.host(host).command("nsenter").args(words);

        command.run().expect("it runs").stdout
    }

    /// Returns how many bytes went from one network to the other on a gateway.
    fn carried(&self, host: usize) -> u64 {
        let links = self.inside(host, "front", "ip -json -statistics link show");
        let links: serde_json::Value = serde_json::from_str(&links).expect("JSON");
        let links = links.as_array().cloned().unwrap_or_default();
        let is_join = |link: &&serde_json::Value| {
            link["ifname"].as_str().is_some_and(|name| name.starts_with("ovl"))
        };
        let join = links.iter().find(is_join).expect("the namespaces are joined");

        join["stats64"]["tx"]["bytes"].as_u64().expect("a number")
    }
}

#[test]
#[expect(clippy::print_stdout, reason = "how long it took is looked at")]
fn linked_networks_reach_each_other_by_name_and_unlinked_ones_do_not() {
    let Some(lab) = linked() else { return };
    assert!(!lab.reaches(2, "front", "back3.back"), "they are not linked");

    let said = lab.ctl(&["network", "link", "front", "back"]);
    assert_eq!(said, "front is linked with back (2 gateways)\n");
    let is_linked =
        || lab.reaches(2, "front", "back3.back") && lab.reaches(3, "back", "front2.front");
    wait_until(PATIENCE, "they are linked", is_linked).unwrap();

    for (network, hosts, other, servers) in
        [("front", FRONT, "back", BACK), ("back", BACK, "front", FRONT)]
    {
        for host in hosts {
            for server in servers {
                lab.assert_reaches(host, network, &format!("{other}{server}.{other}"));
            }
        }
        for address in lab.addresses(&format!("{other}{}", servers[2])) {
            lab.assert_reaches(hosts[2], network, &address);
            lab.assert_reaches(hosts[0], network, &address);
        }
        let short = format!("{other}{}", servers[2]);
        assert!(!lab.reaches(hosts[2], network, &short), "short names are the own network's");
    }

    // A host that is in neither, or not in the other one, sees no more than it takes.
    let nodes = lab.cluster.ctl_json(2, &["node", "ls"]).unwrap();
    let names: Vec<_> =
        nodes.as_array().unwrap().iter().filter_map(|node| node["name"].as_str()).collect();
    assert_eq!(names, ["host1", "host2", "host3"]);

    // With `--only policy`, what a rule allows passes, and nothing else.
    let said = lab.ctl(&["network", "link", "front", "back", "--only", "policy"]);
    assert_eq!(said, "front is linked with back (2 gateways, only policy)\n");
    let is_closed =
        || !lab.reaches(2, "front", "back3.back") && !lab.reaches(0, "front", "back1.back");
    wait_until(PATIENCE, "nothing passes", is_closed).unwrap();
    lab.assert_reaches(2, "front", "front1");
    lab.cluster.put_policy("apply", POLICY).unwrap();
    let is_open = || lab.reaches(2, "front", "back3.back") && lab.reaches(0, "front", "back1.back");
    wait_until(PATIENCE, "the rule is in force", is_open).unwrap();
    for (host, network, server) in
        [(3, "back", "front2.front"), (0, "back", "front1.front"), (1, "back", "front1.front")]
    {
        assert!(!lab.reaches(host, network, server), "{network} on host {host} to {server}");
    }
    lab.ctl(&["policy", "rollback", "0"]);
    lab.ctl(&["network", "link", "front", "back"]);
    wait_until(PATIENCE, "all passes", || lab.reaches(3, "back", "front2.front")).unwrap();

    // A stream ends, and nothing is left in the kernel.
    let ping = lab.cluster.container(2, "front", "pinging").unwrap();
    let [v4, _] = lab.addresses("back3");
    let mut ping = ping.args(["ping", "--count", "0", "--interval-ms", "20", &v4]).spawn().unwrap();
    wait_until(PATIENCE, "a ping runs", || ping.is_running()).unwrap();
    let begun = Instant::now();
    assert_eq!(
        lab.ctl(&["network", "unlink", "back", "front"]),
        "back is linked with no network\n"
    );
    wait_until(PATIENCE, "they are apart", || !lab.reaches(2, "front", &v4)).unwrap();
    let apart = begun.elapsed();
    ping.signal(Signal::SIGINT).unwrap();
    drop(ping.wait(PATIENCE));
    for (network, hosts) in [("front", FRONT), ("back", BACK)] {
        for host in hosts {
            let is_clean = || {
                let routes = lab.inside(host, network, "ip route")
                    + &lab.inside(host, network, "ip -6 route")
                    + &lab.inside(host, network, "ip link");
                let other = if network == "front" {
                    ["10.82.", "fd00:82:"]
                } else {
                    ["10.81.", "fd00:81:"]
                };
                !routes.contains("ovl") && !other.iter().any(|prefix| routes.contains(prefix))
            };
            wait_until(PATIENCE, "nothing is left of it", is_clean).unwrap();
        }
    }
    println!("unlinked after {} ms", apart.as_millis());
    drop(lab.servers);
    lab.cluster.finish().unwrap();
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are looked at")]
fn a_stream_goes_on_through_the_other_gateway_when_its_own_is_killed() {
    let Some(mut lab) = linked() else { return };
    lab.ctl(&["network", "link", "front", "back"]);
    let serve = ["flows", "serve"];
    lab.servers.push(lab.cluster.serve(3, "back", "flow-back", &serve, "listening on").unwrap());
    wait_until(PATIENCE, "linked", || lab.reaches(2, "front", "back3.back")).unwrap();
    // It answers over IPv4 alone.
    let [v4, _] = lab.addresses("flow-back");
    let client = ["flows", "client", &v4, "--rate", "200", "--connections", "4"];
    let client = lab.cluster.serve(2, "front", "flow-front", &client, "under way").unwrap();

    // Kill the one that carries what is sent.
    let before = [0, 1].map(|host| lab.carried(host));
    let carried = |host: usize| lab.carried(host) - before[host];
    let is_busy = || [0, 1].into_iter().any(|host| carried(host) > 10_000);
    wait_until(PATIENCE, "a gateway carries the stream", is_busy).unwrap();
    let victim = usize::from(carried(1) > carried(0));
    let other = 1 - victim;
    let agent = lab.cluster.agent(victim).unwrap();
    let carried_before = lab.carried(other);
    lab.cluster.lab().unplug(victim).unwrap();
    agent.kill().unwrap();
    let goes_on = || lab.carried(other) > carried_before + 100_000;
    wait_until(PATIENCE, "the other one carries it", goes_on).unwrap();
    client.signal(Signal::SIGINT).unwrap();
    let output = client.wait(PATIENCE).unwrap();
    let summary = output.stdout.lines().last().unwrap_or_default();
    let summary: serde_json::Value = serde_json::from_str(summary).expect("a summary");

    lab.cluster.lab().plug(victim).unwrap();
    lab.cluster.restart(&agent).unwrap();
    lab.cluster.wait_for_agent(victim).unwrap();
    assert_eq!(summary["broken"], 0, "{summary}");
    println!("gateway killed: {summary}");
    for gap in ["longest_silence_ms", "slowest_exchange_ms"] {
        assert!(summary[gap].as_u64().is_some_and(|ms| ms <= GAP_MS), "{gap}: {summary}");
    }
    drop(lab.servers);
    lab.cluster.finish().unwrap();
}
