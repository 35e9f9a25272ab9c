//! Names belong to their first holders.

use std::collections::BTreeSet;
use std::time::Duration;

use overlay_lab::{Cluster, Running, wait_until};

use super::cluster;

const PATIENCE: Duration = Duration::from_secs(30);
/// How often a name is asked for.
const TIMES: u32 = 100;

/// Fetches from a name [`TIMES`] times in one container on a host; returns how often, and the
/// different answers.
fn answers(cluster: &Cluster, host: usize, from: &str) -> (usize, BTreeSet<String>) {
    let script = format!(
        "for i in $(seq {TIMES}); do overlay-lab fetch http://{from}:8080/hello; echo; done"
    );
    let args = ["run", "-q", "--network", "net", "--", "sh", "-c", &script];
    let run = cluster.host(host).command("overlayctl").args(args).deadline(PATIENCE * 2);
    let said = run.run().expect("it fetches").stdout;
    let lines = said.lines().filter(|line| !line.is_empty());

    (lines.clone().count(), lines.map(str::to_owned).collect())
}

/// Serves HTTP on a host, saying who answers.
fn serve(cluster: &Cluster, host: usize, naming: &[&str], says: &str) -> Running {
    let run = ["run", "--network", "net"];
    let server = ["--", "overlay-lab", "serve-http", "--name", says];
    let args = [run.as_slice(), naming, &server].concat();
    let mut running = cluster.host(host).command("overlayctl").args(args).spawn().expect("it runs");
    let is_up = || running.stdout().contains("listens on") || !running.is_running();
    wait_until(PATIENCE, "it serves", is_up).expect("it serves");
    assert!(running.is_running(), "{}{}", running.stdout(), running.stderr());

    running
}

fn all(says: &[&str]) -> (usize, BTreeSet<String>) {
    (TIMES as usize, says.iter().map(|who| format!("hello from {who}")).collect())
}

/// Returns what `endpoint ls` on host1 says of service1 on a host.
fn listed_problem(cluster: &Cluster, node: &str) -> String {
    let rows = cluster.endpoints(0).unwrap_or_default();
    let row = rows.iter().find(|row| row["node"] == node && row["name"] == "service1");

    row.and_then(|row| row["problem"].as_str()).unwrap_or_default().to_owned()
}

/// Lists what `status` on a host says of names that several claim.
fn told(cluster: &Cluster, host: usize) -> Vec<String> {
    let status = cluster.ctl_json(host, &["status"]).unwrap_or_default();
    let problems = status["problems"].as_array().cloned().unwrap_or_default();
    let of_names = problems.iter().filter(|problem| problem["code"] == "name-taken");

    of_names.filter_map(|problem| Some(problem["text"].as_str()?.to_owned())).collect()
}

#[test]
fn a_second_service1_takes_nothing_from_the_first_and_both_hosts_are_told() {
    let Some(mut cluster) = cluster(3) else { return };
    cluster.ctl(0, &["network", "create", "net"]).unwrap();
    let first = serve(&cluster, 0, &["--name", "service1"], "first");
    wait_until(PATIENCE, "all know the first", || cluster.lists(0, "service1")).unwrap();
    let second = serve(&cluster, 1, &["--name", "Service1"], "second");
    wait_until(PATIENCE, "the conflict is listed", || {
        !listed_problem(&cluster, "host2").is_empty()
    })
    .unwrap();

    let said = listed_problem(&cluster, "host2");
    assert!(said.contains("the name service1 belongs to service1"), "{said}");
    assert_eq!(listed_problem(&cluster, "host1"), "");
    for host in [0, 1, 2] {
        assert_eq!(answers(&cluster, host, "service1"), all(&["first"]), "on {host}");
        assert_eq!(answers(&cluster, host, "service1.host2"), all(&["second"]), "on {host}");
    }
    wait_until(PATIENCE, "both are told", || [0, 1].iter().all(|&h| !told(&cluster, h).is_empty()))
        .unwrap();
    let (holder, other) = (told(&cluster, 0), told(&cluster, 1));
    assert!(holder.len() == 1 && holder[0].contains("also claimed by service1"), "{holder:?}");
    assert!(other.len() == 1 && other[0].contains("service1.host2"), "{other:?}");
    assert_eq!(told(&cluster, 2), [""; 0]);

    // Neither a restart of the holder's agent nor one of control gives it to who waits.
    for daemon in [cluster.agent(0).unwrap(), cluster.control().unwrap()] {
        daemon.kill().unwrap();
        cluster.restart(&daemon).unwrap();
        cluster.wait_for_agent(0).unwrap();
        assert_eq!(answers(&cluster, 2, "service1"), all(&["first"]));
    }

    drop(first);
    let is_second = || answers(&cluster, 2, "service1") == all(&["second"]);
    wait_until(PATIENCE, "the name goes on to the second", is_second).unwrap();
    wait_until(PATIENCE, "nobody is told any more", || {
        [0, 1].iter().all(|&host| told(&cluster, host).is_empty())
    })
    .unwrap();

    drop(second);
    cluster.finish().unwrap();
}

