//! What containers send arrives as it was sent.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::as_root;
use crate::world::{Host, PATIENCE, World, stream};

/// Sends `bytes` from one host to the other by TCP and returns what arrived.
fn transfer(from: &Host, to: &Host, address: IpAddr, bytes: &[u8]) -> Vec<u8> {
    let (mut sender, mut receiver) = stream(from, to, address);
    receiver.set_read_timeout(Some(PATIENCE)).expect("set");

    std::thread::scope(|scope| {
        scope.spawn(move || {
            sender.write_all(bytes).expect("sent");
            sender.shutdown(std::net::Shutdown::Write).expect("closed");
        });
        let mut received = Vec::new();
        receiver.read_to_end(&mut received).expect("received");
        received
    })
}

fn pattern(len: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15u64;

    (0..len)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state.to_be_bytes()[0]
        })
        .collect()
}

fn udp_pair(from: &Host, to: &Host, address: IpAddr) -> (UdpSocket, UdpSocket) {
    let receiver = to.inside(|| UdpSocket::bind((address, 0))).expect("bound");
    let at = receiver.local_addr().expect("an address");
    let sender = from.inside(|| {
        let any: SocketAddr =
            if address.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(any)?;
        socket.connect(at)?;
        Ok::<_, std::io::Error>(socket)
    });
    receiver.set_read_timeout(Some(PATIENCE)).expect("set");

    (sender.expect("connected"), receiver)
}

#[test]
fn streams_of_every_size_arrive_whole() {
    as_root(async {
        let world = World::new(1).await;

        for len in [1, 1_355, 1_356, 1_357, 65_536, 8 << 20] {
            let bytes = pattern(len);
            assert!(
                transfer(&world.a, &world.b, world.b.address.into(), &bytes) == bytes,
                "{len} bytes by IPv4"
            );
            assert!(
                transfer(&world.b, &world.a, world.a.address6, &bytes) == bytes,
                "{len} bytes by IPv6"
            );
        }

        world.end().await;
    });
}

#[test]
fn datagrams_up_to_the_mtu_and_fragments_beyond_it_arrive() {
    as_root(async {
        let world = World::new(1).await;

        for address in [IpAddr::V4(world.b.address), world.b.address6] {
            let (sender, receiver) = udp_pair(&world.a, &world.b, address);
            for len in [0, 1, 1_360, 1_372, 1_380, 4_000, 60_000] {
                let bytes = pattern(len);
                sender.send(&bytes).expect("sent");
                let mut buffer = vec![0; 65_536];
                let received = receiver.recv(&mut buffer).expect("received");
                assert!(buffer[..received] == bytes, "{len} bytes to {address}");
            }
        }

        world.end().await;
    });
}

#[test]
fn many_flows_share_the_lanes() {
    as_root(async {
        let world = World::uneven(2, 3).await;

        std::thread::scope(|scope| {
            for flow in 0..32 {
                let world = &world;
                scope.spawn(move || {
                    let bytes = pattern(200_000 + flow);
                    let (from, to) =
                        if flow % 2 == 0 { (&world.a, &world.b) } else { (&world.b, &world.a) };
                    assert!(transfer(from, to, to.address.into(), &bytes) == bytes, "flow {flow}");
                });
            }
        });

        let lanes: Vec<_> =
            world.a.reports().await.iter().map(|report| report.engine.forwarded).collect();
        assert!(
            lanes.iter().all(|&forwarded| forwarded > 0),
            "one lane carried nothing: {lanes:?}"
        );
        world.end().await;
    });
}

/// Starts a stream that ends when its sender is told so; returns whom to tell.
fn start_stream(from: &Host, to: &Host) -> Arc<AtomicBool> {
    let (mut sender, mut receiver) = stream(from, to, to.address.into());
    let enough = Arc::new(AtomicBool::new(false));

    let end = Arc::clone(&enough);
    std::thread::spawn(move || {
        let block = pattern(1 << 20);
        while !end.load(Ordering::Relaxed) && sender.write_all(&block).is_ok() {}
    });
    std::thread::spawn(move || {
        let mut buffer = vec![0; 1 << 20];
        while receiver.read(&mut buffer).is_ok_and(|len| len > 0) {}
    });

    enough
}

