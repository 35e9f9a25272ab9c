//! `overlayctl run` and `attach` with real namespaces and an agent that only pretends; needs root.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;
use std::time::{Duration, Instant};

use overlay_proto::{Code, v1};
use support::transcript::skipped;
use support::{FakeAgent, mortal};

#[test]
fn a_command_sees_the_overlay_and_not_the_host() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();
    let host = fs::read_to_string("/etc/resolv.conf").ok();

    let script = "cat /etc/resolv.conf /etc/hosts; uname -n; readlink /proc/self/ns/net; cat /sys/class/net/lo/flags";
    let ran =
        agent.run(&["run", "--network", "my-network", "--name", "web", "--", "sh", "-c", script]);

    assert_eq!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("nameserver 10.64.0.1\nsearch my-network\n"), "{ran:?}");
    assert!(ran.stdout.contains("10.64.0.2 web.my-network web\nweb\n"), "{ran:?}");
    let ours = fs::read_link("/proc/self/ns/net").expect("a namespace");
    assert!(!ran.stdout.contains(ours.to_str().expect("a name")), "{ran:?}");
    assert_eq!(fs::read_to_string("/etc/resolv.conf").ok(), host);
    let script = agent.script();
    let request = &script.attached[0];
    assert_eq!(request.netns, format!("/proc/{}/ns/net", request.owner_pid));
    assert_eq!(request.runtime(), v1::Runtime::Run);
    assert_eq!(script.asked, ["attach web to my-network", "detach id-of-web"]);
}

#[test]
fn without_a_name_it_is_another_on_each_network() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();

    let ran = agent.run(&["run", "--network", "front,back", "--", "uname", "-n"]);

    assert_eq!(ran.stdout, "made-up", "{ran:?}");
    assert_eq!(
        agent.script().asked,
        ["attach  to front", "attach  to back", "detach id-of-made-up", "detach id-of-made-up"]
    );
}

#[test]
fn exit_codes_are_passed_on() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();
    let run = |words: &[&str]| agent.run(&[&["run", "--network", "n", "--"], words].concat());

    assert_eq!(run(&["sh", "-c", "exit 42"]).code, 42);
    assert_eq!(run(&["sh", "-c", "kill -9 $$"]).code, 137);
    let missing = run(&["/no/such/program"]);
    assert_eq!(missing.code, 127);
    assert!(missing.stderr.contains("\noverlayctl: /no/such/program: "), "{missing:?}");
    assert_eq!(run(&["/etc/passwd"]).code, 126);
    assert_eq!(agent.script().asked.iter().filter(|what| what.starts_with("detach")).count(), 4);
}

#[test]
fn its_name_and_address_are_told_beside_its_output() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();
    let run = |flags: &[&str]| {
        agent.run(&[flags, &["run", "--network", "front,back", "--", "echo", "ran"]].concat())
    };

    let (text, quiet, json) = (run(&[]), run(&["-q"]), run(&["--json"]));

    assert_eq!(
        text.stderr,
        "overlayctl: made-up is on front: 10.64.0.2\noverlayctl: made-up is on back: 10.64.0.2"
    );
    assert_eq!((quiet.stderr.as_str(), quiet.stdout.as_str()), ("", "ran"));
    let told: serde_json::Value = serde_json::from_str(&json.stderr).expect("a line of JSON");
    assert_eq!(
        (&told["name"], &told["endpoints"][1]["network"]),
        (&"made-up".into(), &"back".into())
    );
    assert_eq!(told["endpoints"][0]["addresses"], serde_json::json!(["10.64.0.2"]));
    assert_eq!([text.stdout, json.stdout], ["ran", "ran"]);
}

#[test]
fn a_refused_attachment_runs_nothing() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();
    agent.refuse(Code::NotFound, "there is no network n");

    let ran = agent.run(&["run", "--network", "n", "--", "echo", "ran"]);

    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
    assert_eq!(ran.stderr, "overlayctl: there is no network n [not-found]");
}

#[test]
fn signals_reach_the_command() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done";
    let mut command = agent.command(&["run", "--network", "n", "--", "sh", "-c", script]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut line = String::new();
    output.read_line(&mut line).expect("a line");

    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("sent");

    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("the rest");
    assert_eq!((line.as_str(), rest.as_str()), ("ready\n", "got it\n"));
    assert_eq!(child.wait().expect("it ran").code(), Some(5));
}

#[test]
fn the_command_does_not_outlive_a_killed_overlayctl() {
    if skipped() {
        return;
    }
    let agent = FakeAgent::start();
    let mut command =
        agent.command(&["run", "--network", "n", "--", "sh", "-c", "echo $$; exec sleep 600"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
    let mut output = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut inner = String::new();
    output.read_line(&mut inner).expect("a pid");

    child.kill().expect("killed");
    child.wait().expect("reaped");

    // The pipe ends when its last holder is gone.
    let begun = Instant::now();
    let mut rest = String::new();
    output.read_to_string(&mut rest).expect("an end");
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert!(
        !fs::read(format!("/proc/{}/cmdline", inner.trim()))
            .is_ok_and(|line| line.starts_with(b"sleep"))
    );
}

#[test]
fn a_namespace_is_named_so_that_the_agent_finds_it() {
    let agent = FakeAgent::start();
    let mut holder = mortal("sleep").arg("600").spawn().expect("a process");
    let path = format!("/proc/{}/ns/net", holder.id());

    let ran = agent.run(&[
        "attach",
        "--netns",
        &path,
        "--network",
        "n",
        "--name",
        "web",
        "--alias",
        "www",
        "--json",
    ]);
    let host = agent.run(&["attach", "--host", "--network", "n", "--name", "web"]);
    let missing = agent.run(&["attach", "--netns", "no-such", "--network", "n", "--name", "web"]);

    holder.kill().and_then(|()| holder.wait()).expect("ended");
    assert_eq!(ran.json()["addresses"], serde_json::json!(["10.64.0.2"]));
    assert_eq!(ran.json()["nameservers"], serde_json::json!(["10.64.0.1"]));
    assert_eq!(host.stdout, "web is on n: 10.64.0.2 (eth0, MTU 1408, nameserver 10.64.0.1)");
    assert_eq!(missing.code, 1, "{missing:?}");
    let script = agent.script();
    assert_eq!(
        (script.attached[0].netns.as_str(), script.attached[0].runtime()),
        (path.as_str(), v1::Runtime::Attach)
    );
    assert_eq!(
        (script.attached[1].netns.as_str(), script.attached[1].runtime()),
        ("", v1::Runtime::Host)
    );
    assert_eq!(script.attached[0].aliases, ["www"]);
}
