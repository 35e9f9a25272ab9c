//! The plugin proxy in front of the agent's plugin socket where systemd does not hold it: Docker is
//! answered whatever happens to the agent.

use std::time::Duration;

use overlay_lab::{Cluster, Host, wait_until};
use serde_json::{Value, json};

use super::lab;

/// Where Docker looks for the plugin.
const PLUGIN: &str = "/run/docker/plugins/overlay-wg.sock";
const DOOR: &str = "/var/lib/overlay/overlay-door.pid";
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a dead agent may keep Docker waiting: the proxy's grace, on a busy machine.
const AT_ONCE: Duration = Duration::from_secs(3);

fn out(host: &Host, program: &str, args: &[&str]) -> String {
    host.command(program).args(args).run().expect("it works").stdout
}

/// Returns what Docker is answered when it asks for an endpoint of an unknown network.
fn answer(host: &Host) -> Value {
    let call = json!({ "path": "/NetworkDriver.CreateEndpoint", "body": "{\"NetworkID\":\"n\",\"EndpointID\":\"e\"}" });
    let tool = host.command("overlay-lab").args(["plugin", "call", "--socket", PLUGIN]);
    let output = tool
        .input(&format!("{call}\n"))
        .expect("a pipe")
        .deadline(PATIENCE)
        .run()
        .expect("it is answered");
    assert!(output.elapsed < AT_ONCE, "after {:?}: {}", output.elapsed, output.stdout);
    let answered: Value = serde_json::from_str(output.stdout.trim()).expect("JSON");

    serde_json::from_str(answered["answer"].as_str().expect("an answer")).expect("JSON")
}

fn door(host: &Host) -> i32 {
    let noted: Value = serde_json::from_str(&out(host, "cat", &[DOOR])).expect("a note");

    noted["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("a pid")
}

fn refusal(host: &Host) -> String {
    answer(host)["Err"].as_str().unwrap_or_default().to_owned()
}

fn modes(host: &Host, paths: &[&str]) -> String {
    out(host, "stat", &[&["-c", "%a"], paths].concat())
}

fn problems(host: &Host) -> String {
    let status: Value =
        serde_json::from_str(&out(host, "overlayctl", &["status", "--json"])).expect("JSON");

    status["problems"].to_string()
}

/// Kills a process of the host, as in a crash.
fn kill(host: &Host, pid: i32) {
    host.kill(pid, "KILL").expect("it runs");
    let gone = || host.pids_of("overlayd").is_ok_and(|pids| !pids.contains(&pid));
    wait_until(PATIENCE, "its end", gone).expect("it ends");
}

#[test]
fn a_dead_agent_costs_docker_nothing_and_start_brings_agent_and_door_back() {
    let Some(lab) = lab(1) else { return };
    let cluster = Cluster::on(lab).expect("a cluster");
    let host = cluster.host(0);
    let agent_knows_nothing = refusal(host);
    assert!(agent_knows_nothing.contains('n') && !agent_knows_nothing.contains("does not answer"));
    assert_eq!(
        modes(host, &[PLUGIN, DOOR, "/var/lib/overlay/overlay-door.log"]),
        "600\n600\n600\n"
    );
    let first = door(host);

    kill(host, cluster.agent(0).expect("an agent").pid());
    let dead = refusal(host);
    assert!(dead.contains("does not answer") && dead.contains("`overlayctl start`"), "{dead}");
    cluster.ctl(0, &["start"]).expect("started");
    assert_eq!(refusal(host), agent_knows_nothing);
    let again = cluster.ctl(0, &["start"]).expect("nothing to do");
    assert!(!again.stdout.contains("no door"), "{}", again.stdout);
    assert_eq!(door(host), first, "the door that was open stays");

    kill(host, first);
    wait_until(PATIENCE, "status says it", || problems(host).contains("docker-door"))
        .expect("said");
    let opened = cluster.ctl(0, &["start"]).expect("a stale socket is no obstacle");
    assert!(!opened.stdout.contains("no door"), "{}", opened.stdout);
    assert_ne!(door(host), first);
    assert_eq!(refusal(host), agent_knows_nothing);
    wait_until(PATIENCE, "status is well", || !problems(host).contains("docker-door"))
        .expect("well");

    cluster.ctl(0, &["stop"]).expect("stopped");
    assert!(host.pids_of("overlayd").expect("a list").is_empty());
    cluster.ctl(0, &["start"]).expect("started");
    assert_eq!(refusal(host), agent_knows_nothing);

    // Whatever a crash of both left behind is removed as well.
    kill(host, door(host));
    kill(host, cluster.agent(0).expect("an agent").pid());
    cluster.ctl(0, &["leave"]).expect("left");
    cluster.unchanged().expect("nothing is left");
}

/// As after an upgrade from a version that had no plugin proxy without systemd.
#[test]
fn an_agent_that_was_started_without_a_door_keeps_its_socket_until_it_is_started_anew() {
    let Some(lab) = lab(1) else { return };
    let cluster = Cluster::on(lab).expect("a cluster");
    cluster.ctl(0, &["stop"]).expect("stopped");
    let old = ["overlayd", "--state", "/var/lib/overlay/agent", "--docker-plugin", PLUGIN];
    let old = cluster.host(0).command(old[0]).args(&old[1..]).spawn().expect("it starts");
    cluster.wait_for_agent(0).expect("it answers");
    let host = cluster.host(0);
    let serves = || {
        host.command("test")
            .args(["-S", PLUGIN])
            .output()
            .is_ok_and(|output| output.status.success())
    };
    wait_until(PATIENCE, "the agent serves Docker", serves).expect("served");

    let started = cluster.ctl(0, &["start"]).expect("started").stdout;
    assert!(started.contains("no door") && started.contains("`overlayctl stop`"), "{started}");
    assert!(!refusal(host).contains("does not answer"));
    cluster.ctl(0, &["stop"]).expect("stopped");
    drop(old);
    let started = cluster.ctl(0, &["start"]).expect("started").stdout;

    assert!(!started.contains("no door"), "{started}");
    assert!(door(host) > 0 && !refusal(host).contains("does not answer"));
    cluster.finish().expect("nothing is left");
}
