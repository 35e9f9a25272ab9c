//! The sockets of a DNS server, before it serves them.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};

use nix::sys::socket::{setsockopt, sockopt};
use overlay_daemon::reserve::Reserve;
use socket2::{Domain, Protocol, Socket, Type};

use super::served_sockets::note;
use crate::hand_over::SharedDescriptors;

pub(super) const DNS_PORT: u16 = 53;
/// Connections waiting to be accepted.
const BACKLOG: i32 = 64;
/// Room for questions that wait, in bytes; the kernel takes it twice, for some 5,400 questions. A
/// container that floods must not push out those of others before it is shut out.
const RECEIVE_BUFFER: usize = 2 << 20;

/// The sockets of one network's server.
#[derive(Debug)]
pub struct DnsSockets {
    pub(super) sockets: Vec<(IpAddr, StdUdpSocket, StdTcpListener)>,
}

impl DnsSockets {
    /// Opens the sockets on `addresses` in the namespace of the calling thread, which must be the
    /// network's. The addresses need not exist yet.
    ///
    /// # Errors
    ///
    /// The kernel's error, for example that another server has the port.
    pub fn bind(addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<Self> {
        Self::bind_port(addresses, DNS_PORT, &Reserve::default())
    }

    pub(crate) fn bind_port(
        addresses: impl IntoIterator<Item = IpAddr>,
        port: u16,
        reserve: &Reserve,
    ) -> io::Result<Self> {
        let open = |ip, port, kind, protocol| reserve.spend(|| open(ip, port, kind, protocol));
        let open = |ip| {
            let udp: StdUdpSocket = open(ip, port, Type::DGRAM, Protocol::UDP)?.into();
            // If the kernel chose the port, both sockets get the same one.
            let port = udp.local_addr()?.port();
            let tcp = open(ip, port, Type::STREAM, Protocol::TCP)?;
            tcp.listen(BACKLOG)?;

            Ok((ip, udp, tcp.into()))
        };
        let sockets = addresses.into_iter().map(open).collect::<io::Result<_>>()?;

        Ok(Self { sockets })
    }

    /// Goes on with sockets that [`super::served_sockets::ServedSockets`] shared, if they are on
    /// these addresses.
    pub(crate) fn adopt(earlier: SharedDescriptors, addresses: &BTreeSet<IpAddr>) -> Option<Self> {
        if earlier.note != note(addresses.iter().copied())
            || earlier.list.len() != 2 * addresses.len()
        {
            return None;
        }
        let mut descriptors = earlier.list.into_iter();
        let mut socket =
            |ip: &IpAddr| Some((*ip, descriptors.next()?.into(), descriptors.next()?.into()));

        Some(Self { sockets: addresses.iter().map(&mut socket).collect::<Option<_>>()? })
    }

    pub(super) fn addresses(&self) -> BTreeSet<IpAddr> {
        self.sockets.iter().map(|(ip, ..)| *ip).collect()
    }

    /// Returns the port of the first socket, which the kernel may have chosen.
    pub(super) fn port(&self) -> io::Result<u16> {
        self.sockets
            .first()
            .map_or(Ok(DNS_PORT), |(_, udp, _)| udp.local_addr().map(|address| address.port()))
    }

    #[cfg(test)]
    pub(crate) fn local_addr(&self) -> SocketAddr {
        self.sockets[0].1.local_addr().expect("a bound socket")
    }
}

fn open(ip: IpAddr, port: u16, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let address = SocketAddr::new(ip, port);
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    match ip {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    } else {
        // Without the privilege it has the host's default.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;

    Ok(socket)
}
