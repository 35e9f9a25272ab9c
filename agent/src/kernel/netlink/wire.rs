//! Between netlink's messages and our tables, and nothing more.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{self, RuleAttribute, RuleMessage};

use super::super::namespace_desired::{GATEWAY_V6, JOINED_V6};
use super::super::tables::{
    Address, Hop, LinkState, RESERVED_TOS, ROUTE_PROTOCOL, Route, RouteKey, Rule, RuleAction,
};

/// Says whether the kernel answered with one of these error numbers.
pub(super) fn is(error: &rtnetlink::Error, errnos: &[i32]) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message) if errnos.contains(&message.raw_code().abs()))
}

/// Returns the kernel's answer, or what rtnetlink says instead.
pub(super) fn cause(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other @ (rtnetlink::Error::UnexpectedMessage(_)
        | rtnetlink::Error::RequestFailed
        | rtnetlink::Error::NamespaceError(_)
        | rtnetlink::Error::InvalidHardwareAddress(_)
        | rtnetlink::Error::InvalidIp(_)
        | rtnetlink::Error::InvalidAddress(..)
        | rtnetlink::Error::InvalidNla(_)) => io::Error::other(other),
    }
}

pub(super) fn link(message: &LinkMessage) -> Option<(String, LinkState)> {
    let mut name = None;
    let mut link = LinkState {
        index: message.header.index,
        up: message.header.flags.contains(LinkFlags::Up),
        mtu: 0,
        queue_len: 0,
        kind: String::new(),
        peer: None,
        group: 0,
    };

    for attribute in &message.attributes {
        if let LinkAttribute::IfName(text) = attribute {
            name = Some(text.clone());
        } else if let LinkAttribute::Mtu(mtu) = attribute {
            link.mtu = *mtu;
        } else if let LinkAttribute::TxQueueLen(len) = attribute {
            link.queue_len = *len;
        } else if let LinkAttribute::Link(index) = attribute {
            link.peer = Some(*index);
        } else if let LinkAttribute::Group(group) = attribute {
            link.group = *group;
        } else if let LinkAttribute::LinkInfo(infos) = attribute {
            link.kind = infos.iter().find_map(kind).unwrap_or_default();
        }
    }

    Some((name?, link))
}

fn kind(info: &LinkInfo) -> Option<String> {
    if let LinkInfo::Kind(kind) = info { Some(kind.to_string()) } else { None }
}

pub(super) fn address(message: &AddressMessage, names: &BTreeMap<u32, String>) -> Option<Address> {
    let link = names.get(&message.header.index)?.clone();
    let of = |want_local: bool| {
        message.attributes.iter().find_map(|attribute| match (attribute, want_local) {
            (AddressAttribute::Local(ip), true) | (AddressAttribute::Address(ip), false) => {
                Some(*ip)
            }
            _ => None,
        })
    };
    // On a point-to-point link `Address` is the other side's.
    let ip = of(true).or_else(|| of(false))?;
    if ip.is_loopback() || is_kernel_made(ip) {
        return None;
    }
    let address = IpNet::new(ip, message.header.prefix_len).ok()?;

    Some(Address { link, address })
}

fn is_kernel_made(ip: IpAddr) -> bool {
    let IpAddr::V6(ip) = ip else { return false };

    ip.is_unicast_link_local() && ![GATEWAY_V6, JOINED_V6].contains(&ip)
}

/// No duplicate detection: we know who has the address, and its user must not wait.
pub(super) fn usable_at_once(message: &mut AddressMessage) {
    if message.header.family == AddressFamily::Inet6 {
        message.header.flags |= AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    if is_link_local(message) {
        message.header.scope = AddressScope::Link;
    }
}

fn is_link_local(message: &AddressMessage) -> bool {
    message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Local(IpAddr::V6(ip)) if ip.is_unicast_link_local()))
}

pub(super) fn address_message(index: u32, address: &Address) -> AddressMessage {
    let ip = address.address.addr();
    let mut message = AddressMessage::default();
    message.header.family = family_of(ip);
    message.header.prefix_len = address.address.prefix_len();
    message.header.index = index;
    message.attributes = vec![AddressAttribute::Local(ip), AddressAttribute::Address(ip)];

    message
}

/// A dump of the main table only: the connection's strict check makes the kernel filter.
pub(super) fn main_table(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = RouteHeader::RT_TABLE_MAIN;

    message
}

/// Adds the routes to `into`. A key that comes twice (IPv6 with several next hops) is none of ours,
/// nor is what replaced it.
pub(super) fn collect_routes(
    messages: &[RouteMessage],
    names: &BTreeMap<u32, String>,
    into: &mut BTreeMap<RouteKey, Route>,
) {
    for (key, route) in messages.iter().filter_map(|message| route(message, names)) {
        into.entry(key).and_modify(|twice| twice.hop = Hop::Foreign).or_insert(route);
    }
}

