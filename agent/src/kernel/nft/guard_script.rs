//! How a [`Guard`] is written for the program `nft`, one transaction a script. Pure.
//!
//! ```text
//! prerouting, before fragments are put together ─► the interface's own hardware and IP address?
//!   ─► within the network? ─► no router's, DHCP server's or hiding packet? ─► pass
//!   otherwise ─► from lo or the tunnel? ─► pass
//!   ─► from a linked network's interface? ─► pass from its prefixes, refuse all else
//! input ─► ICMP, and DNS from containers, of each only as much as it may ask
//! arp ─► the interface's own addresses?
//! ```
//!
//! An endpoint is elements of sets, which its interface is part of: it comes and goes without a
//! change of rules. Interfaces that carry others' packets, as the tunnel does, are in `carriers`;
//! those to linked networks are in `joins`, and each carries the prefixes of one network. Names in
//! the scripts have a place for their edition.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::edition::TableFrame;
use super::guard::{Guard, GuardReason, Sender};
use crate::dns::{ASKED, LONGEST_PAUSE};
use crate::kernel::namespace_desired::{GATEWAY_V6, TUN_NAME};

/// The tables' name, of both families and of ARP, in the namespace of a network.
pub(super) const TABLE_NAME: &str = "overlay_guard";
/// The tables.
pub(super) const TABLE: &str = "inet overlay_guard";
pub(super) const ARP_TABLE: &str = "arp overlay_guard";

/// What stays of the tables when they are made anew.
pub(super) const FRAMES: [TableFrame; 2] = [
    TableFrame {
        table: TABLE,
        base_chains: &[
            ("prerouting", "type filter hook prerouting priority -450; policy accept;"),
            ("input", "type filter hook input priority filter; policy accept;"),
        ],
    },
    TableFrame {
        table: ARP_TABLE,
        base_chains: &[("input", "type filter hook input priority filter; policy accept;")],
    },
];

/// The sets that are the same whatever the endpoints are, and the chains. Fragments that do not end
/// a packet have 256 bytes and more on every path with the MTUs that IPv6 asks for, and begin
/// beyond byte 192; what is shorter hides its ports. Neighbour discovery (`@th,64,128` is the
/// target of an advertisement) is judged by whom it speaks of.
const CHAINS: &str = r#"
  chain prerouting {
    meta nfproto ipv4 iifname . ether saddr . ip saddr @own4~ goto own4~
    iifname @carriers~ accept
    iifname @joins~ goto joined~
    STRANGERS
    meta nfproto ipv4 goto forged~
    goto from6~
  }
  chain joined~ {
    JOINED
    ip6 saddr fe80::/64 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
    ip6 saddr { ::, fe80::/10 } drop
    counter name "source~" drop
  }
  chain own4~ {
    ip daddr != @inside4~ goto outside4~
    ip frag-off & 0x3fff != 0 jump fragment4~
    ip protocol tcp accept
    ip protocol udp goto udp-any~
    ip protocol icmp goto icmp4~
  }
  chain fragment4~ {
    ip frag-off & 0x2000 != 0 ip length < 256 counter name "fragment~" drop
    ip frag-off & 0x1fff != 0 ip frag-off & 0x1fff < 24 counter name "fragment~" drop
    ip frag-off & 0x1fff != 0 accept
  }
  chain icmp4~ {
    icmp type { redirect, router-advertisement } counter name "router~" drop
  }
  chain outside4~ {
    ip daddr { 224.0.0.0/4, 255.255.255.255 } counter name "group~" drop
    counter name "destination~" drop
  }
  chain forged~ {
    iifname . ether saddr != @macs~ counter name "mac~" drop
    counter name "source~" drop
  }
  chain udp-any~ {
    udp dport 68 udp sport 67 counter name "dhcp~" drop
    udp dport 546 udp sport 547 counter name "dhcp~" drop
  }
  chain from6~ {
    iifname . ether saddr . ip6 saddr != @own6~ goto local6~
    ip6 daddr != @inside6~ goto outside6~
    ip6 nexthdr tcp accept
    ip6 nexthdr udp goto udp-any~
    ip6 nexthdr ipv6-icmp goto icmp6~
    exthdr rt exists counter name "header~" drop
    exthdr hbh exists counter name "header~" drop
    exthdr frag exists jump fragment6~
    meta l4proto vmap { udp : goto udp-any~, ipv6-icmp : goto icmp6~ }
  }
  chain fragment6~ {
    frag more-fragments 1 ip6 length < 216 counter name "fragment~" drop
    frag frag-off > 0 frag frag-off < 24 counter name "fragment~" drop
    frag frag-off > 0 accept
  }
  chain icmp6~ {
    icmpv6 type { nd-router-advert, nd-redirect } counter name "router~" drop
    icmpv6 type nd-neighbor-advert goto advert6~
  }
  chain advert6~ {
    @th,64,128 0xfe800000000000000000000000000001 counter name "neighbor~" drop
    @th,64,10 0x3fa accept
    iifname . @th,64,128 @targets~ accept
    counter name "neighbor~" drop
  }
  chain outside6~ {
    ip6 daddr ff02::/16 icmpv6 type { 130, 131, 132, 133, 134, 135, 136, 137, 143 } goto icmp6~
    ip6 daddr ff00::/8 counter name "group~" drop
    counter name "destination~" drop
  }
  chain local6~ {
    iifname . ether saddr != @macs~ counter name "mac~" drop
    ip6 saddr != { ::, fe80::/10 } counter name "source~" drop
    ip6 saddr fe80::1 counter name "source~" drop
    icmpv6 type { nd-router-advert, nd-redirect } counter name "router~" drop
    ip6 daddr fe80::1 goto to-gateway6~
    ip6 daddr @inside6~ icmpv6 type { 135, 136 } goto icmp6~
    goto outside6~
  }
  chain to-gateway6~ {
    meta l4proto ipv6-icmp goto icmp6~
  }
  chain input {
    iifname "lo" accept
    meta l4proto { icmp, ipv6-icmp } accept
    iifname @carriers~ counter name "gateway~" drop
    iifname @joins~ counter name "gateway~" drop
    udp dport 53 goto questions~
    tcp dport 53 tcp flags & (syn | ack) == syn goto questions~
    tcp dport 53 accept
    counter name "gateway~" drop
  }
  set askers~ { type ifname; flags dynamic, timeout; timeout 10s; size 4096; }
  set flooding~ { type ifname; flags dynamic, timeout; size 4096; }
  chain questions~ {
    iifname @flooding~ counter name "questions~" drop
    update @askers~ { iifname LIMIT } add @flooding~ { iifname PAUSE } counter name "questions~" drop
    accept
  }
