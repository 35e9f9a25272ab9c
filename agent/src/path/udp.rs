//! The UDP sockets of one lane: IPv4 and IPv6 on one port, with segmentation both ways.
//!
//! They live in the host's namespace. Outer packets are never fragmented: what does not fit is
//! refused by the kernel and counted. Nothing that the network or the firewall answers ends the
//! lane.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use super::counters::LaneCounters;

/// What the kernel may hold of what one socket received: 30 ms at 2 Gbit/s, for when the lane does
/// not get to run.
const RECEIVE_BUFFER: usize = 8 << 20;
/// What the kernel may hold of what one socket sends: 80 ms at 100 Mbit/s. More would only be
/// delay; when it is full, the lane waits and its TUN queues fill, which is where the senders are
/// told.
const SEND_BUFFER: usize = 1 << 20;
/// How long one send waits for the device to take what is queued before the datagrams are lost.
const SEND_PATIENCE_MS: u8 = 10;
/// The largest datagram, or batch of merged datagrams.
const MAX_DATAGRAM: usize = 65_535;
/// How many batches one receive takes; 512 KiB a lane.
const TRAINS: usize = 8;
/// How often a free port is looked for that both families have free.
const PORT_ATTEMPTS: usize = 16;

/// Descriptors of the sockets of one lane, as one process gives them to another.
#[derive(Debug)]
pub struct LaneSockets {
    /// The IPv4 socket.
    pub v4: OwnedFd,
    /// The IPv6 socket, where the host has IPv6.
    pub v6: Option<OwnedFd>,
}

/// The sockets of one lane.
#[derive(Debug)]
pub(crate) struct UdpSockets {
    v4: UdpSocket,
    /// Absent where the host has no IPv6.
    v6: Option<UdpSocket>,
    port: u16,
}

/// How datagrams are handed to the kernel; tests put in its place what a device might answer.
type Hand = fn(&UdpSocketState, UdpSockRef<'_>, &Transmit<'_>) -> io::Result<()>;

/// One socket.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    socket: Socket,
    state: UdpSocketState,
    hand: Hand,
    segmentation: bool,
    /// The device took nothing for as long as a send waits; no other waits until it takes something
    /// again.
    stuck: bool,
    /// When the host last refused to send.
    refused: Option<Instant>,
}

/// Room for one receive. Reused for both sockets.
#[derive(Debug)]
pub(crate) struct ReceiveBuffers {
    bytes: Vec<u8>,
    meta: [RecvMeta; TRAINS],
}

/// Datagrams from one sender, each `segment` bytes long, the last perhaps shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GsoBatch<'a> {
    /// The sender.
    pub(crate) from: SocketAddr,
    /// The datagrams, one behind the other.
    pub(crate) bytes: &'a [u8],
    /// The size of each.
    pub(crate) segment: usize,
}

impl UdpSockets {
    /// Binds a port on all addresses; 0 takes any that is free.
    pub(crate) fn bind(port: u16) -> io::Result<Self> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..if port == 0 { PORT_ATTEMPTS } else { 1 } {
            match Self::try_bind(port) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => last = error,
            }
        }

        Err(last)
    }

    /// Takes over sockets that another process has bound.
    pub(crate) fn adopt(sockets: LaneSockets) -> io::Result<Self> {
        let v4 = UdpSocket::adopt(sockets.v4.into())?;
        let port = v4.port()?;
        let v6 = sockets.v6.map(|socket| UdpSocket::adopt(socket.into())).transpose()?;

        Ok(Self { v4, v6, port })
    }

    /// Returns further descriptors of the sockets, to be given to another process.
    pub(crate) fn share(&self) -> io::Result<LaneSockets> {
        let share = |socket: &UdpSocket| socket.socket.as_fd().try_clone_to_owned();

        Ok(LaneSockets { v4: share(&self.v4)?, v6: self.v6.as_ref().map(share).transpose()? })
    }

    fn try_bind(port: u16) -> io::Result<Self> {
        let v4 = UdpSocket::bind(Ipv4Addr::UNSPECIFIED.into(), port)?;
        let port = v4.port()?;
        let v6 = match UdpSocket::bind(Ipv6Addr::UNSPECIFIED.into(), port) {
            Ok(socket) => Some(socket),
            Err(error) if has_no_ipv6(&error) => None,
            Err(error) => return Err(error),
        };

        Ok(Self { v4, v6, port })
    }

    /// Returns the port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Returns the IPv4 socket.
    pub(crate) fn v4(&self) -> &UdpSocket {
        &self.v4
    }

    /// Returns the IPv6 socket, where there is one.
    pub(crate) fn v6(&self) -> Option<&UdpSocket> {
        self.v6.as_ref()
    }

    /// Returns whether batches can be sent.
    pub(crate) fn segments(&self) -> bool {
        self.v4.segmentation && self.v6.as_ref().is_none_or(|v6| v6.segmentation)
    }

    /// Returns when the host last refused to send a datagram.
    pub(crate) fn refused(&self) -> Option<Instant> {
        self.v4.refused.max(self.v6.as_ref().and_then(|v6| v6.refused))
    }

    /// Sends datagrams of `segment` bytes each, the last perhaps shorter, to one destination.
    pub(crate) fn send(
        &mut self,
        to: SocketAddr,
        bytes: &[u8],
        segment: usize,
        counters: &mut LaneCounters,
    ) {
        let socket = match to {
            SocketAddr::V4(_) => Some(&mut self.v4),
            SocketAddr::V6(_) => self.v6.as_mut(),
        };
        match socket {
            Some(socket) => socket.send(to, bytes, segment, counters),
            None => counters.udp_unreachable += datagrams(bytes, segment),
        }
    }
}

