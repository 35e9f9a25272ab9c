//! The tools for hosts that have nothing else installed.

use std::time::{Duration, Instant};

use overlay_lab::wait_until;

use super::lab;

#[test]
fn a_page_is_fetched_by_name() {
    let Some(lab) = lab(2) else { return };
    let server = lab
        .host(1)
        .command("overlay-lab")
        .args(["serve-http", "--listen", "[::]:8080"])
        .spawn()
        .unwrap();
    wait_until(Duration::from_secs(10), "the server listens", || {
        server.stdout().contains("listens on")
    })
    .unwrap();
    let fetch = |args: &[&str]| {
        lab.host(0).command("overlay-lab").arg("fetch").args(args).output().unwrap()
    };

    assert_eq!(fetch(&["http://host2:8080/hello"]).stdout, "hello from host2\n");
    assert_eq!(fetch(&["http://[2001:db8::12]:8080/bytes?n=100000"]).stdout.len(), 100_000);
    assert_eq!(fetch(&["http://host2:8080/echo", "--data", "a body"]).stdout, "a body");
    for (args, complaint) in [
        (&["http://host2:8080/nothing"][..], "answered 404"),
        (&["http://host2:1/"], "cannot connect"),
        (&["http://nobody.invalid/"], "cannot resolve"),
        (&["http://192.0.2.99/", "--timeout=0.3"], "cannot connect"),
    ] {
        let output = fetch(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert!(output.stderr.contains(complaint), "{args:?}: {}", output.stderr);
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    }
    assert_eq!(fetch(&["ftp://host2/"]).status.code(), Some(2));
}

#[test]
fn a_ping_counts_what_is_lost() {
    let Some(lab) = lab(2) else { return };
    let ping = lab.host(0).command("overlay-lab").args([
        "ping",
        "--json",
        "-c40",
        "--interval-ms=50",
        "192.0.2.12",
    ]);

    let running = ping.spawn().unwrap();
    let start = Instant::now();
    let pass = |time: Duration| {
        wait_until(Duration::from_secs(5), "time passes", || start.elapsed() >= time).unwrap()
    };
    pass(Duration::from_millis(400));
    lab.unplug(1).unwrap();
    pass(Duration::from_millis(1000));
    lab.plug(1).unwrap();
    let output = running.wait(Duration::from_secs(20)).unwrap();

    let summary: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(summary["sent"], 40);
    let received = summary["received"].as_u64().unwrap();
    assert!((5..38).contains(&received), "{summary}");
    assert!(summary["longest_silence_ms"].as_f64().unwrap() > 300.0, "{summary}");
}

#[test]
fn streams_arrive_whole() {
    let Some(lab) = lab(2) else { return };
    let server = lab.host(1).command("overlay-lab").args(["throughput", "serve"]).spawn().unwrap();
    wait_until(Duration::from_secs(10), "the server listens", || {
        server.stdout().contains("listening")
    })
    .unwrap();

    let client =
        ["throughput", "client", "host2", "--seconds=0.5", "--streams=3", "--verify", "--json"];
    let output = lab.host(0).command("overlay-lab").args(client).run().unwrap();
    let summary: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert!(summary["bytes"].as_u64().unwrap() > 1_000_000, "{summary}");
    assert_eq!(summary["verified"], true);
}
