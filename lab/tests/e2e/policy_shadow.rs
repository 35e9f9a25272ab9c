//! What a policy counts in shadow, and what it drops once it is enforced.

use std::collections::BTreeMap;

use overlay_lab::{Cluster, Running, wait_until};

use super::policy::{PATIENCE, addresses, shop, started};

const HOSTS: usize = 2;
/// Rules that deny come before and after one that allows, and the default is behind them.
const POLICY: &str = r#"
[network.shop]
default = "deny"

[[rule]]
name = "no-guests"
from = { role = "guest" }
to = "any"
deny = "any"

[[rule]]
name = "web-to-db"
from = { role = "web" }
to = { role = "db" }
allow = ["tcp/5432", "udp/5202", "icmp"]

[[rule]]
name = "no-others"
from = "any"
to = { role = "db" }
deny = ["tcp/23", "udp/5203"]
"#;
/// Who sends; what becomes of it differs.
const ROLES: [&str; 3] = ["web", "guest", "other"];
/// Packets of each flow.
const PINGS: u64 = 5;
const DATAGRAMS: u64 = 7;

/// Sends everything to the addresses in its arguments, and prints of each flow the protocol, the
/// port and how many packets it sent.
///
/// What TCP sends is what the kernel counts in this namespace, once no connection has anything left
/// to send.
const SENDER: &str = r#"
segments() {
    while read -r -a words; do
        [[ ${words[0]} == Tcp: && ${words[1]} == [0-9]* ]] && echo $((words[11] + words[12]))
    done < /proc/net/snmp
}
is_sending() {
    while read -r -a words; do
        [[ ${words[3]} == 06 || ${words[3]} == st ]] || return 0
    done < <(cat /proc/net/tcp /proc/net/tcp6)
    return 1
}
for to in "$@"; do
    overlay-lab ping --count 5 --interval-ms 5 --timeout-ms 500 "$to" > /dev/null 2>&1
    echo icmp 0 5
    for port in 5202 5203; do
        exec 3<> "/dev/udp/$to/$port"
        for number in 1 2 3 4 5 6 7; do printf '\0\0\0\0\0\0\0\0' >&3 || exit 1; done
        exec 3>&-
        echo udp $port 7
    done
    [[ $to == *:* ]] && host="[$to]" || host=$to
    for port in 5432 23; do
        before=$(segments)
        overlay-lab fetch --timeout 0.5 "http://$host:$port/hello" > /dev/null 2>&1
        while is_sending; do sleep 0.02; done
        echo tcp $port $(($(segments) - before))
    done
done
"#;

/// What one flow is, and how many packets of it were sent.
#[derive(Debug)]
struct Flow {
    role: &'static str,
    protocol: String,
    port: u16,
    packets: u64,
}

/// Packets by counter: the name of a rule, or `default`.
type Counts = BTreeMap<String, u64>;

impl Flow {
    /// Returns the counter that counts the flow, and whether it passes.
    fn judged(&self) -> (&'static str, bool) {
        match (self.role, self.protocol.as_str(), self.port) {
            ("guest", _, _) => ("no-guests", false),
            ("web", "icmp", _) | ("web", "tcp", 5432) | ("web", "udp", 5202) => ("web-to-db", true),
            (_, "tcp", 23) | (_, "udp", 5203) => ("no-others", false),
            _ => ("default", false),
        }
    }
}

/// The containers that send, each with the process that is in its namespace.
struct Senders<'a> {
    cluster: &'a Cluster,
    /// Host, role, the container, and the id of its process.
    all: Vec<(usize, &'static str, Running, String)>,
    to: Vec<String>,
}

impl<'a> Senders<'a> {
    fn start(cluster: &'a Cluster, to: Vec<String>) -> Self {
        let mut all = Vec::new();
        for host in 0..HOSTS {
            for role in ROLES {
                let (running, pid) = namespace(cluster, host, &format!("{role}{host}"), role);
                all.push((host, role, running, pid));
            }
        }

        Self { cluster, all, to }
    }

    /// Has every container send everything, and returns the flows of each host.
    fn send(&self) -> Vec<Vec<Flow>> {
        let mut sent: Vec<Vec<Flow>> = (0..HOSTS).map(|_| Vec::new()).collect();
        for (host, role, _, pid) in &self.all {
            let enter = ["-t", pid, "-n", "bash", "-c", SENDER, "sender"];
            let command = self.cluster.host(*host).command("nsenter").args(enter).args(&self.to);
            let said = command.run().expect("it sends").stdout;
            let flows = said.lines().map(|line| {
                let words: Vec<_> = line.split(' ').collect();
                let [protocol, port, packets] = words[..] else { panic!("{line}") };
                let (port, packets) =
                    (port.parse().expect("a port"), packets.parse().expect("a number"));
                Flow { role, protocol: protocol.to_owned(), port, packets }
            });
            sent[*host].extend(flows);
        }
        let of_each = sent[0].len();
        assert_eq!(of_each, ROLES.len() * 2 * 5, "{sent:?}");

        sent
    }
}

/// Starts a container that does nothing; returns the id of its process, too.
fn namespace(cluster: &Cluster, host: usize, name: &str, role: &str) -> (Running, String) {
    let label = format!("role={role}");
    let run = ["run", "--network", "shop", "--name", name, "--label", &label, "--"];
    let waits = ["sh", "-c", "echo ready $$ && exec sleep infinity"];
    let command = cluster.host(host).command("overlayctl").args(run).args(waits);
    let running = started(command, "ready");
    let pid = running.stdout().trim().trim_start_matches("ready ").to_owned();

    (running, pid)
}

