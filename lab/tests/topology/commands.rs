//! Running commands on hosts.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use overlay_lab::wait_until;

use super::lab;

#[test]
fn exit_codes_and_output_pass_through() {
    let Some(lab) = lab(1) else { return };
    let shell = |script: &str| lab.host(0).command("sh").args(["-c", script]).output().unwrap();

    let output = shell("echo out; echo err >&2; exit 42");
    assert_eq!(
        (output.status.code(), &*output.stdout, &*output.stderr),
        (Some(42), "out\n", "err\n")
    );
    assert_eq!(shell("kill -KILL $$").status.code(), Some(128 + 9));
    assert_eq!(lab.host(0).command("/does/not/exist").output().unwrap().status.code(), Some(127));
    assert_eq!(lab.host(0).command("/etc").output().unwrap().status.code(), Some(126));
}

#[test]
fn a_failed_command_shows_what_it_was_and_said() {
    let Some(lab) = lab(1) else { return };

    let error = lab
        .host(0)
        .command("sh")
        .args(["-c", "echo broken >&2; exit 3"])
        .run()
        .unwrap_err()
        .to_string();
    assert!(error.contains("host1$ sh -c") && error.contains("broken"), "{error}");
}

#[test]
fn a_command_reads_what_it_is_given_and_knows_where_it_is() {
    let Some(lab) = lab(1) else { return };

    let echo = lab.host(0).command("cat").input("hello").unwrap().run().unwrap();
    assert_eq!(echo.stdout, "hello");
    let folder = lab.host(0).command("pwd").run().unwrap();
    assert_eq!(folder.stdout.trim_end(), std::env::current_dir().unwrap().to_str().unwrap());
    let program = lab.host(0).command("sh").args(["-c", "command -v overlay-lab"]).run().unwrap();
    assert_eq!(
        program.stdout.trim_end(),
        overlay_lab::bin("overlay-lab").unwrap().to_str().unwrap()
    );
}

#[test]
fn signals_reach_the_command() {
    let Some(lab) = lab(1) else { return };
    let script = "trap 'echo got it; exit 5' TERM; echo ready; while :; do sleep 0.05; done";

    let running = lab.host(0).command("sh").args(["-c", script]).spawn().unwrap();
    wait_until(Duration::from_secs(10), "the script runs", || running.stdout().contains("ready"))
        .unwrap();
    running.signal(Signal::SIGTERM).unwrap();
    let output = running.wait(Duration::from_secs(10)).unwrap();
    assert_eq!(output.status.code(), Some(5));
    assert!(output.stdout.ends_with("got it\n"));
}

#[test]
fn a_command_that_takes_too_long_is_killed() {
    let Some(lab) = lab(1) else { return };

    let start = Instant::now();
    let sleep = lab.host(0).command("sleep").arg("600").deadline(Duration::from_millis(300));
    assert!(sleep.output().unwrap_err().to_string().contains("not done after"));
    assert!(start.elapsed() < Duration::from_secs(10));
    wait_until(Duration::from_secs(5), "it is gone", || {
        lab.host(0).pids_of("sleep").unwrap().is_empty()
    })
    .unwrap();
}

#[test]
fn a_daemon_left_behind_holds_nobody_up_and_is_reaped_by_its_host() {
    let Some(lab) = lab(1) else { return };

    let start = Instant::now();
    lab.host(0).command("sh").args(["-c", "sleep 600 & exit 0"]).run().unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    wait_until(Duration::from_secs(5), "it sleeps", || {
        !lab.host(0).pids_of("sleep").unwrap().is_empty()
    })
    .unwrap();
    let [pid] = lab.host(0).pids_of("sleep").unwrap()[..] else { panic!("one sleeps") };
    lab.host(0).kill(pid, "KILL").unwrap();
    let gone = || {
        !lab.host(0)
            .command("test")
            .args(["-e", &format!("/proc/{pid}")])
            .output()
            .unwrap()
            .status
            .success()
    };
    wait_until(Duration::from_secs(5), "the host reaps its orphan", gone).unwrap();
}
