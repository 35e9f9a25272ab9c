//! Networks that are not for every host.

use std::time::Duration;

use overlay_lab::{Cluster, CommandOutput, wait_until};

use super::cluster;

const PATIENCE: Duration = Duration::from_secs(30);

/// Takes a host out of the cluster and lets it in again by a token of its own.
fn join_by(cluster: &Cluster, host: usize, token: &[&str]) {
    let line =
        cluster.ctl(0, &[&["token", "create", "-q"], token].concat()).expect("a line").stdout;
    cluster.ctl(host, &["leave"]).expect("left");
    cluster.ctl(host, &["join", line.trim()]).expect("joined");
}

fn networks(cluster: &Cluster, host: usize) -> Vec<String> {
    let list = cluster.ctl_json(host, &["network", "ls"]).expect("a list");
    let rows = list.as_array().cloned().unwrap_or_default();

    rows.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect()
}

/// Returns what a host's `status` says of a problem.
fn problem(cluster: &Cluster, host: usize, code: &str) -> Option<String> {
    let status = cluster.ctl_json(host, &["status"]).expect("a status");
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let problem = problems.iter().find(|problem| problem["code"] == code)?;

    problem["text"].as_str().map(str::to_owned)
}

/// Runs `overlayctl` on a host, which must refuse it; returns why.
fn refused(cluster: &Cluster, host: usize, args: &[&str]) -> String {
    let output = cluster.host(host).command("overlayctl").args(args).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{args:?}: {}{}", output.stdout, output.stderr);

    output.stderr
}

/// Invariant 12.
#[test]
fn a_network_does_not_exist_for_hosts_that_it_is_not_for_and_ends_where_it_is_closed() {
    let Some(cluster) = cluster(3) else { return };
    join_by(&cluster, 1, &["--label", "role=db"]);
    join_by(&cluster, 2, &["--role", "worker", "--label", "role=web"]);
    cluster.ctl(0, &["network", "create", "secret", "--nodes", "role=db"]).unwrap();
    let vault = cluster.serve_http(1, "secret", "vault").unwrap();

    let said = refused(&cluster, 2, &["run", "--network", "secret", "--", "true"]);
    assert!(said.contains("is not known here"), "{said}");
    assert!(networks(&cluster, 2).is_empty());
    let said = refused(&cluster, 2, &["network", "create", "own"]);
    assert!(said.contains("role worker"), "{said}");
    let said = refused(&cluster, 1, &["network", "set", "secret", "--nodes", ""]);
    assert!(said.contains("was made on node host1"), "{said}");

    cluster.ctl(0, &["network", "set", "secret", "--nodes", "role in (db,web)"]).unwrap();
    wait_until(PATIENCE, "it is open", || networks(&cluster, 2) == ["secret"]).unwrap();
    cluster.fetch(2, "secret", "client", "vault").unwrap();
    let site = cluster.serve_http(2, "secret", "site").unwrap();
    cluster.fetch(1, "secret", "client", "site").unwrap();

    cluster.ctl(0, &["network", "set", "secret", "--nodes", "role=db"]).unwrap();
    let is_told = || problem(&cluster, 2, "cut-off").is_some();
    wait_until(PATIENCE, "the host says that it was put out", is_told).unwrap();
    let said = problem(&cluster, 2, "cut-off").unwrap();
    assert!(said.contains("network secret any more, and site lost it"), "{said}");
    assert!(networks(&cluster, 2).is_empty());
    assert!(!cluster.lists(1, "site") && cluster.lists(1, "vault"));
    assert!(cluster.fetch(1, "secret", "client", "site").is_err());
    drop(site);
    let is_over = || problem(&cluster, 2, "cut-off").is_none();
    wait_until(PATIENCE, "nothing is left that lost it", is_over).unwrap();

    drop(vault);
    cluster.finish().unwrap();
}

/// Says something of a network for everyone, and of one that is for databases.
const POLICY: &str = "\
# Who may do what.
[network.secret]
default = \"deny\"

[[rule]]
name = \"ping\"
from = [{ network = \"secret\" }, { role = \"web\" }]
to = \"any\"
allow = [\"icmp\"]
";
/// What a host sees of it that may not enter the second.
const VISIBLE: &str = "[[rule]]\nname = \"ping\"\nfrom = { role = \"web\" }\nto = \"any\"\n\
                       allow = [\"icmp\"]\n";

/// Replaces the policy from a host.
fn replace(cluster: &Cluster, host: usize, how: &str, text: &str) -> CommandOutput {
    let command = cluster.host(host).command("overlayctl").args(["policy", how, "/dev/stdin"]);

    command.input(text).expect("written").output().expect("it runs")
}

fn shown_policy(cluster: &Cluster, host: usize) -> serde_json::Value {
    cluster.ctl_json(host, &["policy", "show"]).expect("a policy")
}

/// Invariants 1 and 12.
#[test]
fn a_policy_is_replaced_by_admins_and_a_host_sees_what_is_about_its_networks() {
    let Some(mut cluster) = cluster(2) else { return };
    cluster.ctl(0, &["network", "create", "secret", "--nodes", "role=db"]).unwrap();

    let applied = replace(&cluster, 0, "apply", POLICY);
    assert!(applied.stdout.starts_with("revision 1 of the policy is live"), "{}", applied.stderr);
    let no_admin = replace(&cluster, 1, "shadow", POLICY);
    assert!(no_admin.stderr.contains("needs the role admin"), "{}", no_admin.stderr);
    let mistaken = replace(&cluster, 0, "apply", "x = 1");
    assert_eq!(mistaken.status.code(), Some(1));
    assert!(mistaken.stderr.contains("line 1, column 1: x: "), "{}", mistaken.stderr);
    assert_eq!(shown_policy(&cluster, 0)["document"], POLICY);
    let of_node = shown_policy(&cluster, 1);
    assert_eq!((&of_node["text"], &of_node["partial"]), (&VISIBLE.into(), &true.into()));

    let control = cluster.control().unwrap();
    control.kill().unwrap();
    for host in [0, 1] {
        let by_itself = || {
            let shown = cluster.ctl_json(host, &["policy", "show"]);
            shown.is_ok_and(|shown| shown["partial"] == true && shown["text"] == VISIBLE)
        };
        wait_until(PATIENCE, "the agent answers by what it knows", by_itself).unwrap();
    }
    let away = replace(&cluster, 0, "apply", POLICY);
    assert_eq!(away.status.code(), Some(3), "{}", away.stderr);

    cluster.restart(&control).unwrap();
    cluster.wait_for_control(0).unwrap();
    let history = cluster.ctl(0, &["policy", "history", "-q"]).unwrap().stdout;
    assert_eq!(history.trim(), "1");
    cluster.ctl(0, &["policy", "rollback", "0"]).unwrap();
    let is_gone = || shown_policy(&cluster, 1)["policy"].is_null();
    wait_until(PATIENCE, "no policy is left", is_gone).unwrap();
    cluster.finish().unwrap();
}
