//! Waiting until new IPv6 addresses answer.
//!
//! The kernel finishes an address in a task of its own, a moment after it has acknowledged it, even
//! without duplicate detection (`addrconf_dad_work` in `net/ipv6/addrconf.c`): it joins the
//! address's solicited-node group, and then makes the route by which packets to the address are
//! taken in. A neighbour that asks before is not heard and asks again a second later; a packet that
//! comes before is dropped.

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
/// `RTF_LOCAL` of `include/uapi/linux/ipv6_route.h`.
const LOCAL_ROUTE: u32 = 0x8000_0000;

/// What shows that an address answers.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Sign {
    /// The interface has joined the group.
    Joined { link: String, group: Ipv6Addr },
    /// Packets to the address are taken in. Only links that ask and answer nobody are judged by it:
    /// where there are many routes, reading them takes long.
    Local { link: String, address: Ipv6Addr },
}

/// Waits for the addresses that these steps added. `is_silent` names links that ask and answer
/// nobody (TUN, loopback).
pub(crate) async fn settle(
    netns: &Netns,
    steps: &[Step],
    is_silent: impl Fn(&str) -> bool,
) -> Result<(), KernelError> {
    let wanted: BTreeSet<Sign> = steps.iter().filter_map(|step| added(step, &is_silent)).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let reads_routes = wanted.iter().any(|sign| matches!(sign, Sign::Local { .. }));

    let answering = async {
        while !netns.enter(move || list(reads_routes)).await?.is_superset(&wanted) {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, answering).await.unwrap_or(Ok(()))
}

fn added(step: &Step, is_silent: impl Fn(&str) -> bool) -> Option<Sign> {
    let Step::AddAddress(Address { link, address }) = step else { return None };
    let IpAddr::V6(ip) = address.addr() else { return None };
    let link = link.clone();

    Some(if is_silent(&link) {
        Sign::Local { link, address: ip }
    } else {
        Sign::Joined { link, group: solicited_node(ip) }
    })
}

/// RFC 4291, 2.7.1: `ff02::1:ff` and the address's last 24 bits.
fn solicited_node(ip: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = ip.octets();

    Ipv6Addr::from([0xff, 0x02, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Lists the signs in the calling thread's namespace.
fn list(reads_routes: bool) -> BTreeSet<Sign> {
    let read = |file: &str| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
    let groups = read("igmp6").unwrap_or_default();
    let routes = if reads_routes { read("ipv6_route").unwrap_or_default() } else { String::new() };

    groups.lines().filter_map(joined).chain(routes.lines().filter_map(local)).collect()
}

/// `index name group users flags timer`, the group in 32 hexadecimal digits.
fn joined(line: &str) -> Option<Sign> {
    let mut words = line.split_whitespace().skip(1);
    let link = words.next()?.to_owned();

    Some(Sign::Joined { link, group: address(words.next()?)? })
}

/// `destination length source length gateway metric references uses flags name`, numbers in
/// hexadecimal digits.
fn local(line: &str) -> Option<Sign> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [destination, .., flags, link] = words[..] else { return None };
    if u32::from_str_radix(flags, 16).ok()? & LOCAL_ROUTE == 0 {
        return None;
    }

    Some(Sign::Local { link: link.to_owned(), address: address(destination)? })
}

fn address(digits: &str) -> Option<Ipv6Addr> {
    u128::from_str_radix(digits, 16).ok().map(Ipv6Addr::from_bits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_s_line_of_a_group_is_understood() {
        let line = "3    eth0            ff0200000000000000000001ff00000b     1 00000004 0";

        let ip = "fd42::b".parse().expect("an address");
        let sign = Sign::Joined { link: "eth0".to_owned(), group: solicited_node(ip) };
        assert_eq!(joined(line), Some(sign));
        assert_eq!(joined("rubbish"), None);
    }

    #[test]
    fn the_kernel_s_line_of_a_local_route_is_understood() {
        let none = "00000000000000000000000000000000";
        let line = |flags: &str| {
            let numbers = "00000000 00000002 00000000";
            format!("fd42000000000000000000000000000b 80 {none} 00 {none} {numbers} {flags}     lo")
        };

        let address = "fd42::b".parse().expect("an address");
        let sign = Sign::Local { link: "lo".to_owned(), address };
        assert_eq!(local(&line("80200001")), Some(sign));
        assert_eq!(local(&line("00000001")), None, "a route to elsewhere");
        assert_eq!(local("rubbish"), None);
    }
}