"#;

const ARP_CHAIN: &str = r#"
  counter neighbor~ { }
  chain input {
    iifname @joins~ accept
    STRANGERS
    iifname . arp saddr ip . arp saddr ether @own~ accept
    iifname . arp saddr ether @macs~ arp saddr ip 0.0.0.0 arp operation request accept
    counter name "neighbor~" drop
  }
"#;

/// Which elements a set has.
struct NamedSet {
    table: &'static str,
    name: &'static str,
    /// Its type, and flags.
    kind: &'static str,
    elements: BTreeSet<String>,
}

/// Writes all that is in the tables.
pub(super) fn whole(guard: &Guard) -> String {
    let strangers = if guard.passes_strangers { "iifname != @guarded~ accept" } else { "" };
    let joined = joined(guard);
    let mut script = String::new();
    let all = sets(guard);
    for (table, chains) in [(TABLE, CHAINS), (ARP_TABLE, ARP_CHAIN)] {
        script += &format!("table {table} {{\n");
        for set in all.iter().filter(|set| set.table == table) {
            let elements = elements(set.elements.iter());
            let elements = elements.map(|all| format!(" elements = {all};")).unwrap_or_default();
            // Infallible for a `String`.
            let _written = writeln!(script, "  set {}~ {{ {};{elements} }}", set.name, set.kind);
        }
        if table == TABLE {
            for reason in GuardReason::ALL {
                script += &format!("  counter {}~ {{ }}\n", reason.as_str());
            }
        }
        let chains = chains.replace("STRANGERS", strangers).replace("JOINED", &joined);
        script += &with_limit(&chains);
        script += "}\n";
    }

    script
}

/// Writes a script that changes the elements of sets from those of one guard to those of another;
/// nothing where rules would differ, or ranges.
pub(super) fn update(before: &Guard, after: &Guard) -> Option<String> {
    let has_same_rules =
        before.passes_strangers == after.passes_strangers && before.joins == after.joins;
    if !has_same_rules || before.inside != after.inside {
        return None;
    }
    let mut script = String::new();
    for (was, now) in sets(before).into_iter().zip(sets(after)) {
        let differences = [
            ("delete", was.elements.difference(&now.elements)),
            ("add", now.elements.difference(&was.elements)),
        ];
        for (word, changed) in differences {
            if let Some(elements) = elements(changed) {
                script += &format!("{word} element {} {}~ {elements}\n", now.table, now.name);
            }
        }
    }

    Some(script)
}

/// Writes how much a container may ask, questions by UDP and connections, and for how long all that
/// it asks is dropped when it asks more. That costs nobody but the container time; in the server's
/// socket it would take the room of others' questions whenever the agent comes to them late.
fn with_limit(chains: &str) -> String {
    let (at_once, one_more) = ASKED;
    let a_second = Duration::from_secs(1).as_millis() / one_more.as_millis();
    let limit = format!("limit rate over {a_second}/second burst {at_once} packets");
    let pause = format!("timeout {}ms", LONGEST_PAUSE.as_millis());

    chains.replace("LIMIT", &limit).replace("PAUSE", &pause)
}

