//! Networks that are not for every host.

use std::time::Duration;

use overlay_lab::{Cluster, wait_until};

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
