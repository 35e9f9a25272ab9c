//! Addresses of the underlay.

use std::net::SocketAddr;

/// Turns an IPv4-mapped IPv6 address into the IPv4 address, so that each address has one form.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V4(_) => addr,
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => SocketAddr::from((v4, v6.port())),
            None => addr,
        },
    }
}
