//! Nothing is left, however a lab ends. These tests run labs inside a host of a lab, where nobody
//! else changes anything.

use std::time::Duration;

use nix::sys::signal::Signal;
use overlay_lab::{Lab, wait_until};

use super::{lab, skip};

/// The folders in which a lab must leave nothing, on the machine that it runs on.
const FOLDERS: [&str; 3] = ["/run", "/etc", "/var/lib"];

/// Makes a machine of our own.
fn machine() -> Option<Lab> {
    let lab = lab(1)?;
    // Not every system allows nested namespaces.
    let nested = lab.host(0).command("overlay-lab").args(["up", "1"]).output().expect("a host");
    if !nested.status.success() {
        skip(&nested.stderr);
        return None;
    }
    lab.host(0).command("overlay-lab").arg("down").run().expect("down");
    Some(lab)
}

#[test]
fn a_lab_shows_nothing_on_its_machine_and_leaves_nothing() {
    let Some(outer) = machine() else { return };
    let machine = outer.host(0);
    let before = machine.snapshot(&FOLDERS).unwrap();

    machine.command("overlay-lab").args(["up", "3"]).run().unwrap();
    let differences = before.differences(&machine.snapshot(&FOLDERS).unwrap());
    let seen: Vec<_> = differences.iter().filter(|line| !line.starts_with("+ processes")).collect();
    assert_eq!(
        seen,
        ["+ files: /run/overlay-lab/default", "+ files: /run/overlay-lab/default/lab.json"],
        "{differences:?}"
    );

    machine.command("overlay-lab").arg("down").run().unwrap();
    before.assert_unchanged(|| machine.snapshot(&FOLDERS)).unwrap();
}

#[test]
fn a_lab_within_a_host_has_what_the_machine_has() {
    let Some(outer) = machine() else { return };
    outer.host(0).command("overlay-lab").args(["up", "2"]).run().unwrap();

    let inner = ["exec", "host2", "--", "overlay-lab", "exec", "host2", "--", "true"];
    let none = outer.host(0).command("overlay-lab").args(inner).output().unwrap();
    assert!(none.stderr.contains("is not up"), "labs do not see those outside: {}", none.stderr);
    for path in ["/etc/passwd", "/etc/alternatives", "/var/lib/dpkg"] {
        let there = std::path::Path::new(path).exists();
        let test = ["exec", "host2", "--", "test", "-e", path];
        assert_eq!(
            outer.host(0).command("overlay-lab").args(test).output().unwrap().status.success(),
            there,
            "{path}"
        );
    }
}

#[test]
fn two_labs_live_side_by_side() {
    let Some(outer) = machine() else { return };
    let machine = outer.host(0);
    let before = machine.snapshot(&FOLDERS).unwrap();

    for name in ["one", "two"] {
        machine.command("overlay-lab").args(["up", "2", "--lab", name]).run().unwrap();
    }
    let again = machine.command("overlay-lab").args(["up", "2", "--lab", "one"]).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(again.stderr.contains("is up already"), "{}", again.stderr);
    machine
        .command("overlay-lab")
        .args(["exec", "--lab", "one", "a", "--", "touch", "/run/mine"])
        .run()
        .unwrap();
    let other = ["exec", "--lab", "two", "host1", "--", "test", "-e", "/run/mine"];
    assert_eq!(machine.command("overlay-lab").args(other).output().unwrap().status.code(), Some(1));
    for name in ["one", "two"] {
        machine.command("overlay-lab").args(["down", "--lab", name]).run().unwrap();
    }

    before.assert_unchanged(|| machine.snapshot(&FOLDERS)).unwrap();
}

#[test]
fn what_a_crash_leaves_is_cleaned_by_the_next_run() {
    let Some(outer) = machine() else { return };
    let machine = outer.host(0);
    let before = machine.snapshot(&FOLDERS).unwrap();

    machine.command("overlay-lab").args(["up", "2"]).run().unwrap();
    for pid in machine.pids_of("overlay-lab").unwrap().into_iter().filter(|pid| *pid != 1) {
        // The switch first: the kernel then kills the hosts, so the rest may be gone already.
        let _ = machine.kill(pid, "KILL");
    }
    wait_until(Duration::from_secs(5), "the hosts die with their switch", || {
        machine.pids_of("overlay-lab").unwrap() == [1]
    })
    .unwrap();

    machine.command("overlay-lab").args(["up", "2"]).run().unwrap();
    machine.command("overlay-lab").arg("down").run().unwrap();
    before.assert_unchanged(|| machine.snapshot(&FOLDERS)).unwrap();
}

#[test]
fn a_killed_program_takes_its_lab_along() {
    let Some(outer) = machine() else { return };
    let machine = outer.host(0);
    let before = machine.snapshot(&FOLDERS).unwrap();

    for signal in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT] {
        let held = machine.command("overlay-lab").args(["hold", "2"]).spawn().unwrap();
        wait_until(Duration::from_secs(10), "the lab is up", || held.stdout().contains("up"))
            .unwrap();
        assert!(machine.pids_of("overlay-lab").unwrap().len() >= 4);
        let [parent, ..] = machine.pids_of("overlay-lab").unwrap()[1..] else { panic!("it runs") };
        machine.kill(parent, signal.as_str()).unwrap();
        before.assert_unchanged(|| machine.snapshot(&FOLDERS)).unwrap();
    }
}

#[test]
fn a_host_dies_with_all_that_runs_in_it() {
    let Some(lab) = lab(2) else { return };
    lab.host(0)
        .command("sh")
        .args(["-c", "setsid sleep 600 & setsid sleep 601 & exit 0"])
        .run()
        .unwrap();
    wait_until(Duration::from_secs(5), "both sleep", || {
        lab.host(0).pids_of("sleep").unwrap().len() == 2
    })
    .unwrap();
    let inits: Vec<_> = lab.hosts().iter().map(overlay_lab::Host::init_pid).collect();

    lab.finish().unwrap();
    for init in inits {
        assert!(!std::path::Path::new(&format!("/proc/{init}")).exists());
    }
}
