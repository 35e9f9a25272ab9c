//! What the underlay and its inhabitants may do to a lane.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use overlay_dataplane::Direction;

use crate::support::as_root;
use crate::world::World;

/// How long the lanes' threads of this process have run so far, and how often they were woken.
fn lane_threads() -> (Duration, u64) {
    let threads = std::fs::read_dir("/proc/self/task").expect("threads").flatten();
    let read = |thread: &std::fs::DirEntry, file| {
        std::fs::read_to_string(thread.path().join(file)).unwrap_or_default()
    };
    let lanes = threads.filter(|thread| read(thread, "comm").starts_with("lane"));

    lanes.fold((Duration::ZERO, 0), |(ran, woken), thread| {
        let nanoseconds =
            read(&thread, "schedstat").split(' ').next().and_then(|word| word.parse().ok());
        let status = read(&thread, "status");
        let voluntary =
            status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        let switches: u64 = voluntary.and_then(|count| count.trim().parse().ok()).expect("a count");

        (ran + Duration::from_nanos(nanoseconds.expect("a time")), woken + switches)
    })
}

#[test]
fn junk_of_every_length_changes_nothing() {
    as_root(async {
        let world = World::new(1).await;
        ping(&world);
        world.b.wait_established().await;
        let to = world.b.lane_address(0);
        let attacker =
            world.a.host.within(|| UdpSocket::bind("0.0.0.0:0")).expect("entered").expect("bound");

        let mut sent = 0u64;
        for len in 0..=65_507usize {
            let mut junk = vec![u8::try_from(len % 251).expect("small"); len];
            if let Some(kind) = junk.first_mut() {
                *kind = u8::try_from(len % 6).expect("small");
            }
            // Every header that looks like WireGuard's, and every other.
            junk.iter_mut().skip(1).take(3).for_each(|byte| *byte = 0);
            sent += u64::from(attacker.send_to(&junk, to).is_ok());
        }

        ping(&world);
        let reports = world.b.reports().await;
        let refused = reports[0].engine.dropped_in(Direction::Inbound);
        println!("{sent} datagrams of junk sent, {refused} refused by the engine");
        assert!(refused > 0);
        assert_eq!(reports[0].engine.delivered, 2);
        world.end().await;
    });
}

/// One datagram from a to b.
fn ping(world: &World) {
    let receiver = world.b.inside(|| UdpSocket::bind((world.b.address, 0))).expect("bound");
    receiver.set_read_timeout(Some(crate::world::PATIENCE)).expect("set");
    let sender = world.a.inside(|| UdpSocket::bind((world.a.address, 0))).expect("bound");
    sender.send_to(b"ping", receiver.local_addr().expect("an address")).expect("sent");
    assert_eq!(receiver.recv(&mut [0; 16]).expect("received"), 4);
}

#[test]
fn an_idle_lane_does_not_run() {
    as_root(async {
        let world = World::new(2).await;
        ping(&world);

        world.a.wait_established().await;
        world.b.wait_established().await;

        let (ran_before, woken_before) = lane_threads();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (ran, woken) = lane_threads();

        let (ran, woken) = (ran - ran_before, woken - woken_before);
        println!("four idle lanes: {ran:?} in 2 s, woken {woken} times");
        // A lane that looks again and again without sleeping is seen by its time, one that sleeps
        // too shortly by how often it is woken.
        assert!(ran < Duration::from_millis(40), "{ran:?} in 2 s");
        assert!(woken < 100, "woken {woken} times in 2 s");
        world.end().await;
    });
}

#[test]
fn peers_that_refuse_and_networks_that_end_do_not_end_the_lane() {
    as_root(async {
        let mut world = World::new(1).await;
        // Nobody listens there any more: the underlay answers with ICMP errors.
        world.b.lanes = None;
        let sender = world.a.inside(|| UdpSocket::bind((world.a.address, 0))).expect("bound");
        for _ in 0..50 {
            let at = SocketAddr::new(world.b.address.into(), 9);
            sender.send_to(b"nobody hears this", at).expect("sent");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }

        world.b.start_lanes().await;
        world.publish();
        world.b.lanes.as_ref().expect("running").wake_peers().expect("told");
        ping(&world);

        world.end().await;
    });
}

/// Invariant 13.
#[test]
fn what_the_underlay_does_not_take_is_counted_and_never_fragmented() {
    as_root(async {
        let world = World::new(1).await;
        ping(&world);
        world.a.set_underlay_mtu(1300).await;

        let sender = world.a.inside(|| UdpSocket::bind((world.a.address, 0))).expect("bound");
        let nobody = SocketAddr::new(world.b.address.into(), 9);
        sender.send_to(&[7; 1_380], nobody).expect("sent");
        // Goes after the large one on the same queue, so that has been dealt with once this
        // arrives.
        ping(&world);

        // The datagram, and since probes may follow at once, perhaps those.
        let io = world.a.reports().await[0].io;
        assert!(io.udp_too_big >= 1, "{io:?}");
        world.a.wait_mtu(1232).await;
        // The next one is answered with an error, after which the sender's host cuts them itself.
        let receiver = world.b.inside(|| UdpSocket::bind((world.b.address, 0))).expect("bound");
        receiver.set_read_timeout(Some(Duration::from_millis(50))).expect("set");
        let to = receiver.local_addr().expect("an address");
        let arrived = (0..100).find_map(|_| {
            sender.send_to(&[7; 1_380], to).expect("sent");
            receiver.recv(&mut [0; 2_000]).ok()
        });
        assert_eq!(arrived, Some(1_380));
        assert!(world.a.reports().await[0].engine.icmp_sent >= 1);
        world.end().await;
    });
}
