//! A network that is kept to a policy, in a real namespace with real packets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use overlay_core::policy::{Filter, FilterMode, Policy, PolicyEndpoint};
use tokio_util::task::TaskTracker;

use super::pass::{Cause, PassOutcome, Reconciler};
use super::watched::Watched;
use super::{EndpointState, NetworkReport, ReconcileQueue};
use crate::desired::NetworkDesired;
use crate::kernel::Tun;
use crate::kernel::nft::{FilterCounts, FilterDesired, FilterTable};
use crate::kernel::tests::rig::{
    Container, NODE, Rig, desired, endpoint, nothing_waits, receive, send, skipped, v4, v6,
};

/// How long something may take that must happen.
const SOON: Duration = Duration::from_secs(5);

const DENY: &str = "[network.shop]\ndefault = \"deny\"\n";
const ALLOW_UDP: &str = "[network.shop]\ndefault = \"deny\"\n[[rule]]\nname = \"a\"\n\
                         from = \"any\"\nto = \"any\"\nallow = [\"udp\"]\n";

/// A network with containers, as a worker keeps it.
struct Kept {
    containers: Vec<Container>,
    watched: Watched,
    reconciler: Reconciler,
    _tun: Tun,
    rig: Rig,
}

impl Kept {
    async fn new(numbers: &[u8]) -> Self {
        let rig = Rig::new();
        let containers = numbers.iter().map(|n| Container::new(*n)).collect();
        let (namespace, tun) = rig.open(1).await;
        let queue = Arc::new(ReconcileQueue::new());
        let watched =
            Watched::new(namespace, queue, None, &TaskTracker::new()).expect("a namespace");

        Self { containers, watched, reconciler: Reconciler::default(), _tun: tun, rig }
    }

    /// Lets another process come, which knows nothing of what this one did.
    async fn restarted(self) -> Self {
        let Self { containers, watched, reconciler, _tun: tun, rig } = self;
        drop((watched, reconciler, tun));
        let (namespace, tun) = rig.open(1).await;
        let queue = Arc::new(ReconcileQueue::new());
        let watched =
            Watched::new(namespace, queue, None, &TaskTracker::new()).expect("a namespace");

        Self { containers, watched, reconciler: Reconciler::default(), _tun: tun, rig }
    }

    /// Runs one pass with these endpoints.
    async fn run(&mut self, numbers: &[u8], filter: FilterDesired, cause: Cause) -> PassOutcome {
        let wanted = self.containers.iter().filter(|one| numbers.contains(&one.n));
        let sandboxes = wanted.map(|one| (endpoint(one.n), one.desired())).collect();
        let namespace = desired(1, numbers);
        let desired =
            Arc::new(NetworkDesired { namespace, sandboxes, host: BTreeSet::new(), filter });
        let nothing = BTreeSet::new();

        self.reconciler.run(&mut self.watched, &desired, cause, &nothing).await.0
    }

    async fn complete(&mut self, numbers: &[u8], filter: FilterDesired, cause: Cause) {
        let outcome = self.run(numbers, filter, cause).await;
        assert!(outcome.is_complete, "{:?}", self.report());
    }

    fn report(&self) -> &NetworkReport {
        self.reconciler.report()
    }

    fn socket(&self, n: u8, address: fn(u8) -> IpAddr) -> UdpSocket {
        let container = self.containers.iter().find(|one| one.n == n).expect("a container");

        container.socket(address(n))
    }

    fn counts(&self) -> FilterCounts {
        let netns = self.watched.namespace().netns().clone();

        FilterTable::new(netns, 1).counts().expect("counts")
    }

    /// Lists all rules, word by word, without elements of named sets and without editions.
    fn rules(&self) -> Vec<String> {
        let text = self.nft(&["-s", "-t", "list", "ruleset"]);
        let without = |word: &str| match word.trim_end_matches([',', '"']).rsplit_once('.') {
            Some((name, edition))
                if name.contains(char::is_alphabetic) && edition.parse::<u32>().is_ok() =>
            {
                format!("{name}~")
            }
            _ => word.to_owned(),
        };

        text.split_whitespace().map(without).collect()
    }

    /// Runs `nft` in the namespace, and returns what it says.
    fn nft(&self, words: &[&str]) -> String {
        let run = || Command::new("nft").args(words).output();
        let output = self.watched.namespace().netns().within(run).expect("a namespace");
        let output = output.expect("nft");
        assert!(output.status.success(), "{output:?}");

        String::from_utf8(output.stdout).expect("text")
    }
}

