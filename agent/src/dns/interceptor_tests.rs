use std::net::UdpSocket as StdUdpSocket;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use overlay_daemon::descriptors::are_exhausted;
use overlay_daemon::reserve::testing::NoDescriptors;

use super::*;
use crate::dns::testing::World;

/// A sandbox with its loopback up, or nothing, loudly, where that is not allowed.
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn sandbox() -> Option<Netns> {
    let netns = Netns::unnamed("sandbox").ok();
    let up = netns.as_ref().and_then(|netns| netns.within(loopback_up).ok()?.ok());
    if up.is_none() {
        eprintln!("SKIPPED: needs root for a network namespace");
    }

    netns.filter(|_| up.is_some())
}

fn loopback_up() -> io::Result<()> {
    let ran = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status()?;

    if ran.success() { Ok(()) } else { Err(io::Error::other("ip failed")) }
}

/// What Docker's resolver is to us: it answers everything with 192.0.2.99.
fn answer_as_docker(socket: &StdUdpSocket) {
    let mut buffer = [0; 1024];
    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
        let query = Message::from_vec(&buffer[..len]).expect("a query");
        let mut answer = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        answer.add_queries(query.queries.clone());
        let owner = query.queries[0].name().clone();
        answer.add_answers([Record::from_rdata(
            owner,
            1,
            RData::A(A(Ipv4Addr::new(192, 0, 2, 99))),
        )]);
        socket.send_to(&answer.to_vec().expect("encodes"), from).expect("sent");
    }
}

/// Asks 127.0.0.11 as a container would; returns the first address.
fn ask(netns: &Netns, name: &str) -> io::Result<String> {
    let mut message = Message::new(7, MessageType::Query, OpCode::Query);
    message
        .add_query(Query::query(Name::from_ascii(name).map_err(io::Error::other)?, RecordType::A));
    let query = message.to_vec().map_err(io::Error::other)?;
    let asked = netns.within(move || {
        let socket = StdUdpSocket::bind("127.0.0.1:0")?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.connect((RESOLVER, DNS_PORT))?;
        socket.send(&query)?;
        let mut buffer = [0; 1024];
        let len = socket.recv(&mut buffer)?;
        let answer = Message::from_vec(&buffer[..len]).map_err(io::Error::other)?;
        answer
            .answers
            .first()
            .map(|record| record.data.to_string())
            .ok_or(io::ErrorKind::NotFound.into())
    });

    asked.map_err(io::Error::other)?
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_the_overlay_are_ours_and_all_others_those_of_the_resolver_behind_us() {
    let Some(netns) = sandbox() else { return };
    let docker =
        netns.within(|| StdUdpSocket::bind((RESOLVER, DNS_PORT))).expect("entered").expect("bound");
    docker.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    std::thread::spawn(move || answer_as_docker(&docker));
    let world = World::default().with_network(1, "blue", "10.1.0.0/16").with_endpoint(
        1,
        1,
        "web",
        &[],
        &["10.1.0.2"],
    );
    let (_names, names) = watch::channel(Arc::new(world.names()));
    let scope = BTreeSet::from([World::network(1)]);
    let asked = |name: &'static str| {
        let netns = netns.clone();
        tokio::task::spawn_blocking(move || ask(&netns, name))
    };

    let interceptor = DnsInterceptor::open(&netns, None, scope, names, Arc::default())
        .await
        .expect("the kernel takes sockets and rule");

    assert_eq!(asked("web").await.expect("ran").expect("an answer"), "10.1.0.2");
    assert_eq!(asked("web.blue").await.expect("ran").expect("an answer"), "10.1.0.2");
    assert_eq!(asked("elsewhere").await.expect("ran").expect("an answer"), "192.0.2.99");
    interceptor.set_scope(BTreeSet::new());
    assert_eq!(
        asked("web").await.expect("ran").expect("an answer"),
        "192.0.2.99",
        "it is on no network any more"
    );
    drop(interceptor);
    assert_eq!(
        asked("web").await.expect("ran").expect("an answer"),
        "192.0.2.99",
        "as if we had never been there"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_it_opens_with_those_that_were_kept_back_for_it() {
    let Some(netns) = sandbox() else { return };
    // The namespace is open.
    let reserve = Arc::new(Reserve::new(DnsInterceptor::DESCRIPTORS - 1));
    let (_names, names) = watch::channel(Arc::default());
    let open =
        |reserve| DnsInterceptor::open(&netns, None, BTreeSet::new(), names.clone(), reserve);

    let lack = NoDescriptors::new().expect("lowered");
    let (refused, opened) = (open(Arc::default()).await, open(Arc::clone(&reserve)).await);
    drop(lack);

    assert!(refused.is_err_and(|error| are_exhausted(&error)));
    assert!(opened.is_ok(), "{opened:?}");
    assert!(!reserve.release(), "all were needed");
}
