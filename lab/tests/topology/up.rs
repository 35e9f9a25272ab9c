//! The command line as people use it, as root and as an ordinary user.

use std::path::Path;
use std::process::{Command, Output};

use super::{lab, skip};

/// The user id of `nobody`, which is the same on every system.
const NOBODY: &str = "65534";

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let Some(lab) = lab(1) else { return };
    let run = |args: &[&str]| lab.host(0).command("overlay-lab").args(args).output().unwrap();

    assert_eq!(run(&["up", "many"]).status.code(), Some(2));
    assert_eq!(run(&["down", "--lab", "../x"]).status.code(), Some(2));
    assert_eq!(run(&["--help"]).status.code(), Some(0));
    for args in [&["down"][..], &["exec", "host1", "--", "true"], &["up", "0"]] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(1), "{args:?}");
        assert_eq!(output.stderr.lines().count(), 1, "{}", output.stderr);
    }
}

#[test]
fn hosts_are_listed_for_programs_too() {
    let Some(lab) = lab(1) else { return };
    if !lab.host(0).command("overlay-lab").args(["up", "2"]).output().unwrap().status.success() {
        return skip("namespaces cannot be nested here");
    }

    let output = lab.host(0).command("overlay-lab").args(["ls", "--json"]).run().unwrap();
    let hosts: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(hosts[1]["host"], "host2");
    assert_eq!(hosts[1]["ipv4"], "192.0.2.12");
    assert_eq!(hosts[1]["up"], true);
    let code = lab
        .host(0)
        .command("overlay-lab")
        .args(["exec", "b", "--", "sh", "-c", "exit 9"])
        .output()
        .unwrap();
    assert_eq!(code.status.code(), Some(9));
    let unknown =
        lab.host(0).command("overlay-lab").args(["exec", "host7", "--", "true"]).output().unwrap();
    assert!(unknown.stderr.contains("there are host1, host2"), "{}", unknown.stderr);
}

/// Runs `overlay-lab` as a user without any right.
fn as_nobody(state: &Path, args: &[&str]) -> Output {
    let program = overlay_lab::bin("overlay-lab").expect("it is built");
    let mut command = if nix::unistd::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", "--bounding-set=-all"])
            .arg(&program);
        command
    } else {
        Command::new(&program)
    };

    command.args(args).env("XDG_RUNTIME_DIR", state).output().expect("it runs")
}

#[test]
fn a_normal_user_gets_the_same_demo() {
    let state = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(state.path(), Some(65534), Some(65534)).unwrap_or_default();
    let up = as_nobody(state.path(), &["up", "1"]);
    if !up.status.success() {
        return skip(&String::from_utf8_lossy(&up.stderr));
    }
    assert!(as_nobody(state.path(), &["down"]).status.success());
    let mode = std::fs::metadata("/dev/net/tun")
        .map_or(0, |tun| std::os::unix::fs::PermissionsExt::mode(&tun.permissions()));
    if mode & 0o006 != 0o006 {
        return skip("this machine keeps /dev/net/tun from normal users");
    }

    let demo = as_nobody(state.path(), &["demo", "--no-build", "--seconds=0.5"]);
    assert!(demo.status.success(), "{}", String::from_utf8_lossy(&demo.stdout));
}

/// A lab made by a user without any right: hosts, TUN devices and all.
#[test]
fn a_normal_user_gets_the_same_lab() {
    let state = tempfile::tempdir().unwrap();
    let as_nobody = |args: &[&str]| as_nobody(state.path(), args);
    std::os::unix::fs::chown(state.path(), Some(65534), Some(65534)).unwrap_or_default();
    let up = as_nobody(&["up", "2"]);
    if !up.status.success() {
        let complaint = String::from_utf8_lossy(&up.stderr).into_owned();
        assert!(complaint.contains("namespaces") || complaint.contains("/proc"), "{complaint}");
        return skip(&complaint);
    }

    let ping = as_nobody(&["exec", "host1", "--", "overlay-lab", "ping", "-c1", "host2"]);
    let write = as_nobody(&[
        "exec",
        "host1",
        "--",
        "sh",
        "-c",
        "id -u && echo x > /etc/written && cat /etc/written",
    ]);
    let down = as_nobody(&["down"]);
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stderr));
    assert_eq!(String::from_utf8_lossy(&write.stdout), "0\nx\n");
    assert!(down.status.success(), "{}", String::from_utf8_lossy(&down.stderr));
}
