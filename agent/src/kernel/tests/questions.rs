//! Containers that ask the network's name server too much.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Socket, Type};

use super::rig::{Container, GATEWAY, Rig, desired, endpoint, running, skipped, v4, v6};
use crate::kernel::NetworkNamespace;
use crate::kernel::nft::{Guard, GuardReason, GuardTable};

const GREEDY: u8 = 11;
const MODEST: u8 = 12;
/// Many times what the server's socket holds.
const FLOOD: u64 = 50_000;
const CONNECTIONS: u64 = 1_000;
/// What a container may ask at once, and each millisecond.
const AT_ONCE: u64 = 256;
/// What the server's socket holds is some 5,400 questions.
const RECEIVE_BUFFER: usize = 2 << 20;

/// The server's socket on an address of the gateway, which nobody reads.
fn server(namespace: &NetworkNamespace, at: IpAddr) -> UdpSocket {
    let open = || UdpSocket::bind((at, 53));
    let socket = namespace.netns().within(open).expect("a namespace").expect("a socket");
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).expect("root may");
    socket.set_nonblocking(true).expect("a socket");

    socket
}

/// Counts by sender what the socket holds.
fn held(server: &UdpSocket) -> BTreeMap<IpAddr, u64> {
    let mut held = BTreeMap::new();
    while let Ok((_, from)) = server.recv_from(&mut [0; 64]) {
        *held.entry(from.ip()).or_default() += 1;
    }

    held
}

/// Opens connections to the server without waiting for any.
fn connect(from: &Container, to: SocketAddr) -> Vec<Socket> {
    let open = || {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.set_nonblocking(true).expect("a socket");
        let _under_way = socket.connect(&to.into());
        socket
    };

    from.netns.within(|| (0..CONNECTIONS).map(|_| open()).collect()).expect("a namespace")
}

#[tokio::test]
async fn questions_beyond_what_a_container_may_ask_take_no_room_of_others() {
    if skipped() {
        return;
    }
    for address in [v4, v6] {
        judge(address).await;
    }
}

async fn judge(address: fn(u8) -> IpAddr) {
    let rig = Rig::new();
    let (greedy, modest) = (Container::new(GREEDY), Container::new(MODEST));
    let (namespace, _tun) = running(&rig, 1, &[&greedy, &modest]).await;
    let sandboxes = [&greedy, &modest].map(|one| (endpoint(one.n), one.desired())).into();
    let mut table = GuardTable::new(namespace.netns().clone());
    let guard = Guard::new(&desired(1, &[GREEDY, MODEST]), &sandboxes);
    table.keep(&Arc::new(guard)).expect("a guard");
    let refused =
        || table.counts().expect("counts").expect("a guard")[&GuardReason::Questions].packets;
    let to = SocketAddr::new(address(GATEWAY), 53);
    let server = server(&namespace, to.ip());
    let (asks, other) = (greedy.socket(address(GREEDY)), modest.socket(address(MODEST)));
    let ask = |socket: &UdpSocket| socket.send_to(b"name?", to).expect("a route");

    let begun = Instant::now();
    for _ in 0..FLOOD {
        ask(&asks);
    }
    let most = most_since(begun);
    ask(&other);
    let arrived = held(&server);

    let of_greedy = arrived[&address(GREEDY)];
    assert!((AT_ONCE..=most).contains(&of_greedy), "{of_greedy} of {most}");
    assert_eq!(arrived.get(&address(MODEST)), Some(&1), "its question finds room");
    assert_eq!(refused(), FLOOD - of_greedy, "each is counted");

    let (begun, before) = (Instant::now(), refused());
    let connections = connect(&greedy, to);
    let most = most_since(begun);
    assert!(refused() - before >= CONNECTIONS.saturating_sub(most), "so are connections");
    drop(connections);

    // Heard again: what it may ask grows with time.
    while held(&server).is_empty() {
        ask(&asks);
    }
}

/// Says how much a container may have asked since then.
fn most_since(begun: Instant) -> u64 {
    AT_ONCE + u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX - AT_ONCE) + 1
}
