//! What guard and policy cost: how long it takes to put in place, and what it takes of the packets'
//! rate.
//!
//! `cargo nextest run --release -p overlay-agent --run-ignored only --no-capture policy_cost`

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::Name;
use overlay_core::policy::{Filter, FilterMode, Policy, PolicyEndpoint};

use super::rig::{Container, Rig, desired, endpoint as id, running, skipped, v4, v6};
use crate::kernel::nft::{FilterTable, Guard, GuardTable};

const ENDPOINTS: u32 = 10_000;
const ROLES: u32 = 100;
const RULES: u32 = 500;
const TURNS: usize = 5;
const TURN: Duration = Duration::from_secs(1);

/// 500 rules, of which the last lets the two containers speak.
fn policy() -> Policy {
    let mut text = "[network.shop]\ndefault = \"deny\"\n".to_owned();
    for n in 1..RULES {
        let (from, to) = (n % ROLES, (n * 7) % ROLES);
        text += &format!(
            "[[rule]]\nname = \"r{n}\"\nfrom = {{ role = \"{from}\" }}\nto = {{ role = \"{to}\" \
             }}\nallow = [\"tcp/{n}\"]\n"
        );
    }
    text += "[[rule]]\nname = \"last\"\nfrom = { role = \"x\" }\nto = { role = \"x\" }\nallow = \
             \"any\"\n";

    Policy::parse(&text).expect("a policy")
}

fn endpoint(role: &str, addresses: Vec<IpAddr>) -> PolicyEndpoint {
    PolicyEndpoint {
        network: Some("shop".parse::<Name>().expect("a name")),
        labels: [("role".to_owned(), role.to_owned())].into(),
        addresses,
        ..PolicyEndpoint::default()
    }
}

/// 10,000 endpoints, and the two containers.
fn endpoints() -> Vec<PolicyEndpoint> {
    let others = (0..ENDPOINTS).map(|n| {
        let v4 = Ipv4Addr::from_bits(Ipv4Addr::new(10, 43, 0, 0).to_bits() + n);
        let v6 = Ipv6Addr::new(0xfd42, 0, 0, 0, 0, 0, 1, u16::try_from(n).expect("few"));
        endpoint(&(n % ROLES).to_string(), vec![v4.into(), v6.into()])
    });

    [11, 12].map(|n| endpoint("x", vec![v4(n), v6(n)])).into_iter().chain(others).collect()
}

fn compiled(policy: &Policy, endpoints: &[PolicyEndpoint]) -> Filter {
    let shop = "shop".parse().expect("a name");

    Filter::compile(policy, &shop, endpoints.iter(), BTreeSet::new(), FilterMode::Enforced)
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let begun = Instant::now();
    let result = work();

    (begun.elapsed(), result)
}

/// Sends through one connection, and returns bytes a second.
fn stream(from: &Container, to: &Container) -> f64 {
    let listener = to.netns.within(|| TcpListener::bind((v4(to.n), 80)));
    let listener = listener.expect("a namespace").expect("a listener");
    let connect = || TcpStream::connect((v4(to.n), 80));
    let mut sender = from.netns.within(connect).expect("a namespace").expect("connected");
    let (mut receiver, _) = listener.accept().expect("accepted");
    let reader = std::thread::spawn(move || {
        let (mut buffer, mut bytes) = (vec![0; 1 << 17], 0);
        while let Ok(len @ 1..) = receiver.read(&mut buffer) {
            bytes += len;
        }
        bytes
    });
    let (data, begun) = (vec![0; 1 << 17], Instant::now());
    while begun.elapsed() < TURN {
        sender.write_all(&data).expect("sent");
    }
    drop(sender);
    let bytes = reader.join().expect("read");

    bytes as f64 / begun.elapsed().as_secs_f64()
}

/// Sends datagrams of 64 bytes, and returns how many arrive a second.
fn datagrams(from: &Container, to: &Container) -> f64 {
    let open = |of: &Container, port| {
        let socket = of.netns.within(|| UdpSocket::bind((v4(of.n), port)));
        socket.expect("a namespace").expect("a socket")
    };
    let (sender, receiver) = (open(from, 0), open(to, 81));
    receiver.set_nonblocking(true).expect("set");
    let address = SocketAddr::new(v4(to.n), 81);
    let (begun, mut count) = (Instant::now(), 0u32);
    while begun.elapsed() < TURN {
        for _datagram in 0..32 {
            sender.send_to(&[0; 64], address).expect("sent");
        }
        while receiver.recv(&mut [0; 64]).is_ok() {
            count += 1;
        }
    }

    f64::from(count) / begun.elapsed().as_secs_f64()
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);

    figures[figures.len() / 2]
}

#[tokio::test]
#[ignore = "a measurement of 40 s, without a bar; its command is at the head of this file"]
#[expect(clippy::print_stderr, reason = "figures are what it is for")]
async fn what_a_large_policy_costs() {
    if skipped() {
        return;
    }
    let rig = Rig::new();
    let (a, b) = (Container::new(11), Container::new(12));
    let (namespace, _tun) = running(&rig, 1, &[&a, &b]).await;
    let mut table = FilterTable::new(namespace.netns().clone(), 7);
    let (policy, mut endpoints) = (policy(), endpoints());
    let (compiling, filter) = timed(|| compiled(&policy, &endpoints));
    let (applying, applied) = timed(|| table.apply(Arc::new(filter.clone())));
    applied.expect("a table");
    endpoints[2].labels.insert("role".to_owned(), "x".to_owned());
    let changed = compiled(&policy, &endpoints);
    let (changing, applied) = timed(|| table.apply(Arc::new(changed)));
    applied.expect("a table");
    eprintln!("compile {compiling:?}, apply {applying:?}, change one endpoint {changing:?}");

    let sandboxes = [&a, &b].map(|one| (id(one.n), one.desired())).into();
    let guard = Arc::new(Guard::new(&desired(1, &[a.n, b.n]), &sandboxes));
    let mut guard_table = GuardTable::new(namespace.netns().clone());
    let (guarding, kept) = timed(|| guard_table.keep(&guard));
    kept.expect("a guard");
    eprintln!("guard {guarding:?}");

    // Neither, the guard alone, the policy alone, and both, turn by turn.
    let mut figures = [(); 4].map(|()| (Vec::new(), Vec::new()));
    for _turn in 0..TURNS {
        for (n, (streams, packets)) in figures.iter_mut().enumerate() {
            if n & 1 == 0 {
                guard_table.remove().expect("removed");
            } else {
                guard_table.keep(&guard).expect("a guard");
            }
            if n & 2 == 0 {
                table.remove().expect("removed");
            } else {
                table.apply(Arc::new(filter.clone())).expect("a table");
            }
            streams.push(stream(&a, &b));
            packets.push(datagrams(&a, &b));
        }
    }
    let [neither, guard, policy, both] =
        figures.map(|(streams, packets)| (median(streams), median(packets)));
    eprintln!("neither: {:.0} MB/s, {:.0} packets/s", neither.0 / 1e6, neither.1);
    for (name, with, without) in [
        ("guard of neither", guard, neither),
        ("policy of neither", policy, neither),
        ("both of the guard alone", both, guard),
        ("both of neither", both, neither),
    ] {
        let ratio = |with: f64, without: f64| 100.0 * with / without;
        let (tcp, small) = (ratio(with.0, without.0), ratio(with.1, without.1));
        eprintln!("{name}: TCP {tcp:.1} %, datagrams of 64 bytes {small:.1} %");
    }
}