fn route(message: &RouteMessage, names: &BTreeMap<u32, String>) -> Option<(RouteKey, Route)> {
    let header = &message.header;
    if header.protocol == RouteProtocol::Kernel || header.tos != 0 || is_other_table(message) {
        return None;
    }
    let mut destination = None;
    let mut metric = 0;
    let mut gateway = None;
    let mut out = None;
    for attribute in &message.attributes {
        if let RouteAttribute::Destination(address) = attribute {
            destination = ip_of(address);
        } else if let RouteAttribute::Priority(priority) = attribute {
            metric = *priority;
        } else if let RouteAttribute::Gateway(address) = attribute {
            gateway = ip_of(address);
        } else if let RouteAttribute::Oif(index) = attribute {
            out = names.get(index).cloned();
        }
    }

    let destination = destination.or_else(|| unspecified(header.address_family))?;
    let prefix = IpNet::new(destination, header.destination_prefix_length).ok()?;
    let hop = match (header.kind, out, gateway) {
        (RouteType::Unreachable, _, _) => Hop::Unreachable,
        (RouteType::Unicast, Some(link), None) => Hop::Link(link),
        (RouteType::Unicast, Some(link), Some(gateway)) => Hop::Via(link, gateway),
        _ => Hop::Foreign,
    };
    let ours = header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL);

    Some((RouteKey { prefix, metric }, Route { hop, ours }))
}

/// Where the kernel does not filter (no strict check), we do; and clones of routes in the cache are
/// no routes.
fn is_other_table(message: &RouteMessage) -> bool {
    message.header.table != RouteHeader::RT_TABLE_MAIN
        || message.attributes.iter().any(
            |attribute| matches!(attribute, RouteAttribute::Table(table) if *table != u32::from(RouteHeader::RT_TABLE_MAIN)),
        )
}

/// Names a route, for removal: whatever its type, scope and maker are.
pub(super) fn route_key(key: RouteKey) -> RouteMessage {
    let mut message = main_table(family_of(key.prefix.addr()));
    message.header.destination_prefix_length = key.prefix.prefix_len();
    message.header.scope = RouteScope::NoWhere;
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(key.prefix.addr())));
    if key.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(key.metric));
    }

    message
}

pub(super) fn route_message(key: RouteKey, hop: &Hop, index: Option<u32>) -> RouteMessage {
    let mut message = route_key(key);
    message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
    message.header.kind = match hop {
        Hop::Link(_) | Hop::Via(..) => RouteType::Unicast,
        Hop::Unreachable | Hop::Foreign => RouteType::Unreachable,
    };
    message.header.scope = match hop {
        Hop::Link(_) => RouteScope::Link,
        Hop::Via(..) | Hop::Unreachable | Hop::Foreign => RouteScope::Universe,
    };
    if let Hop::Via(_, gateway) = hop {
        message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(*gateway)));
    }
    message.attributes.extend(index.map(RouteAttribute::Oif));

    message
}

/// A route to a prefix that no packet takes: see [`crate::kernel::reservation`].
pub(super) fn reservation(prefix: Ipv4Net, loopback: u32) -> RouteMessage {
    let mut message =
        route_message(RouteKey::ours(prefix.into()), &Hop::Link(String::new()), Some(loopback));
    message.header.tos = RESERVED_TOS;

    message
}

/// Reads such a route.
pub(super) fn reserved(message: &RouteMessage) -> Option<Ipv4Net> {
    let header = &message.header;
    let ours =
        header.protocol == RouteProtocol::Other(ROUTE_PROTOCOL) && header.tos == RESERVED_TOS;
    if !ours || is_other_table(message) {
        return None;
    }
    message.attributes.iter().find_map(|attribute| {
        let RouteAttribute::Destination(RouteAddress::Inet(ip)) = attribute else { return None };
        Ipv4Net::new(*ip, header.destination_prefix_length).ok()
    })
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    if let RouteAddress::Inet(ip) = address {
        return Some(IpAddr::V4(*ip));
    }

    if let RouteAddress::Inet6(ip) = address { Some(IpAddr::V6(*ip)) } else { None }
}

fn unspecified(family: AddressFamily) -> Option<IpAddr> {
    if family == AddressFamily::Inet {
        return Some(IpAddr::from([0; 4]));
    }

    (family == AddressFamily::Inet6).then_some(IpAddr::V6(Ipv6Addr::UNSPECIFIED))
}

