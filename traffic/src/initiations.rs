//! `initiations`: a flood of WireGuard handshake initiations from random addresses, as
//! valid as an outsider can make them: everything that needs no secret is correct (WireGuard paper,
//! sections 5.4.2 and 5.4.4), everything else is random.

use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use blake2::digest::Mac as _;
use blake2::digest::consts::U16;
use blake2::{Blake2s256, Blake2sMac, Digest as _};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg};
use overlay_core::PublicKey;
use rand::{Rng as _, RngExt as _};
use socket2::{Domain, Protocol, Socket, Type};

use crate::wait::rest;

/// The length of an initiation, and of the part that its first MAC covers, in bytes.
const INITIATION: usize = 148;
const COVERED: usize = 116;
/// The length of the IPv4 and UDP headers, in bytes.
const HEADERS: usize = 28;
/// The number of different packets; each has an address, a port and random bytes of its own.
const PACKETS: usize = 65_536;
/// How many packets are passed to the kernel at a time.
const AT_ONCE: usize = 64;
/// How often the rate is adjusted.
const TICK: Duration = Duration::from_millis(1);
/// The source addresses: those for benchmarks (RFC 2544, section C.2.2), 198.18.0.0/15.
const SOURCES: u32 = 0xC612_0000;
const SOURCES_MASK: u32 = 0x0001_FFFF;

/// Options of `initiations`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Public key that they are made for, in base64
    #[arg(long)]
    key: PublicKey,
    /// Destination address and port
    #[arg(long, value_name = "ADDR:PORT")]
    to: SocketAddrV4,
    /// Packets per second
    #[arg(long, default_value_t = 100_000)]
    pps: u32,
    /// Duration in seconds
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
}

/// Sends them at that rate, and prints how many were sent.
///
/// # Errors
///
/// If there is no permission to send raw packets.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub fn run(options: &Options) -> Result<()> {
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw))
        .context("cannot open a raw socket (are you root?)")?;
    let packets = packets(&options.key, options.to);
    let to = SockaddrIn::from(SocketAddrV4::new(*options.to.ip(), 0));
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(AT_ONCE, None);
    let (start, end) = (Instant::now(), Duration::try_from_secs_f64(options.seconds)?);
    let mut sent = 0_usize;
    while start.elapsed() < end {
        let due =
            usize::try_from(start.elapsed().as_micros() * u128::from(options.pps) / 1_000_000)?;
        while sent < due {
            let count = AT_ONCE.min(due - sent);
            let slices: Vec<_> =
                (sent..sent + count).map(|at| [IoSlice::new(&packets[at % PACKETS])]).collect();
            let results = sendmmsg(
                socket.as_raw_fd(),
                &mut headers,
                &slices,
                vec![Some(to); count],
                [],
                MsgFlags::empty(),
            );
            // Packets that the kernel rejects are lost like any others.
            sent += results.map_or(count, |results| results.count().max(1));
        }
        rest(TICK);
    }

    println!("{sent} sent in {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn packets(key: &PublicKey, to: SocketAddrV4) -> Vec<Vec<u8>> {
    let mut random = rand::rng();
    let mac_key =
        Blake2s256::new().chain_update(b"mac1----").chain_update(key.as_bytes()).finalize();

    (0..PACKETS)
        .map(|_| {
            let source = Ipv4Addr::from_bits(SOURCES | random.random::<u32>() & SOURCES_MASK);
            let mut packet = vec![0; HEADERS + INITIATION];
            write_headers(
                &mut packet,
                SocketAddrV4::new(source, random.random_range(1024..=u16::MAX)),
                to,
            );
            let message = &mut packet[HEADERS..];
            random.fill_bytes(message);
            message[..4].copy_from_slice(&[1, 0, 0, 0]);
            // A second MAC would need a cookie, which the forged addresses cannot receive.
            message[COVERED + 16..].fill(0);
            // A key of 32 bytes is always accepted.
            if let Ok(mut mac) =
                <Blake2sMac<U16> as blake2::digest::KeyInit>::new_from_slice(&mac_key)
            {
                mac.update(&message[..COVERED]);
                message[COVERED..COVERED + 16].copy_from_slice(&mac.finalize().into_bytes());
            }
            packet
        })
        .collect()
}

/// Writes the IPv4 and UDP headers. The kernel fills in the IP checksum; UDP's is optional.
fn write_headers(packet: &mut [u8], from: SocketAddrV4, to: SocketAddrV4) {
    let length = u16::try_from(packet.len()).unwrap_or(u16::MAX);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&from.ip().octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&from.port().to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..26].copy_from_slice(&(length - 20).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use overlay_core::{NetworkId, PrivateKey};
    use overlay_dataplane::{
        DropReason, Engine, EngineConfig, LaneId, NetworkTable, Tables, public_key,
    };

    use super::*;

    fn engine(private_key: PrivateKey) -> Engine {
        let now = Instant::now();
        let config = EngineConfig {
            lane: LaneId(0),
            lanes: 1,
            seed: [7; 32],
            now,
            unix_time: Duration::from_secs(1),
        };
        let id = NetworkId::from_random(5);
        let table = NetworkTable {
            id,
            private_key,
            peers: Arc::default(),
            local: Vec::new(),
            links: Arc::default(),
            mtu: 1408,
        };
        let mut engine = Engine::new(config);
        engine.publish(
            &Tables { networks: BTreeMap::from([(id, Arc::new(table))]), ..Tables::default() },
            now,
        );

        engine
    }

    #[test]
    fn they_are_as_good_as_an_outsider_can_make_them() {
        let key = || PrivateKey::from([3; 32]);
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 51_820);
        let packets = packets(&public_key(&key()), to);
        let (mut meant, mut other) = (engine(key()), engine(PrivateKey::from([4; 32])));

        for packet in &packets[..50] {
            for engine in [&mut meant, &mut other] {
                engine.handle_udp(to.into(), &packet[HEADERS..], INITIATION, Instant::now());
            }
        }

        assert_eq!(other.counters().dropped(DropReason::WrongMac), 50);
        assert_eq!(meant.counters().dropped(DropReason::HandshakeRefused), 50);
    }
}
