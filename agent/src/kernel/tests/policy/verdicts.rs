//! The kernel decides as the policy does.

use overlay_core::policy::{FilterReason, PolicyAction, Traffic};
use socket2::{Socket, Type};

use super::ping::{Ping, domain};
use super::*;

/// Policies in which rules overlap in every way.
fn policies() -> [String; 4] {
    let rule = |name, from, to, action| {
        format!("[[rule]]\nname = \"{name}\"\nfrom = {from}\nto = {to}\n{action}\n")
    };
    let (any, web, db) = ("\"any\"", "{ role = \"web\" }", "{ role = \"db\" }");
    let several = "[{ role = \"web\" }, { cidr = \"fd42::c/128\" }]";
    let deny = "[network.shop]\ndefault = \"deny\"\n".to_owned();

    [
        WEB_TO_DB.to_owned(),
        rule("a", web, any, "deny = [\"tcp\", \"udp/1-2\"]")
            + &rule("b", any, "{ name = \"c12\" }", "allow = [\"udp/2-3\"]")
            + &rule("c", any, db, "deny = \"any\""),
        deny + &rule(
            "a",
            "{ cidr = \"10.42.0.12/31\" }",
            several,
            "allow = [\"tcp/3\", \"udp/1\", \"udp/3\"]",
        ) + &rule("b", any, any, "deny = [\"udp/3\"]\nlog = true")
            + &rule("c", "{ network = \"shop\", role = \"web\" }", any, "allow = [\"udp\"]"),
        rule("a", any, any, "network = \"other\"\ndeny = \"any\"")
            + &rule("b", "{ role = \"x\" }", any, "deny = [\"icmp\", \"tcp/1-2\"]"),
    ]
}

/// Policies of random rules, the same each time.
fn random_policies(count: usize) -> Vec<String> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut pick = |texts: &[&str]| {
        // Xorshift.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let len = u64::try_from(texts.len()).expect("few");
        texts[usize::try_from(state % len).expect("few")].to_owned()
    };
    let sides = [
        "\"any\"",
        "{ role = \"web\" }",
        "{ role = \"db\" }",
        "{ name = \"c1*\" }",
        "{ name = \"c11\" }",
        "[{ name = \"c12\" }, { name = \"c13\" }]",
        "{ cidr = \"fd42::c/127\" }",
        "{ role = \"web\", network = \"ops\" }",
    ];
    let terms = ["tcp", "udp", "icmp", "tcp/1", "tcp/2-3", "udp/2-7777", "udp/0-1", "tcp/3-65535"];
    let mut policy = || {
        let mut text = format!("[network.shop]\ndefault = \"{}\"\n", pick(&["allow", "deny"]));
        for name in ["a", "b", "c", "d", "e"] {
            let (from, to, action) = (pick(&sides), pick(&sides), pick(&["allow", "deny"]));
            let (one, other, log) = (pick(&terms), pick(&terms), pick(&["true", "false"]));
            text += &format!(
                "[[rule]]\nname = \"{name}\"\nfrom = {from}\nto = {to}\n\
                 {action} = [\"{one}\", \"{other}\"]\nlog = {log}\n"
            );
        }
        text
    };

    (0..count).map(|_| policy()).collect()
}

/// What is sent by one container to another.
#[derive(Debug, Clone, Copy)]
struct Probe {
    from: u8,
    to: u8,
    port: u16,
    address: fn(u8) -> IpAddr,
}

/// Every pair, some ports, both families.
fn probes(numbers: &[u8]) -> Vec<Probe> {
    let pairs = numbers.iter().flat_map(|from| numbers.iter().map(move |to| (*from, *to)));
    let pairs = pairs.filter(|(from, to)| from != to);
    let ports = pairs.flat_map(|pair| [1, 2, 3, 7777].map(|port| (pair, port)));
    let families: [fn(u8) -> IpAddr; 2] = [v4, v6];

    ports
        .flat_map(|((from, to), port)| families.map(|address| Probe { from, to, port, address }))
        .collect()
}

#[tokio::test]
async fn the_kernel_decides_as_the_policy_does() {
    if skipped() {
        return;
    }
    let numbers = [11, 12, 13];
    let endpoints = [labelled(11, "web"), labelled(12, "db"), labelled(13, "web")];
    let mut shop = Shop::open(&numbers).await;
    let probes = probes(&numbers);
    let receivers: Vec<_> =
        probes.iter().map(|probe| (probe.to, probe.port, (probe.address)(probe.to))).collect();
    let receivers: BTreeMap<_, _> = receivers
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .map(|(n, port, address)| ((address, port), shop.udp(address, n, port)))
        .collect();

    for text in policies().into_iter().chain(random_policies(20)) {
        let policy = policy(&text);
        let filter = compiled(&policy, &endpoints, FilterMode::Enforced);
        // Anew: what was counted before is forgotten.
        shop.table.remove().expect("removed");
        shop.table.apply(Arc::new(filter.clone())).expect("a table");
        let mut wanted: BTreeMap<String, u64> = BTreeMap::new();
        for probe in &probes {
            let mut decided = |traffic| {
                let (passes, by) = verdict(&filter, probe, traffic);
                *wanted.entry(by).or_default() += 1;
                passes
            };
            let sender = shop.udp((probe.address)(probe.from), probe.from, 0);
            let to = SocketAddr::new((probe.address)(probe.to), probe.port);
            sender.send_to(b"probe", to).expect("a route");
            if decided(Traffic::Udp(probe.port)) {
                let receiver = &receivers[&(to.ip(), to.port())];
                assert_eq!(receive(receiver).1, (probe.address)(probe.from), "{text} {probe:?}");
            }
            decided(Traffic::Tcp(probe.port));
            knock(shop.container(probe.from), to);
            let ping = Ping::send(shop.container(probe.from), to.ip(), probe.port);
            if decided(Traffic::Icmp) {
                assert!(ping.answered(), "{text} {probe:?}");
            }
        }

        let counts = shop.counted(3 * u64::try_from(probes.len()).expect("few"));
        assert_eq!(counts, wanted, "{text}");
        for receiver in receivers.values() {
            assert!(nothing_waits(receiver), "{text}");
        }
    }
}

/// Says whether a probe is to pass, and what counts it.
fn verdict(filter: &Filter, probe: &Probe, traffic: Traffic) -> (bool, String) {
    let (action, reason) =
        filter.decide((probe.address)(probe.from), (probe.address)(probe.to), traffic);
    let by = match reason {
        FilterReason::Rule(rule) => rule.name.to_string(),
        FilterReason::Default => "default".to_owned(),
        FilterReason::Unknown | FilterReason::Node => panic!("all are endpoints"),
    };

    (action == PolicyAction::Allow, by)
}

/// Sends the first packet of a TCP connection, and no further one.
fn knock(container: &Container, to: SocketAddr) {
    let open = || Socket::new(domain(to.ip()), Type::STREAM, None);
    let socket = container.netns.within(open).expect("a namespace").expect("a socket");
    socket.set_nonblocking(true).expect("a socket");
    // In progress, or refused at once.
    drop(socket.connect(&to.into()));
}