impl UdpSocket {
    fn bind(ip: IpAddr, port: u16) -> io::Result<Self> {
        let address = SocketAddr::new(ip, port);
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        enlarge_buffers(&socket);
        socket.bind(&address.into())?;

        Self::adopt(socket)
    }

    /// Sets up a bound socket; once more where another process has done so.
    fn adopt(socket: Socket) -> io::Result<Self> {
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        // Asked for by quinn-udp; costs a clock read for every packet of the host, and nobody
        // looks.
        setsockopt(&socket, sockopt::ReceiveTimestampns, &false)?;
        if state.may_fragment() {
            tracing::warn!("Kernel cannot forbid fragmentation of tunnel packets");
        }
        let segmentation = state.max_gso_segments() > 1;
        let hand = UdpSocketState::try_send;

        Ok(Self { socket, state, hand, segmentation, stuck: false, refused: None })
    }

    fn port(&self) -> io::Result<u16> {
        let address = self.socket.local_addr()?;

        address
            .as_socket()
            .map(|address| address.port())
            .ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
    }

    /// Receives what is there, up to the room of `batches`, and returns how many batches came.
    pub(crate) fn receive(
        &self,
        batches: &mut ReceiveBuffers,
        counters: &mut LaneCounters,
    ) -> usize {
        let ReceiveBuffers { bytes, meta } = batches;
        let mut chunks = bytes.chunks_exact_mut(MAX_DATAGRAM);
        let mut buffers: [IoSliceMut<'_>; TRAINS] =
            std::array::from_fn(|_| IoSliceMut::new(chunks.next().unwrap_or_default()));
        match self.state.recv(UdpSockRef::from(&self.socket), &mut buffers, meta) {
            Ok(count) => {
                counters.udp_receives += 1;
                count
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                tracing::debug!(%error, "Failed to receive");
                counters.udp_receive_errors += 1;
                0
            }
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8], segment: usize, counters: &mut LaneCounters) {
        if segment >= bytes.len() {
            // Counted there, and what is lost is repeated by whoever sent it.
            let _ = self.send_one(to, bytes, counters);
            return;
        }
        if !self.segmentation {
            return self.send_singly(to, bytes, segment, counters);
        }

        match self.try_send(to, bytes, Some(segment), counters) {
            Ok(()) => counters.udp_datagrams_out += datagrams(bytes, segment),
            // EIO: the device cannot. EINVAL, EMSGSIZE: a segment is larger than this path takes,
            // which holds for this destination only.
            Err(Errno::EIO) => {
                self.segmentation = false;
                tracing::warn!(
                    "Network device refuses batches, sending datagrams singly from now on"
                );
                self.send_singly(to, bytes, segment, counters);
            }
            Err(Errno::EINVAL | Errno::EMSGSIZE) => self.send_singly(to, bytes, segment, counters),
            Err(error) => count_loss(error, datagrams(bytes, segment), counters),
        }
    }

    fn send_singly(
        &mut self,
        to: SocketAddr,
        bytes: &[u8],
        segment: usize,
        counters: &mut LaneCounters,
    ) {
        counters.udp_singly += 1;
        let mut refused = usize::MAX;
        for datagram in bytes.chunks(segment.max(1)) {
            // The rest of a batch that the link does not take is not offered to it one by one.
            if datagram.len() >= refused {
                count_loss(Errno::EMSGSIZE, 1, counters);
            } else if self.send_one(to, datagram, counters) == Err(Errno::EMSGSIZE) {
                refused = datagram.len();
            }
        }
    }

    fn send_one(
        &mut self,
        to: SocketAddr,
        datagram: &[u8],
        counters: &mut LaneCounters,
    ) -> Result<(), Errno> {
        let sent = self.try_send(to, datagram, None, counters);
        match sent {
            Ok(()) => counters.udp_datagrams_out += 1,
            Err(error) => count_loss(error, 1, counters),
        }

        sent
    }

    fn try_send(
        &mut self,
        destination: SocketAddr,
        contents: &[u8],
        segment_size: Option<usize>,
        counters: &mut LaneCounters,
    ) -> Result<(), Errno> {
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        counters.udp_sends += 1;
        let mut sent = (self.hand)(&self.state, UdpSockRef::from(&self.socket), &transmit);
        // An error that an earlier datagram left behind is reported once and says nothing about
        // this one.
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused)
            || self.had_to_wait(&sent)
        {
            sent = (self.hand)(&self.state, UdpSockRef::from(&self.socket), &transmit);
        }

        self.stuck = matches!(&sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock);

        let sent = sent.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw));
        if matches!(sent, Err(Errno::EPERM | Errno::EACCES)) {
            self.refused = Some(Instant::now());
        }

        sent
    }

    /// Waits for room in the send buffer, if that was what a send lacked.
    fn had_to_wait(&self, sent: &io::Result<()>) -> bool {
        if self.stuck || !matches!(sent, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            return false;
        }
        let mut room = [PollFd::new(self.socket.as_fd(), PollFlags::POLLOUT)];

        nix::poll::poll(&mut room, PollTimeout::from(SEND_PATIENCE_MS)).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl ReceiveBuffers {
    /// Makes room.
    pub(crate) fn new() -> Self {
        Self { bytes: vec![0; TRAINS * MAX_DATAGRAM], meta: [RecvMeta::default(); TRAINS] }
    }

    /// Returns one of the batches received last.
    pub(crate) fn batch(&self, index: usize) -> Option<GsoBatch<'_>> {
        let meta = self.meta.get(index)?;
        let bytes = self.bytes.get(index * MAX_DATAGRAM..)?.get(..meta.len)?;

        Some(GsoBatch { from: meta.addr, bytes, segment: meta.stride })
    }
}