/// A policy that knows these endpoints.
fn filter(text: &str, numbers: &[u8]) -> FilterDesired {
    let shop = "shop".parse().expect("a name");
    let endpoint =
        |n: &u8| PolicyEndpoint { addresses: vec![v4(*n), v6(*n)], ..PolicyEndpoint::default() };
    let endpoints: Vec<_> = numbers.iter().map(endpoint).collect();
    let (policy, nodes) = (Policy::parse(text).expect("a policy"), [v4(NODE), v6(NODE)].into());
    let mode = FilterMode::Enforced;

    FilterDesired::Filter(Arc::new(Filter::compile(&policy, &shop, endpoints.iter(), nodes, mode)))
}

fn unreadable() -> FilterDesired {
    FilterDesired::Unreadable("it is of the future".into())
}

/// Sends from a container's namespace as fast as that goes, until dropped.
struct Storm {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Storm {
    fn new(from: &Container, to: u8) -> Self {
        let (sent, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (Arc::clone(&sent), Arc::clone(&stop));
        let netns = from.netns.clone();
        let thread = std::thread::spawn(move || {
            let open = |any: &str| netns.within(|| UdpSocket::bind(any));
            let sockets = ["0.0.0.0:0", "[::]:0"].map(|any| open(any).expect("inside"));
            let sockets = sockets.map(|socket| socket.expect("a socket"));
            while !end.load(Ordering::Relaxed) {
                for (socket, address) in sockets.iter().zip([v4(to), v6(to)]) {
                    // There is no way out before there is an interface.
                    if send(socket, address, "storm").is_ok() {
                        count.fetch_add(1, Ordering::Relaxed);
                    }
                }
            }
        });

        Self { sent, stop, thread: Some(thread) }
    }

    /// Waits until this many more have been sent.
    fn wait(&self, more: u64) {
        let (wanted, end) = (self.sent.load(Ordering::Relaxed) + more, Instant::now() + SOON);
        while self.sent.load(Ordering::Relaxed) < wanted {
            assert!(Instant::now() < end, "nothing is sent");
            std::thread::yield_now();
        }
    }
}

impl Drop for Storm {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _joined = thread.join();
        }
    }
}

#[tokio::test]
async fn a_container_that_sends_at_once_sends_nothing_past_the_policy() {
    if skipped() {
        return;
    }
    for (text, arrives) in [(DENY, false), (ALLOW_UDP, true)] {
        let mut kept = Kept::new(&[11, 12]).await;
        kept.complete(&[12], filter(text, &[12]), Cause::Desired).await;
        let receivers = [v4, v6].map(|address| kept.socket(12, address));
        let storm = Storm::new(&kept.containers[0], 12);

        kept.complete(&[11, 12], filter(text, &[11, 12]), Cause::Desired).await;
        storm.wait(1_000);

        let counts = kept.counts();
        for receiver in &receivers {
            if arrives {
                assert_eq!(receive(receiver).0, "storm", "the storm is one that arrives");
            } else {
                assert!(nothing_waits(receiver), "{counts:?}");
            }
        }
        assert_eq!(counts.default.packets > 0, !arrives, "{counts:?}");
    }
}

#[tokio::test]
async fn without_a_policy_that_is_understood_nothing_is_forwarded() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&[11, 12, 13]).await;
    kept.complete(&[11, 12], FilterDesired::Open, Cause::Desired).await;
    let sockets = |kept: &Kept| [v4, v6].map(|a| (kept.socket(11, a), kept.socket(12, a), a(12)));
    let all = sockets(&kept);
    let arrives = |(from, to, address): &(UdpSocket, UdpSocket, IpAddr)| {
        // Where nothing is forwarded, the kernel may say so.
        let _answered = from.take_error();
        let _sent = send(from, *address, "hello");
        to.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        to.recv_from(&mut [0; 64]).is_ok()
    };
    assert!(all.iter().all(arrives), "it is open");

    let outcome = kept.run(&[11, 12, 13], unreadable(), Cause::Desired).await;

    assert!(!outcome.is_complete);
    assert!(!all.iter().any(arrives));
    let why = kept.report().policy.clone().expect("a reason");
    assert!(why.contains("it is of the future") && why.contains("nothing is forwarded"), "{why}");
    let held: BTreeMap<_, _> =
        [11, 12, 13].map(|n| (endpoint(n), EndpointState::HeldUp)).into_iter().collect();
    assert_eq!(kept.report().endpoints, held);

    let numbers = [11, 12, 13];
    kept.complete(&numbers, filter(ALLOW_UDP, &numbers), Cause::Resync).await;
    assert!(all.iter().all(arrives), "{:?}", kept.report());
    assert_eq!(kept.report().policy, None);
}

