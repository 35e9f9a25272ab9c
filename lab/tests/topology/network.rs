//! What hosts see of each other.

use overlay_lab::Lab;
use std::time::Duration;

use super::lab;

#[test]
fn hosts_reach_each_other_by_name_over_both_families() {
    let Some(lab) = lab(3) else { return };

    for host in ["host1", "host2", "host3"] {
        lab.host(2).command("overlay-lab").args(["ping", "-c1", host]).run().unwrap();
        lab.host(0).command("overlay-lab").args(["ping", "-c1", "-6", host]).run().unwrap();
    }
    lab.finish().unwrap();
}

#[test]
fn hosts_have_names_and_links_of_their_own() {
    let Some(lab) = lab(2) else { return };

    let name = lab.host(1).command("cat").arg("/proc/sys/kernel/hostname").run().unwrap();
    assert_eq!(name.stdout, "host2\n");
    let links = lab.host(1).command("cat").arg("/proc/net/dev").run().unwrap().stdout;
    let links: Vec<_> =
        links.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect();
    assert_eq!(links, ["lo", "eth0"]);
}

#[test]
fn what_a_host_writes_stays_in_it() {
    let Some(lab) = lab(2) else { return };

    for path in ["/etc/overlay-lab-test", "/run/overlay-lab-test", "/var/lib/overlay-lab-test"] {
        lab.host(0).write(path, "x").unwrap();
        assert!(lab.host(0).command("cat").arg(path).output().unwrap().status.success());
        assert!(!lab.host(1).command("cat").arg(path).output().unwrap().status.success(), "{path}");
        assert!(!std::path::Path::new(path).exists(), "{path}");
    }
}

#[test]
fn a_partition_loses_everything_and_heals() {
    let Some(lab) = lab(3) else { return };
    let reaches = |from: usize, to: &str| {
        let ping = lab.host(from).command("overlay-lab").args([
            "ping",
            "-c2",
            "--interval-ms=50",
            "--timeout-ms=500",
            to,
        ]);
        ping.output().unwrap().status.success()
    };

    lab.partition(0, 1).unwrap();
    assert!(!reaches(0, "192.0.2.12") && !reaches(1, "192.0.2.11"));
    assert!(!reaches(0, "2001:db8::12"));
    assert!(reaches(0, "192.0.2.13") && reaches(1, "192.0.2.13"));
    lab.heal(0, 1).unwrap();
    assert!(reaches(0, "192.0.2.12") && reaches(0, "2001:db8::12"));

    lab.unplug(2).unwrap();
    assert!(!reaches(0, "192.0.2.13"));
    lab.plug(2).unwrap();
    assert!(reaches(0, "192.0.2.13"));
}

#[test]
fn the_underlay_has_the_mtu_and_the_families_asked_for() {
    if lab(1).is_none() {
        return;
    }
    let lab =
        Lab::builder(2).mtu(1400).ipv4("10.7.0.0/16".parse().unwrap()).ipv6(None).start().unwrap();
    let ping = |size: &str| {
        lab.host(0).command("overlay-lab").args([
            "ping",
            "-c1",
            "--timeout-ms=300",
            "-s",
            size,
            "10.7.0.12",
        ])
    };

    assert!(lab.host(0).plan().ipv6.is_none());
    ping("1300").run().unwrap();
    let mtu = lab.host(0).command("cat").arg("/sys/class/net/eth0/mtu").run().unwrap();
    assert_eq!(mtu.stdout, "1400\n");
}

#[test]
fn a_capture_sees_every_frame_once_and_the_marker_in_it() {
    let Some(lab) = lab(3) else { return };
    lab.host(0).command("overlay-lab").args(["ping", "-c1", "host2"]).run().unwrap();

    let capture = lab.capture(Some("in-the-clear")).unwrap();
    lab.host(0)
        .command("overlay-lab")
        .args(["ping", "-c5", "--interval-ms=10", "--marker=in-the-clear", "192.0.2.12"])
        .run()
        .unwrap();
    lab.host(0)
        .command("overlay-lab")
        .args(["ping", "-c5", "--interval-ms=10", "--marker=elsewhere", "192.0.2.12"])
        .run()
        .unwrap();
    let report = capture.stop().unwrap();

    assert_eq!(report.marked, 10, "five echoes and their answers: {report}");
    assert!(report.frames >= 20 && report.is_complete(), "{report}");
}

#[test]
fn a_capture_looks_into_frames_that_are_not_cut_yet_and_misses_none() {
    let Some(lab) = lab(2) else { return };
    let server = lab.host(1).command("overlay-lab").args(["throughput", "serve"]).spawn().unwrap();
    overlay_lab::wait_until(Duration::from_secs(10), "the server listens", || {
        server.stdout().contains("listening")
    })
    .unwrap();

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("all.pcap");
    let capture = lab.capture_to(Some("in-the-clear"), &file).unwrap();
    let client = [
        "throughput",
        "client",
        "host2",
        "--seconds=0.5",
        "--rate=200",
        "--marker=in-the-clear",
        "--verify",
    ];
    lab.host(0).command("overlay-lab").args(client).run().unwrap();
    let report = capture.stop().unwrap();

    assert!(report.is_complete(), "{report}");
    assert!(report.marked > 50 && report.bytes > 5_000_000, "{report}");
    assert!(report.bytes / report.frames > 1500, "offload makes long frames: {report}");
    assert!(std::fs::metadata(&file).unwrap().len() > report.bytes);
}

#[test]
fn a_host_has_what_the_machine_has_where_it_needs_nothing_of_its_own() {
    let Some(lab) = lab(1) else { return };

    for path in ["/etc/passwd", "/etc/ld.so.cache", "/proc/self/mounts", "/usr", "/dev/null"] {
        let there = std::path::Path::new(path).exists();
        let output = lab.host(0).command("test").args(["-e", path]).output().unwrap();
        assert_eq!(output.status.success(), there, "{path}");
    }
}
