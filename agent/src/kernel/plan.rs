//! The steps from what is there to what is wanted. Pure.
//!
//! Parameters come first, then rules (an endpoint's source is pinned before its link is up), links,
//! addresses, routes; then removals the other way round. A changed route is one replacement, so its
//! traffic is not interrupted. What belongs to a missing link is left out: the link's owner makes
//! it and plans again.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use ipnet::IpNet;

use super::namespace_desired::{endpoint_of, joined_by};
use super::nft::ruleset::{Ruleset, Transaction};
use super::tables::{
    Actual, Address, Desired, Hop, LinkChange, LinkDesired, LinkState, Route, RouteKey, Scope, Step,
};

/// Lists the steps that take `actual` to `desired`, in the order in which the kernel accepts them.
pub fn plan(desired: &Desired, actual: &Actual) -> Vec<Step> {
    let gone = unwanted_links(desired, actual);
    let differing = RouteDifference::new(desired, actual);

    sysctls(desired, actual)
        .chain(desired.rules.difference(&actual.rules).cloned().map(Step::AddRule))
        .chain(links(desired, actual))
        .chain(addresses(desired, actual))
        .chain(routes(&differing, actual))
        .chain(unwanted_routes(&differing, desired, &gone))
        .chain(unwanted_addresses(desired, actual, &gone))
        .chain(gone.iter().cloned().map(Step::RemoveLink))
        .chain(unwanted_rules(desired, actual))
        .collect()
}

/// Returns the one transaction that takes the held ruleset to the desired one; nothing where they
/// are equal.
pub fn plan_ruleset<'a>(
    desired: &'a Ruleset,
    held: Option<&'a Ruleset>,
) -> Option<Transaction<'a>> {
    (held != Some(desired)).then_some(Transaction { remove: held, make: desired })
}

/// Lists the wanted links that are not there.
pub fn missing_links(desired: &Desired, actual: &Actual) -> BTreeSet<String> {
    desired.links.keys().filter(|&link| !actual.links.contains_key(link)).cloned().collect()
}

/// A parameter that is not there belongs to a missing link, or to a protocol that this kernel does
/// not have.
fn sysctls<'a>(desired: &'a Desired, actual: &'a Actual) -> impl Iterator<Item = Step> + 'a {
    desired
        .sysctls
        .iter()
        .filter(|&(sysctl, value)| actual.sysctls.get(sysctl).is_some_and(|now| now != value))
        .map(|(sysctl, value)| Step::SetSysctl(sysctl.clone(), value.clone()))
}

fn links<'a>(desired: &'a Desired, actual: &'a Actual) -> impl Iterator<Item = Step> + 'a {
    desired
        .links
        .iter()
        .filter_map(|(name, wanted)| Some((name, wanted, actual.links.get(name)?)))
        .flat_map(|(name, wanted, link)| {
            changes(wanted, link).map(|change| Step::SetLink(name.clone(), change))
        })
}

fn changes(wanted: &LinkDesired, link: &LinkState) -> impl Iterator<Item = LinkChange> {
    let mtu = wanted.mtu.filter(|&mtu| mtu != link.mtu).map(LinkChange::Mtu);
    let queue_len = wanted.queue_len.filter(|&len| len > link.queue_len).map(LinkChange::QueueLen);
    let up = (!link.up).then_some(LinkChange::Up);

    [mtu, queue_len, up].into_iter().flatten()
}

fn addresses<'a>(desired: &'a Desired, actual: &'a Actual) -> impl Iterator<Item = Step> + 'a {
    desired
        .addresses
        .difference(&actual.addresses)
        .filter(|address| actual.links.contains_key(&address.link))
        .flat_map(|address| {
            let in_the_way = actual.addresses.iter().filter(|other| blocks(other, address));

            in_the_way.cloned().map(Step::RemoveAddress).chain([Step::AddAddress(address.clone())])
        })
}

/// The kernel keys IPv6 addresses without their prefix length, so the same one with another length
/// is in the way.
fn blocks(other: &Address, wanted: &Address) -> bool {
    matches!(wanted.address, IpNet::V6(_))
        && other.link == wanted.link
        && other.address.addr() == wanted.address.addr()
        && other.address != wanted.address
}

/// Where the routes differ.
#[derive(Debug, Default)]
struct RouteDifference<'a> {
    /// Wanted ones that are missing or lead elsewhere.
    wanted: Vec<(&'a RouteKey, &'a Hop)>,
    /// Those that are not wanted.
    unwanted: Vec<(&'a RouteKey, &'a Route)>,
}

