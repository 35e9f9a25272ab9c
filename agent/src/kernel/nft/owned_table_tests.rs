use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use super::*;
use crate::kernel::Netns;
use crate::kernel::nft::ruleset::{Chain, ChainKind, Hook, L4Protocol, Match, Rule, Verdict};

const ASKED: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 11), 53);

/// Leads datagrams for [`ASKED`] to another port.
fn leading_to(port: u16) -> Ruleset {
    let matches = vec![
        Match::Protocol(L4Protocol::Udp),
        Match::Destination(*ASKED.ip()),
        Match::DestinationPort(ASKED.port()),
    ];
    let verdict = Verdict::Dnat(SocketAddrV4::new(*ASKED.ip(), port));
    let chain = Chain {
        name: "names",
        kind: ChainKind::Nat,
        hook: Hook::Output,
        priority: -110,
        rules: vec![Rule { matches, verdict }],
    };

    Ruleset { table: "overlay", chains: vec![chain] }
}

/// A namespace with its loopback up, or nothing, loudly, where that is not allowed.
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn namespace() -> Option<Netns> {
    let netns = Netns::unnamed("nft").ok();
    let ip = || std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
    let is_up = netns
        .as_ref()
        .and_then(|netns| netns.within(ip).ok()?.ok())
        .is_some_and(|status| status.success());
    if !is_up {
        eprintln!("SKIPPED: needs root for a network namespace");
    }

    netns.filter(|_| is_up)
}

fn listener() -> UdpSocket {
    let socket = UdpSocket::bind((*ASKED.ip(), 0)).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");

    socket
}

fn port(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("an address").port()
}

/// Sends a datagram to [`ASKED`] as a new flow, and says whether it came to `socket`.
fn arrives_at(socket: &UdpSocket) -> bool {
    let asker = UdpSocket::bind("127.0.0.1:0").expect("bound");
    asker.send_to(b"?", ASKED).expect("sent");

    let mut buffer = [0; 16];
    socket.recv_from(&mut buffer).is_ok_and(|(_, from)| from.port() == port(&asker))
}

#[test]
fn a_table_is_replaced_as_a_whole_and_goes_with_its_owner() {
    let Some(netns) = namespace() else { return };
    let run = || {
        let (first, second) = (listener(), listener());
        let mut table = OwnedTable::open(&Reserve::new(0)).expect("a socket");

        table.apply(leading_to(port(&first))).expect("made");
        assert!(arrives_at(&first));
        table.apply(leading_to(port(&second))).expect("made anew");
        assert!(arrives_at(&second), "the rules before are gone");

        let heir = OwnedTable::adopt(table.share().expect("shared"), leading_to(port(&second)));
        drop(table);
        assert!(arrives_at(&second), "somebody still has the socket");
        drop(heir);
        let resolver = UdpSocket::bind(ASKED).expect("bound");
        resolver.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        assert!(arrives_at(&resolver));
    };

    netns.within(run).expect("entered");
}

#[test]
fn a_refused_transaction_changes_nothing_and_can_be_tried_again() {
    let Some(netns) = namespace() else { return };
    let run = || {
        let (first, second) = (listener(), listener());
        let open = || OwnedTable::open(&Reserve::new(0)).expect("a socket");
        let (mut owner, mut other) = (open(), open());
        owner.apply(leading_to(port(&first))).expect("made");

        let refused = other.apply(leading_to(port(&second))).expect_err("it is somebody else's");

        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        assert!(arrives_at(&first));
        drop(owner);
        other.apply(leading_to(port(&second))).expect("nobody has it any more");
        assert!(arrives_at(&second));
    };

    netns.within(run).expect("entered");
}

#[test]
fn a_refusal_is_an_error_and_an_acknowledgement_counts() {
    let answer = |code: i32| {
        let mut bytes =
            [36u32.to_ne_bytes().as_slice(), &encoding::NLMSG_ERROR.to_ne_bytes(), &[0; 10]]
                .concat();
        bytes.extend(code.to_ne_bytes());
        bytes.resize(36, 0);
        bytes
    };

    assert_eq!(read_answers(&[answer(0), answer(0)].concat()).expect("fine"), 2);
    let refused = read_answers(&answer(-libc::EPERM)).expect_err("refused");
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    assert_eq!(read_answers(&[1, 2, 3]).expect("nothing whole"), 0);
}
