//! Small changes to a host's links and neighbours, for tests and for trying out failures by hand.

use std::net::IpAddr;

use anyhow::Result;

use crate::netlink::{NetlinkHandle, block_on};
use crate::supervisor::UPLINK;

/// An address that nobody has: packets to it are lost without the sender noticing.
const NOWHERE: [u8; 6] = [0x02, 0, 0, 0, 0, 0xFF];

/// A change of a neighbour.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Neighbour {
    /// Make packets to it get lost
    Lose,
    /// Restore it
    Find,
}

/// The administrative state of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AdminState {
    /// Set it up
    Up,
    /// Set it down
    Down,
}

/// Makes packets to the underlay neighbour with this address get lost, or restores it.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn neighbour(change: Neighbour, address: IpAddr) -> Result<()> {
    block_on(async {
        let network = NetlinkHandle::open()?;
        match change {
            Neighbour::Lose => network.pin_neighbour(UPLINK, address, NOWHERE).await,
            Neighbour::Find => network.forget_neighbour(UPLINK, address).await,
        }
    })
}

/// Sets a link up or down.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn link(name: &str, change: AdminState) -> Result<()> {
    block_on(async { NetlinkHandle::open()?.set_up(name, change == AdminState::Up).await })
}

/// Gives a link an address.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn address(name: &str, address: ipnet::IpNet) -> Result<()> {
    block_on(async {
        NetlinkHandle::open()?.add_address(name, address.addr(), address.prefix_len()).await
    })
}

/// Sets a link's MTU.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn mtu(name: &str, mtu: u32) -> Result<()> {
    block_on(async { NetlinkHandle::open()?.set_mtu(name, mtu).await })
}

/// Sets how many packets a link's queue holds.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn queue_len(name: &str, packets: u32) -> Result<()> {
    block_on(async { NetlinkHandle::open()?.set_queue_len(name, packets).await })
}

/// Sets the largest packet that goes to a host over a link of this router, in bytes.
///
/// # Errors
///
/// If the kernel refuses.
pub(crate) fn path_mtu(link: &str, address: IpAddr, mtu: u32) -> Result<()> {
    block_on(async { NetlinkHandle::open()?.set_host_route(link, address, Some(mtu)).await })
}

/// Prints the IPv4 addresses of a link, one per line.
///
/// # Errors
///
/// If they cannot be listed.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(crate) fn print_addresses(name: &str) -> Result<()> {
    for interface in nix::ifaddrs::getifaddrs()? {
        let address = interface.address.filter(|_| interface.interface_name == name);
        if let Some(address) = address.as_ref().and_then(|address| address.as_sockaddr_in()) {
            println!("{}", address.ip());
        }
    }

    Ok(())
}
