//! How a [`Filter`] is written for the program `nft`, one transaction a script. Pure.
//!
//! ```text
//! forward ─► settled by an earlier packet of the flow? ─► pass
//!         ─► judge4, judge6: nodes, strangers, the rules in order, the default
//!                                 │
//!                  pass: settle the flow │ refuse: drop, or in shadow let it pass unsettled
//! ```
//!
//! Every packet is judged by the addresses and the port of its flow's first packet, so that answers
//! share the verdict. A flow that passes is settled by a mark that names a generation; another
//! generation unsettles all flows at once, so that established ones follow a changed policy and
//! none is cut that may go on. A packet is given the generation before it is judged: what it
//! settles is of the elements that it was judged by, or of earlier ones.
//!
//! Names in the scripts have a place for their edition.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

use overlay_core::policy::{
    Filter, FilterLinks, FilterMode, FilterRule, PolicyAction, PortRange, Term,
};

use super::edition::TableFrame;

/// The table, in the namespace of a network.
pub(super) const TABLE: &str = "inet overlay";
/// Its name alone, and its chain that packets come by.
pub(super) const TABLE_NAME: &str = "overlay";
pub(super) const FORWARD: &str = "forward";
/// The group of `nfnetlink_log` that the first packets of logged flows go to.
pub(crate) const LOG_GROUP: u16 = 6_086;
/// What is counted besides rules: what none of them matches, packets of strangers, and those that
/// belong to no flow.
pub(super) const DEFAULT: &str = "other-default";
pub(super) const UNKNOWN: &str = "other-unknown";
pub(super) const INVALID: &str = "other-invalid";
/// The counters of rules begin so.
pub(super) const RULE_PREFIX: &str = "rule-";
/// Of a packet in the direction of its flow.
const ORIGINAL: &str = "ct direction original ";
/// The sets of flows that were logged lately: for how long, and how many at most. Beyond that,
/// flows are not logged.
const LOGGED: &str = "size 16384; flags dynamic,timeout; timeout 5m";
/// How much each rule logs at most.
const LOG_RATE: &str = "limit rate 100/second burst 200 packets";

/// A version of the table's elements; flows that an earlier one let pass are judged again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u32);

impl Generation {
    /// Makes one of random bits. A new table must not take flows for settled that one before it
    /// settled.
    pub(super) fn from_random(bits: u32) -> Self {
        Self(bits.max(1))
    }

    /// Returns the next one; 0 marks flows that nobody settled.
    #[must_use]
    pub(super) fn next(self) -> Self {
        Self::from_random(self.0.wrapping_add(1))
    }
}

/// An address family.
#[derive(Debug, Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn header(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }

    const fn number(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    const fn address_type(self) -> &'static str {
        match self {
            Self::V4 => "ipv4_addr",
            Self::V6 => "ipv6_addr",
        }
    }

    const fn icmp(self) -> &'static str {
        match self {
            Self::V4 => "icmp",
            Self::V6 => "ipv6-icmp",
        }
    }

    const fn has(self, address: IpAddr) -> bool {
        match self {
            Self::V4 => address.is_ipv4(),
            Self::V6 => address.is_ipv6(),
        }
    }
}

/// What stays of the table when it is made anew.
pub(super) const FRAME: TableFrame = TableFrame {
    table: TABLE,
    base_chains: &[(FORWARD, "type filter hook forward priority filter; policy drop;")],
};

/// Writes all that is in the table.
pub(super) fn whole(filter: &Filter, generation: Generation) -> String {
    let mut script = format!("table {TABLE} {{\n");
    let Generation(mark) = generation;
    for (name, kind, elements) in [
        ("settled", "mark : verdict", format!("{mark} : accept")),
        ("generation", "nf_proto : mark", format!("ipv4 : {mark}, ipv6 : {mark}")),
    ] {
        // Of a known size, the kernel looks them up at the least cost.
        line(
            &mut script,
            &format!("map {name}~ {{ type {kind}; size 2; elements = {{ {elements} }}; }}"),
        );
    }
    for family in Family::ALL {
        sets(&mut script, filter, family);
    }
    let counters = filter.rules.iter().map(|rule| format!("{RULE_PREFIX}{}", rule.name));
    for counter in counters.chain([DEFAULT, UNKNOWN, INVALID].map(str::to_owned)) {
        line(&mut script, &format!("counter {counter}~ {{ }}"));
    }
    chains(&mut script, filter);
    script.push_str("}\n");

    script
}

