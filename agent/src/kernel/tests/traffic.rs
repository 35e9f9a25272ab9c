//! Who reaches whom, and who does not.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use ipnet::IpNet;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::rig::{
    Container, GATEWAY, NODE, Rig, desired, nothing_waits, receive, reconcile, remote, running,
    send, skipped, socket, v4, v6,
};
use crate::kernel::netlink::Netlink;
use crate::kernel::tables::Address;

#[tokio::test]
async fn endpoints_of_one_network_reach_each_other_and_the_gateway() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (namespace, _tun) = running(&rig, 1, &[&a, &b]).await;

    for address in [v4, v6] {
        let (from, to) = (a.socket(address(11)), b.socket(address(12)));
        send(&from, address(12), "hello").expect("a route");
        assert_eq!(receive(&to), ("hello".to_owned(), address(11)));
        send(&to, address(11), "back").expect("a route");
        assert_eq!(receive(&from), ("back".to_owned(), address(12)));

        let gateway = socket(namespace.netns(), address(GATEWAY));
        send(&from, address(GATEWAY), "who is there").expect("a route");
        assert_eq!(receive(&gateway), ("who is there".to_owned(), address(11)));
        send(&gateway, address(11), "I am").expect("a route");
        assert_eq!(receive(&from), ("I am".to_owned(), address(GATEWAY)));
    }
}

#[tokio::test]
async fn the_same_prefix_twice_works_and_nothing_crosses() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a1, b1, a2, b2) =
        (Container::new(11), Container::new(12), Container::new(11), Container::new(12));
    let _one = running(&rig, 1, &[&a1, &b1]).await;
    let _two = running(&rig, 2, &[&a2, &b2]).await;
    let (to1, to2) = (b1.socket(v4(12)), b2.socket(v4(12)));

    send(&a1.socket(v4(11)), v4(12), "one").expect("a route");
    send(&a2.socket(v4(11)), v4(12), "two").expect("a route");

    assert_eq!(receive(&to1).0, "one");
    assert_eq!(receive(&to2).0, "two");
    assert!(nothing_waits(&to1) && nothing_waits(&to2));
}

#[tokio::test]
async fn a_source_that_is_another_endpoint_s_gets_nowhere() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b, c) = (Container::new(11), Container::new(12), Container::new(13));
    let (namespace, _tun) = running(&rig, 1, &[&a, &b, &c]).await;
    let mut inside = Netlink::open(&a.netns).await.expect("a connection");

    for address in [v4, v6] {
        // Another endpoint's, the gateway's, one that nobody has, one that lives behind the TUN.
        for forged in [address(13), address(GATEWAY), address(99), remote(5)] {
            if forged.is_ipv4() != address(11).is_ipv4() {
                continue;
            }
            let on_eth0 = Address { link: "eth0".to_owned(), address: IpNet::from(forged) };
            inside.add_address(&on_eth0).await.expect("root in a container may do that");
            let (honest, forger) = (a.socket(address(11)), a.socket(forged));
            for (to, at) in
                [(b.socket(address(12)), 12), (socket(namespace.netns(), address(NODE)), NODE)]
            {
                send(&honest, address(at), "first").expect("a route");
                assert_eq!(receive(&to).0, "first");
                let _refused_here_or_there = send(&forger, address(at), "forged");
                send(&honest, address(at), "last").expect("a route");

                assert_eq!(receive(&to), ("last".to_owned(), address(11)), "{forged} to {at}");
                assert!(nothing_waits(&to), "{forged} to {at}");
            }
            inside.remove_address(&on_eth0).await.expect("an address");
        }
    }
}

#[tokio::test]
async fn a_v4_network_has_no_ipv6_at_all() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (mut namespace, _tun) = rig.open(1).await;
    let mut v4_only = desired(1, &[]);
    v4_only.gateways.retain(std::net::IpAddr::is_ipv4);
    v4_only.unreachable.retain(|p| matches!(p, IpNet::V4(_)));

    reconcile(&mut namespace, &v4_only).await;

    let bound = namespace.netns().within(|| std::net::UdpSocket::bind("[::1]:0"));
    assert!(bound.expect("a namespace").is_err());
    assert_eq!(reconcile(&mut namespace, &v4_only).await.steps, []);
}

#[tokio::test]
async fn ipv6_can_be_given_to_a_running_network_and_taken_away() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (mut namespace, _tun) = running(&rig, 1, &[&a, &b]).await;
    let both = desired(1, &[11, 12]);
    let mut v4_only = both.clone();
    v4_only.gateways.retain(std::net::IpAddr::is_ipv4);
    v4_only.unreachable.retain(|p| matches!(p, IpNet::V4(_)));

    for wanted in [&v4_only, &both] {
        reconcile(&mut namespace, wanted).await;
        assert_eq!(reconcile(&mut namespace, wanted).await.steps, []);
    }

    for address in [v4, v6] {
        let (from, to) = (a.socket(address(11)), b.socket(address(12)));
        send(&from, address(12), "hello").expect("a route");
        assert_eq!(receive(&to).0, "hello");
    }
}

#[tokio::test]
async fn remote_packets_leave_and_enter_by_the_tun_under_strict_rp_filter() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let a = Container::new(11);
    let (_namespace, tun) = running(&rig, 1, &[&a]).await;
    let socket = a.socket(v4(11));
    let queues: Vec<std::fs::File> = tun.queues.into_iter().map(std::fs::File::from).collect();

    send(&socket, remote(5), "out").expect("a route");
    let (mut queue, packet) = first_udp(&queues);

    // The answer: addresses and ports swapped, which leaves the checksums right.
    let mut answer = packet.clone();
    answer[10 + 12..10 + 16].copy_from_slice(&packet[10 + 16..10 + 20]);
    answer[10 + 16..10 + 20].copy_from_slice(&packet[10 + 12..10 + 16]);
    // A forged one: its source is the endpoint's neighbour, which is not behind the TUN.
    let mut forged = answer.clone();
    forged[10 + 12..10 + 16].copy_from_slice(&[10, 42, 0, 12]);
    // From an address that nobody has.
    let mut unknown = answer.clone();
    unknown[10 + 12..10 + 16].copy_from_slice(&[10, 42, 0, 77]);
    for packet in [forged, unknown, answer] {
        queue.write_all(&packet).expect("a queue");
    }

    assert_eq!(receive(&socket), ("out".to_owned(), remote(5)));
    assert!(nothing_waits(&socket));
}

/// Waits for the first UDP packet on any queue. The header in front says what is left to do: with
/// the checksum offloaded, the packet is written back with the same header, so the kernel does it.
fn first_udp(queues: &[std::fs::File]) -> (&std::fs::File, Vec<u8>) {
    loop {
        let mut waits: Vec<_> =
            queues.iter().map(|q| PollFd::new(q.as_fd(), PollFlags::POLLIN)).collect();
        let ready = poll(&mut waits, PollTimeout::from(5000_u16)).expect("queues");
        assert!(ready > 0, "no packet in time");
        let mut buffer = vec![0; 70_000];
        for mut queue in queues {
            if let Ok(len) = queue.read(&mut buffer)
                && len > 30
                && buffer[10] >> 4 == 4
                && buffer[10 + 9] == 17
            {
                buffer.truncate(len);
                return (queue, buffer);
            }
        }
    }
}