/// Starts a server in the namespace of a process.
fn serve(cluster: &Cluster, host: usize, pid: &str, args: &[&str], said: &str) -> Running {
    let enter = ["-t", pid, "-n", "overlay-lab"];

    started(cluster.host(host).command("nsenter").args(enter).args(args), said)
}

/// Returns what a host has counted in the network, by rule.
fn counts(cluster: &Cluster, host: usize) -> Counts {
    let rows = cluster.ctl_json(host, &["policy", "counts"]).expect("counts");
    let rows = rows.as_array().cloned().unwrap_or_default();
    let rows = rows.iter().filter(|row| row["network"] == "shop" && row["counter"] != "guard");
    let counted = rows.filter(|row| row["in_force"] == true).map(|row| {
        let name = row["rule"].as_str().or(row["counter"].as_str()).unwrap_or_default();
        (name.to_owned(), row["packets"].as_u64().unwrap_or_default())
    });

    counted.collect()
}

/// Returns what a host must have counted of what was sent on each: of a refused flow each packet,
/// where it was sent; of one that passes the first, where it was sent and where it arrived.
fn expected(host: usize, sent: &[Vec<Flow>]) -> Counts {
    let names = ["no-guests", "web-to-db", "no-others", "default", "unknown", "invalid"];
    let mut counts: Counts = names.map(|name| (name.to_owned(), 0)).into();
    for (sender, flows) in sent.iter().enumerate() {
        for flow in flows {
            let (counter, passes) = flow.judged();
            // All servers are on the first host.
            let packets = match (passes, sender == host) {
                (true, own) => u64::from(own || host == 0),
                (false, true) => flow.packets,
                (false, false) => 0,
            };
            *counts.entry(counter.to_owned()).or_default() += packets;
        }
    }

    counts
}

/// Puts the policy in force, and returns what is counted of the same flows again.
fn counted(senders: &Senders<'_>, verb: &str) -> (Vec<Counts>, Vec<Vec<Flow>>) {
    let cluster = senders.cluster;
    cluster.put_policy(verb, POLICY).expect("it is live");
    // Counters begin anew with it, and by then it knows all containers.
    let begins = |host| {
        let counts = counts(cluster, host);
        counts.contains_key("default") && counts.values().all(|packets| *packets == 0)
    };
    wait_until(PATIENCE, "it is in force", || (0..HOSTS).all(begins)).expect("in time");
    let sent = senders.send();
    for host in 0..HOSTS {
        let wanted = expected(host, &sent);
        let all = || counts(cluster, host) == wanted;
        let arrived = wait_until(PATIENCE / 6, "all is counted", all);
        assert!(
            arrived.is_ok(),
            "policy {verb}, host {host}: {:?}, and not {wanted:?} of {sent:#?}",
            counts(cluster, host)
        );
    }

    ((0..HOSTS).map(|host| counts(cluster, host)).collect(), sent)
}

/// Takes from the counts of a host what TCP sent: it differs by nature. In shadow a connection is
/// made, and each of its packets counts; enforced, its SYN alone is sent, and sent again. Where
/// nobody listens, a SYN is all that is sent in shadow, too.
fn without_tcp(host: usize, counts: &Counts, sent: &[Vec<Flow>]) -> Counts {
    let mut left = counts.clone();
    for flow in sent[host].iter().filter(|flow| flow.protocol == "tcp") {
        if let (counter, false) = flow.judged() {
            assert!(flow.packets >= 1, "it was tried: {flow:?}");
            *left.get_mut(counter).expect("a counter") -= flow.packets;
        }
    }

    left
}

#[test]
#[expect(clippy::print_stdout, reason = "the figures are looked at")]
fn shadow_counts_packet_by_packet_what_is_dropped_once_the_policy_is_enforced() {
    let Some((cluster, db)) = shop(HOSTS) else { return };
    drop(db);
    let (database, pid) = namespace(&cluster, 0, "database", "db");
    let servers = [
        (&["serve-http", "--listen", "[::]:5432"][..], "listens on"),
        (&["datagrams", "serve", "--listen", "[::]:5202"], "listening on"),
        (&["datagrams", "serve", "--listen", "[::]:5203"], "listening on"),
    ]
    .map(|(args, said)| serve(&cluster, 0, &pid, args, said));
    let to = addresses(&cluster, "database");
    let to = to.map(|address| address.trim_matches(['[', ']']).to_owned());
    let senders = Senders::start(&cluster, to.into());

    let (shadow, sent_in_shadow) = counted(&senders, "shadow");
    let (enforced, sent_enforced) = counted(&senders, "apply");

    for host in 0..HOSTS {
        let in_shadow = without_tcp(host, &shadow[host], &sent_in_shadow);
        let dropped = without_tcp(host, &enforced[host], &sent_enforced);
        assert_eq!(in_shadow, dropped, "host {host}");
        // Two roles are refused everything over ICMP and UDP, and the third one a port.
        let refused = 2 * (2 * PINGS + 4 * DATAGRAMS) + 2 * DATAGRAMS;
        let rules = ["no-guests", "no-others", "default"];
        assert_eq!(rules.iter().map(|rule| dropped[*rule]).sum::<u64>(), refused);
        println!("host {host}: shadow {:?}, enforced {:?}", shadow[host], enforced[host]);
    }
    drop((senders, servers, database));
    cluster.finish().unwrap();
}
