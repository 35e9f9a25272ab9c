use std::collections::BTreeSet;
use std::net::UdpSocket as StdUdpSocket;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use overlay_daemon::descriptors::are_exhausted;
use overlay_daemon::reserve::testing::NoDescriptors;

use super::*;
use crate::dns::EngineNames;
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

/// A sandbox on one network of ours, and these of the engine.
fn on_blue(engine: Option<&[&str]>) -> SandboxScope {
    let networks = engine.map(|names| names.iter().map(|&name| name.to_owned()).collect());
    let engine = EngineNames { networks, ..EngineNames::default() };

    SandboxScope { networks: BTreeSet::from([World::network(1)]), engine }
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
    let source = NameSource { names, counts: Arc::default() };
    let asked = |name: &'static str| {
        let netns = netns.clone();
        tokio::task::spawn_blocking(move || ask(&netns, name))
    };

    let interceptor =
        DnsInterceptor::open(&netns, None, on_blue(Some(&[])), source, Arc::default())
            .await
            .expect("the kernel takes sockets and rule");

    assert_eq!(asked("web").await.expect("ran").expect("an answer"), "10.1.0.2");
    assert_eq!(asked("web.blue").await.expect("ran").expect("an answer"), "10.1.0.2");
    assert_eq!(asked("example.com").await.expect("ran").expect("an answer"), "192.0.2.99");
    assert!(asked("elsewhere").await.expect("ran").is_err(), "no domain has such a name");
    interceptor.set_scope(on_blue(Some(&["bridge"])));
    assert_eq!(asked("elsewhere").await.expect("ran").expect("an answer"), "192.0.2.99");
    interceptor.set_scope(SandboxScope::default());
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
    let source = NameSource { names, counts: Arc::default() };
    let open = |reserve| {
        DnsInterceptor::open(&netns, None, SandboxScope::default(), source.clone(), reserve)
    };

    let lack = NoDescriptors::new().expect("lowered");
    let (refused, opened) = (open(Arc::default()).await, open(Arc::clone(&reserve)).await);
    drop(lack);

    assert!(refused.is_err_and(|error| are_exhausted(&error)));
    assert!(opened.is_ok(), "{opened:?}");
    assert!(!reserve.release(), "all were needed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_an_internal_network_the_resolver_behind_us_hears_nothing() {
    let Some(netns) = sandbox() else { return };
    let docker =
        netns.within(|| StdUdpSocket::bind((RESOLVER, DNS_PORT))).expect("entered").expect("bound");
    docker.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    std::thread::spawn(move || answer_as_docker(&docker));
    let world = World::default().with_network(1, "blue", "10.1.0.0/16").internal(1);
    let (_names, names) = watch::channel(Arc::new(world.names()));
    let source = NameSource { names, counts: Arc::default() };
    let asked = |name: &'static str| {
        let netns = netns.clone();
        tokio::task::spawn_blocking(move || ask(&netns, name))
    };

    let interceptor = DnsInterceptor::open(&netns, None, on_blue(None), source, Arc::default())
        .await
        .expect("the kernel takes sockets and rule");
    let early = asked("example.com");
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!early.is_finished(), "it is not known yet whether it may");
    interceptor.set_scope(on_blue(Some(&[])));

    assert!(early.await.expect("ran").is_err());
    assert!(asked("example.com").await.expect("ran").is_err());
    interceptor.set_scope(on_blue(Some(&["bridge"])));
    assert_eq!(asked("example.com").await.expect("ran").expect("an answer"), "192.0.2.99");
}

/// The resolver behind an interceptor: it says from which port each question came.
fn answer_with_the_port(netns: &Netns) -> std::thread::JoinHandle<Vec<u16>> {
    let socket =
        netns.within(|| StdUdpSocket::bind((RESOLVER, DNS_PORT))).expect("entered").expect("bound");
    socket.set_read_timeout(Some(Duration::from_millis(1500))).expect("a timeout");

    std::thread::spawn(move || {
        let (mut ports, mut buffer) = (Vec::new(), [0; 1024]);
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            ports.push(from.port());
            let mut answer = Message::from_vec(&buffer[..len]).expect("a query").into_response();
            let owner = answer.queries[0].name().clone();
            answer.add_answer(Record::from_rdata(owner, 1, RData::A(A([192, 0, 2, 1].into()))));
            socket.send_to(&answer.to_vec().expect("encodes"), from).expect("sent");
        }

        ports
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_questions_share_a_socket_which_is_opened_again_when_the_resolver_was_replaced() {
    let Some(netns) = sandbox() else { return };
    let resolver = answer_with_the_port(&netns);
    let world = World::default().with_network(1, "blue", "10.1.0.0/16");
    let (_names, names) = watch::channel(Arc::new(world.names()));
    let source = NameSource { names, counts: Arc::default() };
    let _interceptor =
        DnsInterceptor::open(&netns, None, on_blue(Some(&[])), source, Arc::default())
            .await
            .expect("the kernel takes sockets and rule");
    let asked = async |times: usize| {
        for _ in 0..times {
            let netns = netns.clone();
            let asked = tokio::task::spawn_blocking(move || ask(&netns, "example.com")).await;
            assert_eq!(asked.expect("ran").expect("an answer"), "192.0.2.1");
        }
    };

    asked(20).await;
    let ports: BTreeSet<u16> = resolver.join().expect("it ends").into_iter().collect();
    assert_eq!(ports.len(), 1, "{ports:?}");

    // Nobody is there, which the kernel says.
    let unheard = {
        let netns = netns.clone();
        tokio::task::spawn_blocking(move || ask(&netns, "example.com")).await
    };
    assert!(unheard.expect("ran").is_err());
    let resolver = answer_with_the_port(&netns);
    asked(3).await;
    assert!(!resolver.join().expect("it ends").is_empty());
}