/// Writes a script that changes the elements of the table's sets from those of one filter to those
/// of another with the same rules; nothing where they are equal. With two generations, flows are
/// judged again.
pub(super) fn update(
    before: &Filter,
    after: &Filter,
    generations: Option<(Generation, Generation)>,
) -> Option<String> {
    let mut script = String::new();
    for family in Family::ALL {
        for ((name, was), (_, now)) in named_sets(before).into_iter().zip(named_sets(after)) {
            let set = format!("{TABLE} {name}v{}~", family.number());
            for (word, addresses) in [("delete", was.difference(now)), ("add", now.difference(was))]
            {
                if let Some(elements) = elements(addresses.copied(), family) {
                    script += &format!("{word} element {set} {elements}\n");
                }
            }
        }
    }
    if let Some((Generation(was), Generation(now))) = generations {
        script += &format!(
            "delete element {TABLE} settled~ {{ {was} }}\n\
             add element {TABLE} settled~ {{ {now} : accept }}\n\
             delete element {TABLE} generation~ {{ ipv4, ipv6 }}\n\
             add element {TABLE} generation~ {{ ipv4 : {now}, ipv6 : {now} }}\n"
        );
    }

    (!script.is_empty()).then_some(script)
}

fn sets(script: &mut String, filter: &Filter, family: Family) {
    let (kind, number) = (family.address_type(), family.number());
    for (name, addresses) in named_sets(filter) {
        let elements = elements(addresses.iter().copied(), family);
        let elements = elements.map(|all| format!(" elements = {all};")).unwrap_or_default();
        line(script, &format!("set {name}v{number}~ {{ type {kind};{elements} }}"));
    }
    let pair = format!("{kind} . {kind} . inet_proto");
    line(script, &format!("set pairsv{number}~ {{ type {pair}; {LOGGED}; }}"));
    let flow = format!("{pair} . inet_service . inet_service");
    line(script, &format!("set flowsv{number}~ {{ type {flow}; {LOGGED}; }}"));
}

fn named_sets(filter: &Filter) -> Vec<(String, &BTreeSet<IpAddr>)> {
    let own = filter.sets.iter().enumerate().map(|(place, set)| (format!("set{place}"), set));

    let linked = [("linked".to_owned(), &filter.linked), ("closed".to_owned(), &filter.closed)];
    let linked = linked.into_iter().filter(|_| is_linked(filter));

    [("known".to_owned(), &filter.known), ("nodes".to_owned(), &filter.nodes)]
        .into_iter()
        .chain(linked)
        .chain(own)
        .collect()
}

fn is_linked(filter: &Filter) -> bool {
    filter.links != FilterLinks::None
}

fn elements(addresses: impl Iterator<Item = IpAddr>, family: Family) -> Option<String> {
    let texts: Vec<_> =
        addresses.filter(|one| family.has(*one)).map(|one| one.to_string()).collect();

    (!texts.is_empty()).then(|| format!("{{ {} }}", texts.join(", ")))
}

fn line(script: &mut String, text: &str) {
    // Infallible for a `String`.
    let _written = writeln!(script, "  {text}");
}

fn chain(script: &mut String, name: &str, lines: impl IntoIterator<Item = String>) {
    line(script, &format!("chain {name} {{"));
    for text in lines {
        line(script, &format!("  {text}"));
    }
    line(script, "}");
}

/// Writes when a packet that a rule or the default refuses is counted, which is when one of these
/// is true of it; always where there are none.
///
/// In shadow it goes on, and what would not have come so far is not counted: answers to what would
/// not have arrived, and what comes from another host, which would have dropped it. What comes from
/// a linked network was judged there by the rules of that one.
fn counting(filter: &Filter, families: &[Family]) -> Vec<String> {
    if filter.mode == FilterMode::Enforced {
        return Vec::new();
    }
    let families = families.iter().filter(|_| is_linked(filter));
    let from_link = families
        .map(|family| format!("{ORIGINAL}iifname \"ovt\" {} ", is_in("saddr", "linked", *family)));

    std::iter::once(format!("{ORIGINAL}iifname != \"ovt\" ")).chain(from_link).collect()
}