impl<'a> RouteDifference<'a> {
    /// Goes once through both tables: that of a network of a thousand nodes has thousands of
    /// routes.
    fn new(desired: &'a Desired, actual: &'a Actual) -> Self {
        let mut difference = Self::default();
        let mut all_wanted = desired.routes.iter().peekable();
        let mut all_there = actual.routes.iter().peekable();
        loop {
            let order = match (all_wanted.peek(), all_there.peek()) {
                (Some((wanted, _)), Some((there, _))) => wanted.cmp(there),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return difference,
            };
            let wanted = if order.is_le() { all_wanted.next() } else { None };
            let there = if order.is_ge() { all_there.next() } else { None };
            match (wanted, there) {
                (Some((_, hop)), Some((_, route))) if *hop == route.hop => {}
                (Some(wanted), _) => difference.wanted.push(wanted),
                (None, unwanted) => difference.unwanted.extend(unwanted),
            }
        }
    }
}

/// Routes to neighbours come before routes via them.
fn routes<'a>(
    differing: &RouteDifference<'a>,
    actual: &'a Actual,
) -> impl Iterator<Item = Step> + 'a {
    let (via, direct): (Vec<_>, Vec<_>) = differing
        .wanted
        .iter()
        .copied()
        .filter(|(_, hop)| hop.link().is_none_or(|link| actual.links.contains_key(link)))
        .partition(|(_, hop)| matches!(hop, Hop::Via(..)));

    direct.into_iter().chain(via).map(|(key, hop)| Step::SetRoute(*key, hop.clone()))
}

fn unwanted_links(desired: &Desired, actual: &Actual) -> BTreeSet<String> {
    match desired.scope {
        Scope::Network { .. } => actual
            .links
            .keys()
            .filter(|&link| {
                (endpoint_of(link).is_some() || joined_by(link).is_some())
                    && !desired.links.contains_key(link)
                    && !is_stray(desired, link)
            })
            .cloned()
            .collect(),
        Scope::Sandbox { .. } => BTreeSet::new(),
    }
}

/// Tells whether a link and all that is on it stays though it is not wanted.
fn is_stray(desired: &Desired, link: &str) -> bool {
    let Scope::Network { strays } = &desired.scope else { return false };
    let is_one = endpoint_of(link).is_some_and(|endpoint| strays.contains(endpoint));

    is_one && !desired.links.contains_key(link)
}

fn unwanted_routes<'a>(
    differing: &RouteDifference<'a>,
    desired: &'a Desired,
    gone: &'a BTreeSet<String>,
) -> impl Iterator<Item = Step> + 'a {
    let (via, direct): (Vec<_>, Vec<_>) = differing
        .unwanted
        .iter()
        .copied()
        .filter(|(_, route)| may_remove(desired, route))
        .filter(|(_, route)| route.hop.link().is_none_or(|link| !gone.contains(link)))
        .partition(|(_, route)| matches!(route.hop, Hop::Via(..)));

    via.into_iter().chain(direct).map(|(&key, _): (&RouteKey, _)| Step::RemoveRoute(key))
}

fn may_remove(desired: &Desired, route: &Route) -> bool {
    match &desired.scope {
        Scope::Network { .. } => route.hop.link().is_none_or(|link| !is_stray(desired, link)),
        Scope::Sandbox { link } => route.ours && route.hop.link() == Some(link),
    }
}

fn unwanted_addresses<'a>(
    desired: &'a Desired,
    actual: &'a Actual,
    gone: &'a BTreeSet<String>,
) -> impl Iterator<Item = Step> + 'a {
    actual
        .addresses
        .difference(&desired.addresses)
        .filter(|address| desired.scope.is_network() && !is_stray(desired, &address.link))
        .filter(|address| !gone.contains(&address.link))
        // Already removed before its successor was added.
        .filter(|address| !desired.addresses.iter().any(|wanted| blocks(address, wanted)))
        .cloned()
        .map(Step::RemoveAddress)
}

fn unwanted_rules<'a>(desired: &'a Desired, actual: &'a Actual) -> impl Iterator<Item = Step> + 'a {
    actual
        .rules
        .difference(&desired.rules)
        .filter(|_| desired.scope.is_network() && !desired.rules.is_empty())
        .filter(|rule| rule.iif.as_ref().is_none_or(|link| !is_stray(desired, link)))
        .cloned()
        .map(Step::RemoveRule)
}