impl GsoBatch<'_> {
    /// Returns how many datagrams there are; one without bytes is one.
    pub(crate) fn len(&self) -> u64 {
        datagrams(self.bytes, self.segment).max(1)
    }
}

fn datagrams(bytes: &[u8], segment: usize) -> u64 {
    bytes.len().div_ceil(segment.max(1)) as u64
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "errno has 130 values; these are the ones that sending is known to give"
)]
fn count_loss(error: Errno, datagrams: u64, counters: &mut LaneCounters) {
    let counter = match error {
        Errno::EMSGSIZE => &mut counters.udp_too_big,
        Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM => &mut counters.udp_no_buffer,
        Errno::EPERM | Errno::EACCES => &mut counters.udp_refused,
        Errno::ENETUNREACH | Errno::EHOSTUNREACH | Errno::EADDRNOTAVAIL | Errno::ENETDOWN => {
            &mut counters.udp_unreachable
        }
        _ => &mut counters.udp_failed,
    };
    *counter += datagrams;
}

fn enlarge_buffers(socket: &Socket) {
    // Privileged first; without the privilege the system's limit holds.
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err() {
        let _ = socket.set_recv_buffer_size(RECEIVE_BUFFER);
    }
    if setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER).is_err() {
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    let raw = error.raw_os_error().map(Errno::from_raw);

    matches!(raw, Some(Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a device answers that cannot cut a batch into datagrams.
    fn without_batches(
        state: &UdpSocketState,
        socket: UdpSockRef<'_>,
        transmit: &Transmit<'_>,
    ) -> io::Result<()> {
        match transmit.segment_size {
            Some(_) => Err(Errno::EIO.into()),
            None => state.try_send(socket, transmit),
        }
    }

    #[test]
    fn a_device_that_refuses_batches_gets_datagrams_and_is_not_offered_another_batch() {
        let mut sockets = UdpSockets::bind(0).expect("a port");
        let receiver = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
        receiver.set_nonblocking(true).expect("set");
        let to = receiver.local_addr().expect("an address");
        let mut counters = LaneCounters::default();
        sockets.send(to, &[1; 30], 10, &mut counters);
        let before = sockets.segments();
        sockets.v4.hand = without_batches;

        sockets.send(to, &[2; 25], 10, &mut counters);
        sockets.send(to, &[3; 20], 10, &mut counters);

        let arrived = || receiver.recv(&mut [0; 64]).ok();
        let lengths: Vec<_> = std::iter::from_fn(arrived).collect();
        assert!(before && !sockets.segments());
        assert_eq!(lengths, [10, 10, 10, 10, 10, 5, 10, 10]);
        // One batch, one that was refused and three of its datagrams, two of the next.
        assert_eq!(
            (counters.udp_sends, counters.udp_singly, counters.udp_datagrams_out),
            (7, 2, 8)
        );
    }
}