fn family_of(ip: IpAddr) -> AddressFamily {
    match ip {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// Reads a rule; what we never make becomes [`RuleAction::Foreign`] at its priority.
pub(super) fn rule(message: &RuleMessage) -> Rule {
    let mut rule = Rule { priority: 0, iif: None, from: None, action: RuleAction::Foreign };
    let mut goto = None;
    let mut table = u32::from(message.header.table);
    let mut foreign =
        message.header.dst_len != 0 || message.header.flags.contains(rule::RuleFlags::Invert);

    for attribute in &message.attributes {
        if let RuleAttribute::Priority(priority) = attribute {
            rule.priority = *priority;
        } else if let RuleAttribute::Iifname(name) = attribute {
            rule.iif = Some(name.clone());
        } else if let RuleAttribute::Source(IpAddr::V6(ip)) = attribute {
            rule.from = Ipv6Net::new(*ip, message.header.src_len).ok();
        } else if let RuleAttribute::Goto(priority) = attribute {
            goto = Some(*priority);
        } else if let RuleAttribute::Table(id) = attribute {
            table = *id;
        } else if selects_more(attribute) {
            foreign = true;
        }
    }

    rule.action = match (message.header.action, goto) {
        _ if foreign => RuleAction::Foreign,
        (rule::RuleAction::ToTable, _) => RuleAction::Lookup(table),
        (rule::RuleAction::Goto, Some(priority)) => RuleAction::Goto(priority),
        (rule::RuleAction::Blackhole, _) => RuleAction::Blackhole,
        _ => RuleAction::Foreign,
    };
    rule
}

/// Says whether a rule matches by something that ours never do.
fn selects_more(attribute: &RuleAttribute) -> bool {
    matches!(
        attribute,
        RuleAttribute::FwMark(_)
            | RuleAttribute::Oifname(_)
            | RuleAttribute::L3MDev(true)
            | RuleAttribute::UidRange(_)
            | RuleAttribute::IpProtocol(_)
            | RuleAttribute::SourcePortRange(_)
            | RuleAttribute::DestinationPortRange(_)
    ) || matches!(attribute, RuleAttribute::SuppressPrefixLen(len) if *len != u32::MAX)
}

/// Writes a rule; `signed` puts our protocol number on it, which a removal must not ask for.
pub(super) fn rule_message(rule: &Rule, signed: bool) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.src_len = rule.from.map_or(0, |from| from.prefix_len());
    message.attributes.push(RuleAttribute::Priority(rule.priority));
    message.attributes.extend(rule.iif.clone().map(RuleAttribute::Iifname));
    message.attributes.extend(rule.from.map(|from| RuleAttribute::Source(IpAddr::V6(from.addr()))));
    if signed {
        message.attributes.push(RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)));
    }
    match rule.action {
        RuleAction::Lookup(table) => {
            message.header.action = rule::RuleAction::ToTable;
            message.attributes.push(RuleAttribute::Table(table));
        }
        RuleAction::Goto(priority) => {
            message.header.action = rule::RuleAction::Goto;
            message.attributes.push(RuleAttribute::Goto(priority));
        }
        RuleAction::Blackhole => message.header.action = rule::RuleAction::Blackhole,
        RuleAction::Foreign => {}
    }

    message
}

#[cfg(test)]
mod tests {
    use super::super::super::tables::METRIC_V6;
    use super::*;

    #[test]
    fn a_route_survives_its_message() {
        let names = BTreeMap::from([(7, "ovt".to_owned())]);
        let hops = [
            Hop::Link("ovt".to_owned()),
            Hop::Via("ovt".to_owned(), IpAddr::from([10, 0, 0, 1])),
            Hop::Unreachable,
        ];

        for hop in hops {
            let key = RouteKey::ours("10.42.0.0/16".parse().expect("a prefix"));
            let message = route_message(key, &hop, hop.link().map(|_| 7));

            assert_eq!(route(&message, &names), Some((key, Route { hop, ours: true })));
        }
    }

    #[test]
    fn a_reservation_survives_its_message_and_is_no_route() {
        let prefix = "172.18.0.0/16".parse().expect("a prefix");

        let message = reservation(prefix, 1);

        assert_eq!(reserved(&message), Some(prefix));
        assert_eq!(route(&message, &BTreeMap::from([(1, "lo".to_owned())])), None);
    }

    #[test]
    fn an_ipv6_route_stands_under_the_default_metric() {
        let key = RouteKey::ours("fd42::/64".parse().expect("a prefix"));

        let message = route_message(key, &Hop::Unreachable, None);

        assert!(message.attributes.contains(&RouteAttribute::Priority(METRIC_V6)));
    }

    #[test]
    fn a_rule_survives_its_message() {
        let from = "fd42::7/128".parse().ok();
        for action in [RuleAction::Lookup(255), RuleAction::Goto(30_000), RuleAction::Blackhole] {
            let wanted = Rule { priority: 200, iif: Some("ov1".to_owned()), from, action };

            assert_eq!(rule(&rule_message(&wanted, true)), wanted);
        }
    }

    #[test]
    fn a_key_that_comes_twice_is_foreign() {
        let names = BTreeMap::from([(7, "ovt".to_owned())]);
        let key = RouteKey::ours("fd42::/64".parse().expect("a prefix"));
        let message = route_message(key, &Hop::Link("ovt".to_owned()), Some(7));
        let mut routes = BTreeMap::new();

        collect_routes(&[message.clone(), message], &names, &mut routes);

        assert_eq!(routes.get(&key).map(|route| &route.hop), Some(&Hop::Foreign));
    }
}
