//! Kernel parameters below `/proc/sys/net`: what ours must be, reading back and writing.
//!
//! `/proc/sys/net` shows the namespace of the thread that opens it, so all I/O here belongs into
//! `Netns::within`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use super::tables::Sysctl;

/// Milliseconds until an unanswered question for a neighbour is asked again. Across a veth pair an
/// answer takes microseconds, and the kernel's second would be what a container waits for after its
/// link was down for a moment.
const NEIGHBOUR_RETRY: &str = "100";

/// For the whole namespace, in this order of thought: it forwards; strict `rp_filter` pins every
/// IPv4 source to its veth; nobody redirects anybody; the gateway on `lo` answers on every veth
/// whatever the host's settings are (a new namespace inherits the host's IPv4 settings); a
/// container cannot fill the kernel log.
const NETWORK_V4: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv4/conf/all/rp_filter", "1"),
    ("ipv4/conf/default/rp_filter", "1"),
    ("ipv4/conf/all/accept_redirects", "0"),
    ("ipv4/conf/default/accept_redirects", "0"),
    ("ipv4/conf/all/send_redirects", "0"),
    ("ipv4/conf/default/send_redirects", "0"),
    ("ipv4/conf/all/accept_source_route", "0"),
    ("ipv4/conf/all/accept_local", "0"),
    ("ipv4/conf/default/accept_local", "0"),
    ("ipv4/conf/all/route_localnet", "0"),
    ("ipv4/conf/default/route_localnet", "0"),
    ("ipv4/conf/all/arp_ignore", "0"),
    ("ipv4/conf/default/arp_ignore", "0"),
    ("ipv4/conf/all/arp_filter", "0"),
    ("ipv4/conf/default/arp_filter", "0"),
    ("ipv4/conf/all/arp_announce", "0"),
    ("ipv4/conf/default/arp_announce", "0"),
    ("ipv4/conf/all/proxy_arp", "0"),
    ("ipv4/conf/default/proxy_arp", "0"),
    ("ipv4/conf/all/log_martians", "0"),
    ("ipv4/conf/default/log_martians", "0"),
    ("ipv4/neigh/default/retrans_time_ms", NEIGHBOUR_RETRY),
];

const NETWORK_V6: &[(&str, &str)] = &[
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/all/accept_redirects", "0"),
    ("ipv6/conf/default/accept_redirects", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/autoconf", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/default/dad_transmits", "0"),
    // No link-local address but the gateway's.
    ("ipv6/conf/default/addr_gen_mode", "1"),
    ("ipv6/neigh/default/retrans_time_ms", NEIGHBOUR_RETRY),
];

const NETWORK_NO_V6: &[(&str, &str)] =
    &[("ipv6/conf/all/disable_ipv6", "1"), ("ipv6/conf/default/disable_ipv6", "1")];

const LINK_V4: &[(&str, &str)] =
    &[("rp_filter", "1"), ("send_redirects", "0"), ("forwarding", "1")];
const LINK_V6: &[(&str, &str)] = &[("disable_ipv6", "0"), ("accept_ra", "0")];
const SANDBOX_V6: &[(&str, &str)] =
    &[("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")];

/// Every link parameter that is ever wanted.
#[cfg(test)]
pub(crate) const LINK_KEYS: [(&str, &str); 6] = [
    ("ipv4", "rp_filter"),
    ("ipv4", "send_redirects"),
    ("ipv4", "forwarding"),
    ("ipv6", "disable_ipv6"),
    ("ipv6", "accept_ra"),
    ("ipv6", "accept_dad"),
];

/// The parameters, of the namespace or of an interface, without which nothing is forwarded.
fn is_forwarding(sysctl: &Sysctl) -> bool {
    let of_all = ["ipv4/ip_forward", "ipv6/conf/all/forwarding"];

    of_all.contains(&sysctl.path.as_str())
        || sysctl.link.is_some() && sysctl.path.ends_with("/forwarding")
}

/// Lists what a network's namespace must have, with these interfaces in it.
pub(crate) fn of_network(
    ipv6: bool,
    forwards: bool,
    links: impl Iterator<Item = String>,
) -> BTreeMap<Sysctl, String> {
    let v6 = if ipv6 { NETWORK_V6 } else { NETWORK_NO_V6 };
    let mut all: BTreeMap<_, _> = NETWORK_V4
        .iter()
        .chain(v6)
        .map(|&(path, value)| (Sysctl::global(path), value.to_owned()))
        .collect();

    for link in links {
        all.extend(of_link("ipv4", &link, LINK_V4));
        if ipv6 {
            all.extend(of_link("ipv6", &link, LINK_V6));
        }
    }
    for (_, value) in all.iter_mut().filter(|(sysctl, _)| !forwards && is_forwarding(sysctl)) {
        "0".clone_into(value);
    }

    all
}

/// Lists what the TUN must have where a linked network is reached both through it and by a veth
/// pair: answers come by either, so a source need only be reached at all. Who may send from which
/// address through the TUN is checked before.
pub(crate) fn of_shared_tun(link: &str) -> impl Iterator<Item = (Sysctl, String)> {
    of_link("ipv4", link, &[("rp_filter", "2")])
}

/// Lists what the endpoint's interface in a sandbox must have.
pub(crate) fn of_sandbox(ipv6: bool, link: &str) -> BTreeMap<Sysctl, String> {
    let keys = if ipv6 { SANDBOX_V6 } else { &[] };
    let families = if ipv6 { &NEIGHBOUR_FAMILIES[..] } else { &NEIGHBOUR_FAMILIES[..1] };
    let neighbours =
        families.iter().map(|family| (neighbour_retry(family, link), NEIGHBOUR_RETRY.to_owned()));

    of_link("ipv6", link, keys).chain(neighbours).collect()
}

/// The families with a table of neighbours.
pub(crate) const NEIGHBOUR_FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// Names the time until an interface asks for a neighbour again.
pub(crate) fn neighbour_retry(family: &str, link: &str) -> Sysctl {
    Sysctl::neighbours(family, link, "retrans_time_ms")
}

fn of_link(
    family: &str,
    link: &str,
    keys: &[(&str, &str)],
) -> impl Iterator<Item = (Sysctl, String)> {
    keys.iter().map(move |&(key, value)| (Sysctl::link(family, link, key), value.to_owned()))
}

/// Reads those of the parameters that exist, in the calling thread's namespace.
pub(crate) fn list<'a>(wanted: impl Iterator<Item = &'a Sysctl>) -> BTreeMap<Sysctl, String> {
    wanted
        .filter_map(|sysctl| {
            let value = fs::read_to_string(file_of(sysctl)).ok()?;

            Some((sysctl.clone(), value.trim_end().to_owned()))
        })
        .collect()
}

/// Writes a parameter in the calling thread's namespace.
pub(crate) fn set(sysctl: &Sysctl, value: &str) -> io::Result<()> {
    fs::write(file_of(sysctl), value)
}

fn file_of(sysctl: &Sysctl) -> PathBuf {
    PathBuf::from("/proc/sys/net").join(&sysctl.path)
}

/// Writes what a device takes at its birth, in the calling thread's namespace. Reconcile sets and
/// reports the same; this only closes the gap before it, so failures are left to it.
pub(crate) fn set_defaults() {
    for &(path, value) in
        NETWORK_V4.iter().chain(NETWORK_V6).filter(|(path, _)| path.contains("/default/"))
    {
        let sysctl = Sysctl::global(path);
        if list([&sysctl].into_iter()).get(&sysctl).is_some_and(|now| now != value) {
            drop(set(&sysctl, value));
        }
    }
}
