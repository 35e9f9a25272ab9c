//! Prefixes of overlay networks, kept from the host's other choosers of prefixes.
//!
//! Docker's own address management chooses a prefix that no route of the host covers. A network
//! that it did not number itself is in a namespace of its own, so the host has no route to it, and
//! Docker would give the same prefix to its next network: a container on both could not start. So
//! the host gets a route that no packet takes: on the loopback, of link scope, for a type of
//! service that nobody sends (DSCP 63, `fib_rules` aside the kernel matches a route's TOS exactly:
//! net/ipv4/fib_trie.c).

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

use super::error::KernelError;
use super::netlink::Netlink;
use super::netns::Netns;

/// Makes the reserved prefixes of a namespace exactly these.
///
/// # Errors
///
/// When the kernel refuses.
pub async fn set(netns: &Netns, wanted: &BTreeSet<Ipv4Net>) -> Result<(), KernelError> {
    let mut netlink = Netlink::open(netns).await?;
    let reserved = netlink.reserved().await?;
    for prefix in reserved.difference(wanted) {
        netlink.release(*prefix).await?;
    }
    for prefix in wanted.difference(&reserved) {
        netlink.reserve(*prefix).await?;
    }

    Ok(())
}