/// Writes the lines that count what is refused, under these conditions, and refuse it.
fn refusal(matched: &str, counter: &str, counting: &[String]) -> Vec<String> {
    let counter = format!("counter name \"{counter}~\"");
    if counting.is_empty() {
        return vec![format!("{matched}{counter} goto refuse~")];
    }
    let counted = counting.iter().map(|when| format!("{matched}{when}{counter}"));

    counted.chain([format!("{matched}goto refuse~")]).collect()
}

fn chains(script: &mut String, filter: &Filter) {
    let own = |text: &str| text.to_owned();
    let refuse = match filter.mode {
        FilterMode::Enforced => "drop",
        FilterMode::Shadow => "accept",
    };
    chain(script, "pass~", [own("ct mark set meta mark"), own("accept")]);
    chain(script, "refuse~", [own(refuse)]);
    let default = match filter.default {
        PolicyAction::Allow => vec![format!("counter name \"{DEFAULT}~\" goto pass~")],
        PolicyAction::Deny => refusal("", DEFAULT, &counting(filter, &Family::ALL)),
    };
    chain(script, &format!("{DEFAULT}~"), default);
    // The sender's host may know an address before this one does, and lets it pass.
    let unknown = match filter.mode {
        FilterMode::Enforced => Vec::new(),
        FilterMode::Shadow => vec![own(ORIGINAL)],
    };
    chain(script, &format!("{UNKNOWN}~"), refusal("", UNKNOWN, &unknown));
    for family in Family::ALL {
        log_chains(script, filter, family);
        let counting = counting(filter, &[family]);
        let rules = filter.rules.iter().flat_map(|rule| rule_lines(rule, family, &counting));
        let foreign = is_linked(filter).then(|| from_link_to_link(family));
        let closed = is_linked(filter).then(|| closed(family));
        let lines = strangers(family)
            .into_iter()
            .chain(foreign)
            .chain(rules)
            .chain(closed.into_iter().flatten())
            .chain([format!("goto {DEFAULT}~")]);
        chain(script, &format!("judge{}~", family.number()), lines);
    }
    // What passes through this host from one linked network to the other is judged where it comes
    // from and where it goes: answers may take another way, and would belong to no flow here.
    let passing = [("ovt", "ovl*"), ("ovl*", "ovt")];
    let passing = passing.iter().filter(|_| is_linked(filter));
    let passing = passing.map(|(from, to)| format!("iifname \"{from}\" oifname \"{to}\" accept"));
    let forward = [
        own("ct mark vmap @settled~"),
        own("meta mark set meta nfproto map @generation~"),
        own("ct state related meta l4proto { icmp, ipv6-icmp } accept"),
        format!("ct state invalid,untracked counter name \"{INVALID}~\" goto refuse~"),
        own("meta nfproto vmap { ipv4 : goto judge4~, ipv6 : goto judge6~ }"),
    ];
    chain(script, FORWARD, passing.chain(forward));
}

/// Writes that there is no way from one linked network to another, before the rules.
fn from_link_to_link(family: Family) -> String {
    let [from, to] = ["saddr", "daddr"].map(|end| is_in(end, "linked", family));

    format!("{from} {to} goto {UNKNOWN}~")
}

/// Writes, after the rules, that nothing else passes from or to linked networks where only rules
/// are for them, in shadow too.
fn closed(family: Family) -> [String; 2] {
    ["saddr", "daddr"]
        .map(|end| format!("{} counter name \"{DEFAULT}~\" drop", is_in(end, "closed", family)))
}

/// Writes that an end of a flow, `saddr` or `daddr`, is in a set.
fn is_in(end: &str, set: &str, family: Family) -> String {
    format!("ct original {} {end} @{set}v{}~", family.header(), family.number())
}

