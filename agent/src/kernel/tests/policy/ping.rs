//! Echo requests of a container.

use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};

use super::super::rig::Container;
use super::SOON;

/// Returns the domain of sockets for an address.
pub(super) fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

/// An echo request on its way.
pub(super) struct Ping {
    socket: Socket,
    to: IpAddr,
}

impl Ping {
    /// Sends one; the identifier tells its flow from others.
    pub(super) fn send(container: &Container, to: IpAddr, id: u16) -> Self {
        // The kernel writes the checksum of ICMPv6.
        let (protocol, kind, checksum) = if to.is_ipv4() {
            (Protocol::ICMPV4, 8u8, !(0x0800 + id))
        } else {
            (Protocol::ICMPV6, 128, 0)
        };
        let words = [u16::from(kind) << 8, checksum, id, 0].map(u16::to_be_bytes);
        let open = || Socket::new(domain(to), Type::RAW, Some(protocol));
        let socket = container.netns.within(open).expect("a namespace").expect("a socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        socket.send_to(&words.concat(), &SocketAddr::new(to, 0).into()).expect("a route");

        Self { socket, to }
    }

    /// Waits for the answer.
    pub(super) fn answered(mut self) -> bool {
        let mut buffer = [0; 128];
        while let Ok(len) = self.socket.read(&mut buffer) {
            // IPv4 shows its header.
            let kind = buffer[..len].get(if self.to.is_ipv4() { 20 } else { 0 });
            if kind == Some(&if self.to.is_ipv4() { 0 } else { 129 }) {
                return true;
            }
        }

        false
    }
}