#[tokio::test]
async fn a_table_of_an_earlier_process_decides_until_there_is_another() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&[11, 12]).await;
    kept.complete(&[11, 12], filter(DENY, &[11, 12]), Cause::Desired).await;
    let (from, to) = (kept.socket(11, v4), kept.socket(12, v4));
    let mut kept = kept.restarted().await;

    send(&from, v4(12), "nobody looks").expect("a route");
    kept.run(&[11, 12], unreadable(), Cause::Desired).await;
    send(&from, v4(12), "nobody understands").expect("a route");

    let end = Instant::now() + SOON;
    while kept.counts().default.packets < 2 {
        assert!(Instant::now() < end, "{:?}", kept.counts());
    }
    assert!(nothing_waits(&to));
    let why = kept.report().policy.clone().expect("a reason");
    assert!(why.contains("the policy of before decides"), "{why}");

    kept.complete(&[11, 12], FilterDesired::Open, Cause::Desired).await;
    let tables = kept.nft(&["list", "tables"]);
    assert_eq!(tables, "table inet overlay_guard\ntable arp overlay_guard\n", "no policy");
    send(&from, v4(12), "hello").expect("a route");
    assert_eq!(receive(&to).0, "hello");
}

#[tokio::test]
async fn what_others_do_to_the_table_is_put_right_and_counted() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&[11, 12, 13]).await;
    let denied = filter(DENY, &[11, 12]);
    kept.complete(&[11, 12], denied.clone(), Cause::Desired).await;
    let all = filter(DENY, &[11, 12, 13]);
    kept.complete(&[11, 12], all.clone(), Cause::Desired).await;
    kept.complete(&[11, 12], all.clone(), Cause::Resync).await;
    assert_eq!(kept.report().drift_healed, 0, "its own changes are none of others");
    let rules = kept.rules();

    for (n, command) in [
        "flush ruleset",
        "add element inet overlay knownv4~ { 10.42.0.99 }",
        "flush chain inet overlay judge4~",
        "add chain inet overlay foreign",
    ]
    .into_iter()
    .enumerate()
    {
        let edition = edition_of("chain judge4", &kept.nft(&["list", "ruleset"]));
        kept.nft(&[&command.replace('~', &edition)]);
        kept.complete(&[11, 12], all.clone(), Cause::Resync).await;

        let healed = usize::try_from(kept.report().drift_healed).expect("few");
        assert_eq!(healed, n + 1, "{command}");
        assert_eq!(kept.rules(), rules);
    }
}

#[tokio::test]
async fn a_change_right_after_foreign_hands_puts_their_work_right() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&[11, 12]).await;
    kept.complete(&[11, 12], filter(DENY, &[11]), Cause::Desired).await;
    let rules = kept.rules();
    let edition = edition_of("chain judge4", &kept.nft(&["list", "ruleset"]));

    kept.nft(&["flush", "chain", "inet", "overlay", &format!("judge4{edition}")]);
    kept.complete(&[11, 12], filter(DENY, &[11, 12]), Cause::Desired).await;

    assert_eq!(kept.rules(), rules);
}

/// Finds the edition that an object has in a list.
fn edition_of(object: &str, rules: &str) -> String {
    let (_, rest) = rules.split_once(&format!("{object}.")).expect("the object");
    let digits = rest.split_once(' ').expect("more").0;

    format!(".{digits}")
}

#[tokio::test]
async fn flows_that_connection_tracking_has_missed_something_of_go_on() {
    if skipped() {
        return;
    }
    let mut kept = Kept::new(&[11]).await;

    kept.complete(&[11], filter(DENY, &[11]), Cause::Desired).await;

    let read = || std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal");
    let value = kept.watched.namespace().netns().within(read).expect("a namespace");
    assert_eq!(value.expect("connection tracking").trim(), "1");
}