/// Writes what is decided before the rules: nodes are pinged, and strangers refused.
fn strangers(family: Family) -> [String; 4] {
    let (header, number, icmp) = (family.header(), family.number(), family.icmp());
    let ping = |from, to| {
        format!(
            "meta l4proto {icmp} ct original {header} saddr @{from}v{number}~ ct original {header} \
             daddr @{to}v{number}~ goto pass~"
        )
    };
    let unknown = |end| format!("ct original {header} {end} != @knownv{number}~ goto {UNKNOWN}~");

    [ping("nodes", "known"), ping("known", "nodes"), unknown("saddr"), unknown("daddr")]
}

/// Writes a chain for each rule that logs: it logs a flow that was not logged lately, and of
/// protocols without ports what one address sends to another.
fn log_chains(script: &mut String, filter: &Filter, family: Family) {
    let (header, number) = (family.header(), family.number());
    let pair = format!("{header} saddr . {header} daddr . meta l4proto");
    let flow = format!("{pair} . th sport . th dport");
    let known = |set, of: &str, tuple: &str| {
        [
            format!("meta l4proto {of} {tuple} @{set}v{number}~ return"),
            format!("meta l4proto {of} add @{set}v{number}~ {{ {tuple} }}"),
        ]
    };
    for rule in filter.rules.iter().filter(|rule| rule.log) {
        // A flow that a changed policy lets go on is not a new one; one that it ends is news.
        let old = (rule.action == PolicyAction::Allow).then(|| "ct state != new return".to_owned());
        let log = format!("{LOG_RATE} log group {LOG_GROUP} prefix \"{}\"", rule.name);
        let lines = old
            .into_iter()
            .chain(known("flows", "{ tcp, udp }", &flow))
            .chain(known("pairs", "!= { tcp, udp }", &pair))
            .chain([log]);
        chain(script, &log_chain(rule, family), lines);
    }
}

fn log_chain(rule: &FilterRule, family: Family) -> String {
    format!("log{}-{}~", family.number(), rule.name)
}

/// Writes a rule: a line for each protocol that it is about.
fn rule_lines(rule: &FilterRule, family: Family, counting: &[String]) -> Vec<String> {
    let end = |end: &str, set: Option<usize>| {
        let (header, number) = (family.header(), family.number());
        set.map(|place| format!("ct original {header} {end} @set{place}v{number}~ "))
            .unwrap_or_default()
    };
    let (from, to) = (end("saddr", rule.from), end("daddr", rule.to));
    let counter = format!("{RULE_PREFIX}{}", rule.name);
    let mut lines = Vec::new();
    for protocols in protocols(&rule.terms, family) {
        let matched = format!("{from}{to}{protocols}");
        if rule.log {
            lines.push(format!("{matched}jump {}", log_chain(rule, family)));
        }
        match rule.action {
            PolicyAction::Allow => {
                lines.push(format!("{matched}counter name \"{counter}~\" goto pass~"));
            }
            PolicyAction::Deny => lines.extend(refusal(&matched, &counter, counting)),
        }
    }

    lines
}

/// Writes the conditions, one a protocol, of which a packet of these terms meets one.
fn protocols(terms: &[Term], family: Family) -> Vec<String> {
    let icmp = family.icmp();
    let (mut tcp, mut udp, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for term in terms {
        match term {
            Term::Any => others.push(String::new()),
            Term::Icmp => others.push(format!("meta l4proto {icmp} ")),
            Term::Tcp(ports) => tcp.push(*ports),
            Term::Udp(ports) => udp.push(*ports),
        }
    }
    others.extend([("tcp", tcp), ("udp", udp)].into_iter().filter_map(|(protocol, ports)| {
        let condition = match &ports[..] {
            [] => return None,
            [PortRange::ALL] => String::new(),
            _ => {
                let texts: Vec<_> = ports.iter().map(ToString::to_string).collect();
                format!("ct original proto-dst {{ {} }} ", texts.join(", "))
            }
        };
        Some(format!("meta l4proto {protocol} {condition}"))
    }));

    others
}

#[cfg(test)]
#[path = "filter_script_tests.rs"]
mod tests;
