//! Waiting until new IPv6 addresses answer.
//!
//! The kernel joins an address's solicited-node group a moment after it has acknowledged the
//! address, even without duplicate detection. A neighbour that asks before is not heard and asks
//! again a second later.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use super::error::KernelError;
use super::netns::Netns;
use super::tables::{Address, Step};

/// When it takes longer than this, the neighbours' second question is as good.
const PATIENCE: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(1);

/// A group that an interface must have joined.
type Joined = (String, Ipv6Addr);

/// Waits for the addresses that these steps added. `is_silent` names links that ask and answer
/// nobody (TUN, loopback).
pub(crate) async fn settle(
    netns: &Netns,
    steps: &[Step],
    is_silent: impl Fn(&str) -> bool,
) -> Result<(), KernelError> {
    let wanted: BTreeSet<Joined> =
        steps.iter().filter_map(added).filter(|(link, _)| !is_silent(link)).collect();
    if wanted.is_empty() {
        return Ok(());
    }

    let joined = async {
        while !netns.enter(list).await?.is_superset(&wanted) {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, joined).await.unwrap_or(Ok(()))
}

fn added(step: &Step) -> Option<Joined> {
    if let Step::AddAddress(Address { link, address }) = step
        && let IpAddr::V6(ip) = address.addr()
    {
        return Some((link.clone(), solicited_node(ip)));
    }

    None
}

/// RFC 4291, 2.7.1: `ff02::1:ff` and the address's last 24 bits.
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();

    Ipv6Addr::from([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Lists what was joined in the calling thread's namespace.
fn list() -> BTreeSet<Joined> {
    let text = fs::read_to_string("/proc/thread-self/net/igmp6").unwrap_or_default();

    text.lines().filter_map(joined).collect()
}

/// `index name group users flags timer`, the group in 32 hexadecimal digits.
fn joined(line: &str) -> Option<Joined> {
    let mut words = line.split_whitespace().skip(1);
    let name = words.next()?.to_owned();
    let group = u128::from_str_radix(words.next()?, 16).ok()?;

    Some((name, Ipv6Addr::from_bits(group)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_line_is_understood() {
        let line = "3    eth0            ff0200000000000000000001ff00000b     1 00000004 0";

        let ip = "fd42::b".parse().expect("an address");
        assert_eq!(joined(line), Some(("eth0".to_owned(), solicited_node(ip))));
        assert_eq!(joined("rubbish"), None);
    }
}