#[test]
fn what_is_shared_on_purpose_spreads() {
    let Some(cluster) = cluster(3) else { return };
    cluster.ctl(0, &["network", "create", "net"]).unwrap();
    let replica = ["--name", "web", "--replica"];
    let replicas = [0, 1, 2].map(|host| serve(&cluster, host, &replica, &format!("web{host}")));
    let aliases = [0, 1].map(|host| {
        let name = format!("front{host}");
        serve(&cluster, host, &["--name", &name, "--alias", "front"], &name)
    });
    let single = serve(&cluster, 2, &["--name", "web"], "single");
    wait_until(PATIENCE, "all are known", || cluster.endpoints(0).is_ok_and(|all| all.len() == 6))
        .unwrap();

    for host in [0, 1, 2] {
        assert_eq!(answers(&cluster, host, "web"), all(&["web0", "web1", "web2"]), "on {host}");
        assert_eq!(answers(&cluster, host, "front"), all(&["front0", "front1"]), "on {host}");
    }
    wait_until(PATIENCE, "who is no replica is told", || !told(&cluster, 2).is_empty()).unwrap();

    drop((single, replicas, aliases));
    cluster.finish().unwrap();
}

#[test]
fn what_everybody_knows_as_something_else_is_no_name() {
    let Some(cluster) = cluster(2) else { return };
    cluster.ctl(0, &["network", "create", "net"]).unwrap();
    let refused = |args: &[&str]| {
        let output = cluster.host(1).command("overlayctl").args(args).output().expect("it runs");
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}{}", output.stdout, output.stderr);

        output.stderr
    };
    let run = |naming: &[&str]| {
        refused(&[["run", "--network", "net"].as_slice(), naming, &["--", "true"]].concat())
    };

    for naming in [["--name", "localhost"], ["--alias", "a.localhost"]] {
        assert!(run(&naming).contains("every host calls itself so"), "{naming:?}");
    }
    for naming in [["--name", "0123456789ab"], ["--alias", "0123456789AB"]] {
        assert!(run(&naming).contains("12 hexadecimal digits are an id"), "{naming:?}");
    }
    assert!(refused(&["network", "create", "NET"]).contains("net"));

    cluster.finish().unwrap();
}

/// The answers' codes to questions for these names, as containers on these networks get them.
fn codes(cluster: &Cluster, networks: &str, names: &[&str]) -> Vec<String> {
    let script = format!(
        "for name in {}; do dig +tries=1 $name | grep -o 'status: [A-Z]*'; done",
        names.join(" ")
    );
    let args = ["run", "-q", "--network", networks, "--", "sh", "-c", &script];
    let run = cluster.host(0).command("overlayctl").args(args).deadline(PATIENCE);
    let said = run.run().expect("it asks").stdout;

    said.lines().map(|line| line.trim_start_matches("status: ").to_owned()).collect()
}

/// The host has no resolver: what is to be asked for there fails, and what is not is no name.
#[test]
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn other_resolvers_are_asked_for_nothing_of_the_overlay_nor_of_internal_networks() {
    if std::process::Command::new("dig").arg("-v").output().is_err() {
        return eprintln!("SKIPPED: needs dig");
    }
    let Some(cluster) = cluster(1) else { return };
    for network in ["othernet", "mynet"] {
        cluster.ctl(0, &["network", "create", network]).unwrap();
    }
    cluster.ctl(0, &["network", "create", "--internal", "vault"]).unwrap();
    let named = ["run", "--network", "othernet", "--name", "db", "--", "sleep", "60"];
    let db = cluster.host(0).command("overlayctl").args(named).spawn().expect("it runs");
    wait_until(PATIENCE, "the name is known", || cluster.lists(0, "db")).unwrap();

    let names = ["example.com", "db.othernet", "no.othernet", "no.host1", "no.mynet", "no"];
    let outside = codes(&cluster, "mynet", &names);
    assert_eq!(outside[0], "SERVFAIL", "it is asked for");
    assert_eq!(outside[1..], ["NXDOMAIN"; 5], "of {names:?}");
    assert_eq!(codes(&cluster, "vault", &["example.com", "db.othernet"]), ["NXDOMAIN"; 2]);
    assert_eq!(codes(&cluster, "vault,mynet", &["example.com"]), ["SERVFAIL"]);
    assert_eq!(codes(&cluster, "vault,othernet", &["db.othernet"]), ["NOERROR"]);

    drop(db);
    cluster.finish().unwrap();
}
