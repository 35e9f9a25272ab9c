//! The sockets that a DNS server serves, for whoever serves its addresses next.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::sync::Arc;

use tokio::net::{TcpListener, UdpSocket};

use crate::hand_over::{Share, SharedDescriptors};

/// The sockets of one server, which its tasks have as well.
#[derive(Debug, Default)]
pub(crate) struct ServedSockets(Vec<(IpAddr, Arc<UdpSocket>, Arc<TcpListener>)>);

impl ServedSockets {
    /// Adds the sockets on an address.
    pub(super) fn push(&mut self, ip: IpAddr, udp: Arc<UdpSocket>, tcp: Arc<TcpListener>) {
        self.0.push((ip, udp, tcp));
    }

    /// Goes over the addresses with their sockets.
    pub(super) fn iter(&self) -> impl Iterator<Item = &(IpAddr, Arc<UdpSocket>, Arc<TcpListener>)> {
        self.0.iter()
    }
}

impl Share for ServedSockets {
    fn share(&self) -> io::Result<SharedDescriptors> {
        let mut list = Vec::with_capacity(2 * self.0.len());
        for (_, udp, tcp) in &self.0 {
            list.push(udp.as_fd().try_clone_to_owned()?);
            list.push(tcp.as_fd().try_clone_to_owned()?);
        }

        Ok(SharedDescriptors { list, note: note(self.0.iter().map(|(ip, ..)| *ip)) })
    }
}

/// Records which addresses the sockets are on.
pub(super) fn note(addresses: impl Iterator<Item = IpAddr>) -> String {
    addresses.map(|ip| ip.to_string()).collect::<Vec<_>>().join(" ")
}