/// Writes the rules that pass what comes from linked networks by their interfaces.
fn joined(guard: &Guard) -> String {
    let rule = |(name, prefix): (&String, &IpNet)| {
        let family = if matches!(prefix, IpNet::V4(_)) { "ip" } else { "ip6" };
        format!("iifname \"{name}\" {family} saddr {prefix} accept")
    };
    let all = guard.joins.iter();
    let rules: Vec<_> = all
        .flat_map(|(name, prefixes)| prefixes.iter().map(move |one| (name, one)))
        .map(rule)
        .collect();

    rules.join("\n    ")
}

fn elements<'a>(all: impl Iterator<Item = &'a String>) -> Option<String> {
    let texts: Vec<_> = all.map(String::as_str).collect();

    (!texts.is_empty()).then(|| format!("{{ {} }}", texts.join(", ")))
}

/// Lists all sets, always in this order.
fn sets(guard: &Guard) -> [NamedSet; 13] {
    let set = |table, name, kind, elements| NamedSet { table, name, kind, elements };
    let carriers = || ["lo", TUN_NAME].map(|name| format!("\"{name}\"")).into();
    let joins = || guard.joins.keys().map(|name| format!("\"{name}\"")).collect();
    let macs = || {
        each(guard, |name, sender, all| {
            all.insert(format!("\"{name}\" . {}", mac(sender)));
        })
    };
    let names = || {
        each(guard, |name, _, all| {
            all.insert(format!("\"{name}\""));
        })
    };
    let own4 = addresses(guard, |name, sender, ip| {
        ip.is_ipv4().then(|| format!("\"{name}\" . {} . {ip}", mac(sender)))
    });
    let own6 = addresses(guard, |name, sender, ip| {
        ip.is_ipv6().then(|| format!("\"{name}\" . {} . {ip}", mac(sender)))
    });
    let targets = addresses(guard, |name, _, ip| match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(ip) => Some(format!("\"{name}\" . {:#034x}", ip.to_bits())),
    });
    let own = addresses(guard, |name, sender, ip| {
        ip.is_ipv4().then(|| format!("\"{name}\" . {ip} . {}", mac(sender)))
    });
    let inside = |is_v4: bool| {
        let ranges = guard.inside.iter().filter(|(first, _)| first.is_ipv4() == is_v4);
        ranges.map(|(first, last)| range(*first, *last)).collect::<BTreeSet<_>>()
    };
    let gateway = IpAddr::V6(GATEWAY_V6);
    let inside6 = inside(false).into_iter().chain([gateway.to_string()]).collect();

    [
        set(TABLE, "carriers", "type ifname", carriers()),
        set(TABLE, "joins", "type ifname", joins()),
        set(TABLE, "guarded", "type ifname", names()),
        set(TABLE, "macs", "type ifname . ether_addr", macs()),
        set(TABLE, "own4", "type ifname . ether_addr . ipv4_addr", own4),
        set(TABLE, "own6", "type ifname . ether_addr . ipv6_addr", own6),
        set(TABLE, "targets", "typeof iifname . @th,64,128", targets),
        set(TABLE, "inside4", "type ipv4_addr; flags interval", inside(true)),
        set(TABLE, "inside6", "type ipv6_addr; flags interval", inside6),
        set(ARP_TABLE, "joins", "type ifname", joins()),
        set(ARP_TABLE, "guarded", "type ifname", names()),
        set(ARP_TABLE, "macs", "type ifname . ether_addr", macs()),
        set(ARP_TABLE, "own", "type ifname . ipv4_addr . ether_addr", own),
    ]
}

fn each(guard: &Guard, add: impl Fn(&str, &Sender, &mut BTreeSet<String>)) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for (name, sender) in &guard.senders {
        add(name, sender, &mut all);
    }

    all
}

fn addresses(
    guard: &Guard,
    element: impl Fn(&str, &Sender, IpAddr) -> Option<String>,
) -> BTreeSet<String> {
    each(guard, |name, sender, all| {
        all.extend(sender.addresses.iter().filter_map(|ip| element(name, sender, *ip)));
    })
}

fn mac(sender: &Sender) -> String {
    sender.mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn range(first: IpAddr, last: IpAddr) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::tests::rig::{Container, desired, endpoint, skipped};

    fn guard(numbers: &[u8]) -> Guard {
        let sandboxes = numbers.iter().map(|n| (endpoint(*n), Container::new(*n).desired()));

        Guard::new(&desired(1, numbers), &sandboxes.collect())
    }

    #[test]
    fn an_endpoint_changes_elements_alone() {
        if skipped() {
            return;
        }
        let (few, more) = (guard(&[11]), guard(&[11, 12]));

        let script = update(&few, &more).expect("the same rules");
        let other_way = update(&more, &few).expect("the same rules");

        assert_eq!(script.lines().count(), 8, "{script}");
        assert!(script.lines().all(|line| line.starts_with("add element ")), "{script}");
        assert!(other_way.lines().all(|line| line.starts_with("delete element ")), "{other_way}");
        assert_eq!(update(&more, &more).as_deref(), Some(""));
    }
}
