//! The first hour of a user.

use std::time::{Duration, Instant};

use overlay_lab::Cluster;

use super::{cluster, lab};

/// Invariant 10.
#[test]
fn the_demo_passes_and_leaves_its_machine_as_it_was() {
    let Some(outer) = lab(1) else { return };
    let machine = outer.host(0);
    let before = machine.snapshot(&["/run", "/etc", "/var/lib"]).unwrap();

    let demo = machine.command("overlay-lab").args(["demo", "--no-build", "--seconds=1"]);
    let output = demo.deadline(Duration::from_secs(90)).run().unwrap();
    assert!(output.stdout.contains("steps passed"), "{}", output.stdout);
    assert!(output.elapsed < Duration::from_secs(30), "{:?}\n{}", output.elapsed, output.stdout);
    before.assert_unchanged(|| machine.snapshot(&["/run", "/etc", "/var/lib"])).unwrap();
}

#[test]
fn two_commands_and_ten_seconds_to_the_first_answer() {
    let Some(lab) = lab(2) else { return };

    let start = Instant::now();
    let cluster = Cluster::on(lab).unwrap();
    cluster.ctl(0, &["network", "create", "my-network"]).unwrap();
    let server = cluster.serve_http(1, "my-network", "service2").unwrap();
    cluster.fetch(0, "my-network", "service1", "service2").unwrap();
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());

    drop(server);
    cluster.finish().unwrap();
}

#[test]
fn three_hosts_reach_each_other_by_short_and_full_name() {
    let Some(cluster) = cluster(3) else { return };
    cluster.ctl(2, &["network", "create", "my-network"]).unwrap();
    let servers: Vec<_> = (0..3)
        .map(|host| cluster.serve_http(host, "my-network", &format!("service{host}")).unwrap())
        .collect();

    for from in 0..3 {
        for to in 0..3 {
            cluster.fetch(from, "my-network", "client", &format!("service{to}")).unwrap();
            cluster
                .fetch(from, "my-network", "client", &format!("service{to}.my-network"))
                .unwrap();
        }
    }
    let nodes = cluster.ctl_json(1, &["node", "ls"]).unwrap();
    assert_eq!(nodes.as_array().unwrap().len(), 3);

    drop(servers);
    cluster.finish().unwrap();
}

#[test]
fn large_packets_and_streams_arrive_whole_over_either_underlay() {
    let Some(lab) = lab(1) else { return };
    drop(lab);
    for ipv6 in [true, false] {
        let prefix = ipv6.then_some(overlay_lab::Topology::IPV6);
        let lab = overlay_lab::Lab::builder(2).ipv6(prefix).start().unwrap();
        let cluster = Cluster::on(lab).unwrap();
        cluster.ctl(0, &["network", "create", "net"]).unwrap();
        let sink = cluster.serve(1, "net", "sink", &["throughput", "serve"], "listening").unwrap();

        cluster
            .container(0, "net", "pinger")
            .unwrap()
            .args(["ping", "-c3", "--size=20000", "sink"])
            .run()
            .unwrap();
        let client = ["throughput", "client", "sink", "--seconds=1", "--streams=4", "--verify"];
        cluster.container(0, "net", "sender").unwrap().args(client).run().unwrap();
        drop(sink);
        cluster.finish().unwrap();
    }
}

#[test]
fn a_partition_heals_by_itself() {
    let Some(cluster) = cluster(2) else { return };
    cluster.ctl(0, &["network", "create", "net"]).unwrap();
    let server = cluster.serve_http(1, "net", "service2").unwrap();
    cluster.fetch(0, "net", "service1", "service2").unwrap();

    cluster.lab().partition(0, 1).unwrap();
    assert!(cluster.fetch(0, "net", "service1", "service2").is_err());
    cluster.lab().heal(0, 1).unwrap();
    overlay_lab::wait_until(Duration::from_secs(15), "the fetch works again", || {
        cluster.fetch(0, "net", "service1", "service2").is_ok()
    })
    .unwrap();

    drop(server);
    cluster.finish().unwrap();
}

#[test]
fn a_removed_node_is_refused_within_two_seconds() {
    let Some(cluster) = cluster(2) else { return };
    cluster.ctl(0, &["network", "create", "net"]).unwrap();
    let server = cluster.serve_http(0, "net", "service1").unwrap();
    let ping = ["ping", "--count=100", "--interval-ms=50", "--json", "service1"];
    cluster.fetch(1, "net", "client", "service1").unwrap();

    let ping = cluster.container(1, "net", "pinger").unwrap().args(ping).spawn().unwrap();
    overlay_lab::wait_until(Duration::from_secs(5), "the ping is attached", || {
        cluster
            .ctl_json(0, &["endpoint", "ls"])
            .is_ok_and(|list| list.to_string().contains("\"pinger\""))
    })
    .unwrap();
    cluster.ctl(0, &["node", "rm", "host2"]).unwrap();
    let output = ping.wait(Duration::from_secs(20)).unwrap();

    let summary: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    let received = summary["received"].as_u64().unwrap();
    assert!(received > 0 && received < 60, "answers must stop within two seconds: {summary}");
    drop(server);
}
