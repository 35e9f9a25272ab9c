use std::collections::BTreeSet;

use overlay_core::Name;
use overlay_core::policy::{Policy, PolicyEndpoint};

use super::*;

const POLICY: &str = "\
[network.shop]
default = \"deny\"
[[rule]]
name = \"web-to-db\"
from = { role = \"web\" }
to = { role = \"db\" }
allow = [\"tcp/5432\", \"udp/1-5\", \"icmp\"]
log = true
[[rule]]
name = \"no-more\"
from = \"any\"
to = { role = \"db\" }
deny = [\"tcp\"]
";

fn endpoint(role: &str, addresses: &[&str]) -> PolicyEndpoint {
    PolicyEndpoint {
        labels: [("role".to_owned(), role.to_owned())].into(),
        addresses: addresses.iter().map(|text| text.parse().expect("an address")).collect(),
        ..PolicyEndpoint::default()
    }
}

fn filter(endpoints: &[PolicyEndpoint], mode: FilterMode) -> Filter {
    let policy = Policy::parse(POLICY).expect("a policy");
    let shop: Name = "shop".parse().expect("a name");
    let nodes = BTreeSet::from(["10.0.0.9".parse().expect("an address")]);

    Filter::compile(&policy, &shop, endpoints.iter(), nodes, mode)
}

fn two() -> [PolicyEndpoint; 2] {
    [endpoint("web", &["10.0.0.2", "fd00::2"]), endpoint("db", &["10.0.0.3"])]
}

/// Returns the lines of a chain.
fn lines(script: &str, chain: &str) -> Vec<String> {
    let mut rest = script.lines().skip_while(|line| *line != format!("  chain {chain} {{"));
    rest.next().expect("the chain is there");

    rest.take_while(|line| *line != "  }").map(|line| line.trim().to_owned()).collect()
}

#[test]
fn of_linked_networks_what_passes_through_is_not_judged_and_the_rest_by_rules_alone() {
    let mut linked = filter(&two(), FilterMode::Shadow);
    assert!(!whole(&linked, Generation(7)).contains("linked"));
    let far = ["10.9.0.2", "fd09::2"].map(|text| text.parse::<IpAddr>().expect("an address"));
    linked.known.extend(far);
    linked.linked.extend(far);
    linked.closed.extend(far);
    linked.links = FilterLinks::Closed;

    let script = whole(&linked, Generation(7));

    assert_eq!(
        lines(&script, "forward")[..2],
        [r#"iifname "ovt" oifname "ovl*" accept"#, r#"iifname "ovl*" oifname "ovt" accept"#]
    );
    let judge = lines(&script, "judge6~");
    let foreign = "ct original ip6 saddr @linkedv6~ ct original ip6 daddr @linkedv6~";
    assert_eq!(judge[4], format!("{foreign} goto other-unknown~"));
    let end = judge.len();
    assert_eq!(
        judge[end - 3..],
        [
            r#"ct original ip6 saddr @closedv6~ counter name "other-default~" drop"#,
            r#"ct original ip6 daddr @closedv6~ counter name "other-default~" drop"#,
            "goto other-default~",
        ]
    );
    assert!(script.contains("set closedv4~ { type ipv4_addr; elements = { 10.9.0.2 }; }"));
}

#[test]
fn rules_are_lines_that_name_sets() {
    let script = whole(&filter(&two(), FilterMode::Enforced), Generation(7));

    let ends = "ct original ip saddr @set0v4~ ct original ip daddr @set1v4~";
    assert_eq!(
        lines(&script, "judge4~")[4..],
        [
            format!("{ends} meta l4proto icmp jump log4-web-to-db~"),
            format!("{ends} meta l4proto icmp counter name \"rule-web-to-db~\" goto pass~"),
            format!(
                "{ends} meta l4proto tcp ct original proto-dst {{ 5432 }} jump log4-web-to-db~"
            ),
            format!(
                "{ends} meta l4proto tcp ct original proto-dst {{ 5432 }} counter name \
                 \"rule-web-to-db~\" goto pass~"
            ),
            format!("{ends} meta l4proto udp ct original proto-dst {{ 1-5 }} jump log4-web-to-db~"),
            format!(
                "{ends} meta l4proto udp ct original proto-dst {{ 1-5 }} counter name \
                 \"rule-web-to-db~\" goto pass~"
            ),
            "ct original ip daddr @set1v4~ meta l4proto tcp counter name \"rule-no-more~\" goto \
             refuse~"
                .to_owned(),
            "goto other-default~".to_owned(),
        ]
    );
    assert!(script.contains("  set set1v4~ { type ipv4_addr; elements = { 10.0.0.3 }; }\n"));
    assert!(script.contains("  set set1v6~ { type ipv6_addr; }\n"), "{script}");
    assert!(
        script.contains(
            "  map settled~ { type mark : verdict; size 2; elements = { 7 : accept }; }\n"
        )
    );
    assert_eq!(lines(&script, "refuse~"), ["drop"]);
}

#[test]
fn in_shadow_what_is_refused_is_counted_and_passes() {
    let script = whole(&filter(&two(), FilterMode::Shadow), Generation(7));

    assert_eq!(lines(&script, "refuse~"), ["accept"]);
    assert_eq!(
        lines(&script, "other-default~"),
        [
            "ct direction original iifname != \"ovt\" counter name \"other-default~\"",
            "goto refuse~"
        ]
    );
    let judged = lines(&script, "judge4~");
    let refusal = "ct original ip daddr @set1v4~ meta l4proto tcp";
    assert!(judged.contains(&format!("{refusal} goto refuse~")), "{judged:#?}");
    let counted = "ct direction original iifname != \"ovt\" counter name \"rule-no-more~\"";
    assert!(judged.contains(&format!("{refusal} {counted}")), "{judged:#?}");
    let unknown = "ct direction original counter name \"other-unknown~\"";
    assert_eq!(lines(&script, "other-unknown~"), [unknown, "goto refuse~"]);
}

#[test]
fn in_shadow_what_comes_from_another_host_is_counted_there_unless_it_is_of_a_linked_network() {
    let mut linked = filter(&two(), FilterMode::Shadow);
    linked.links = FilterLinks::Open;

    let script = whole(&linked, Generation(7));

    let from_link = |family: u8, header: &str| {
        format!(
            "ct direction original iifname \"ovt\" ct original {header} saddr @linkedv{family}~ \
             counter name"
        )
    };
    let default = lines(&script, "other-default~");
    let wanted = [(4, "ip"), (6, "ip6")]
        .map(|(family, header)| format!("{} \"other-default~\"", from_link(family, header)));
    assert_eq!(default[1..3], wanted);
    let judged = lines(&script, "judge4~");
    let refusal = "ct original ip daddr @set1v4~ meta l4proto tcp";
    let counted = format!("{refusal} {} \"rule-no-more~\"", from_link(4, "ip"));
    assert!(judged.contains(&counted), "{judged:#?}");
}

#[test]
fn a_change_of_endpoints_is_written_as_elements_alone() {
    let [web, db] = two();
    let before = filter(&[web.clone(), db], FilterMode::Enforced);
    let after = filter(&[web, endpoint("db", &["10.0.0.4", "fd00::4"])], FilterMode::Enforced);

    let generations = Some((Generation(7), Generation(8)));
    let script = update(&before, &after, generations).expect("a change");

    assert_eq!(
        script,
        "delete element inet overlay knownv4~ { 10.0.0.3 }\n\
         add element inet overlay knownv4~ { 10.0.0.4 }\n\
         delete element inet overlay set1v4~ { 10.0.0.3 }\n\
         add element inet overlay set1v4~ { 10.0.0.4 }\n\
         add element inet overlay knownv6~ { fd00::4 }\n\
         add element inet overlay set1v6~ { fd00::4 }\n\
         delete element inet overlay settled~ { 7 }\n\
         add element inet overlay settled~ { 8 : accept }\n\
         delete element inet overlay generation~ { ipv4, ipv6 }\n\
         add element inet overlay generation~ { ipv4 : 8, ipv6 : 8 }\n"
    );
    assert_eq!(update(&before, &before, None), None);
}

#[test]
fn no_generation_is_that_of_flows_that_nobody_settled() {
    assert_eq!(Generation(u32::MAX).next(), Generation(1));
    assert_eq!(Generation::from_random(0), Generation(1));
}