/// Sends a datagram there and one back.
fn echo(sender: &UdpSocket, receiver: &UdpSocket) {
    let mut buffer = [0; 16];
    sender.send(b"ping").expect("sent");
    let (len, from) = receiver.recv_from(&mut buffer).expect("received");
    receiver.send_to(&buffer[..len], from).expect("sent");
    assert_eq!(sender.recv(&mut buffer).expect("received"), 4);
}

#[test]
fn sparse_flows_leave_the_lane_of_a_stream() {
    const FLOWS: u64 = 16;
    const ROUNDS: u64 = 20;

    as_root(async {
        let world = World::new(2).await;
        let pairs: Vec<_> =
            (0..FLOWS).map(|_| udp_pair(&world.a, &world.b, world.b.address.into())).collect();
        pairs.iter().for_each(|(sender, _)| sender.set_read_timeout(Some(PATIENCE)).expect("set"));
        let enough = start_stream(&world.a, &world.b);
        let forwarded = async || {
            world.a.reports().await.iter().map(|lane| lane.engine.forwarded).collect::<Vec<_>>()
        };

        // By chance half of the flows begin on the lane of the stream. They stay there until the
        // lane is busy.
        let deadline = Instant::now() + 3 * PATIENCE;
        loop {
            let before = forwarded().await;
            (0..ROUNDS)
                .for_each(|_| pairs.iter().for_each(|(sender, receiver)| echo(sender, receiver)));
            let after = forwarded().await;
            let carried = before.iter().zip(&after).map(|(before, after)| after - before);
            let quiet = carried.min().expect("two lanes");
            if quiet >= FLOWS * ROUNDS * 9 / 10 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{quiet} of {} left the lane of the stream",
                FLOWS * ROUNDS
            );
        }

        enough.store(true, Ordering::Relaxed);
        world.end().await;
    });
}

#[test]
fn super_packets_cross_the_kernels_border_in_both_directions() {
    as_root(async {
        let world = World::new(1).await;

        let bytes = pattern(16 << 20);
        assert!(transfer(&world.a, &world.b, world.b.address.into(), &bytes) == bytes);

        let (out, back) = (world.a.reports().await[0].io, world.b.reports().await[0].io);
        assert!(out.tun_packets_in > 8 * out.tun_reads, "{out:?}");
        assert!(out.udp_datagrams_out > 8 * out.udp_sends, "{out:?}");
        assert!(back.tun_packets_out > 4 * back.tun_writes, "{back:?}");
        assert_eq!(
            (out.udp_singly, out.udp_too_big, back.tun_refused, out.tun_malformed),
            (0, 0, 0, 0)
        );
        world.end().await;
    });
}

/// Prints a figure; what it should be is the benchmarks' business.
#[test]
fn throughput_of_one_stream() {
    as_root(async {
        let world = World::new(1).await;
        let (mut sender, mut receiver) = stream(&world.a, &world.b, world.b.address.into());

        let (duration, warm_up) = (Duration::from_secs(3), Duration::from_millis(500));
        let received = std::thread::scope(|scope| {
            scope.spawn(move || {
                let block = vec![0x5A; 1 << 17];
                let end = Instant::now() + warm_up + duration;
                while Instant::now() < end && sender.write_all(&block).is_ok() {}
            });
            let mut block = vec![0; 1 << 18];
            let (begun, mut received) = (Instant::now(), 0u64);
            while let Ok(len @ 1..) = receiver.read(&mut block) {
                received += if begun.elapsed() > warm_up { len as u64 } else { 0 };
            }
            received
        });

        println!(
            "one TCP stream: {:.2} Gbit/s",
            received as f64 * 8.0 / duration.as_secs_f64() / 1e9
        );
        for host in [&world.a, &world.b] {
            let report = &host.reports().await[0];
            println!("{:?} {:?}", report.io, report.engine);
        }
        assert!(received > 0);
        world.end().await;
    });
}
