use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream as StdTcpStream};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use overlay_daemon::reserve::Reserve;
use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::*;
use crate::dns::answer::{Disposition, Transport, judge};
use crate::dns::forward::write_message;
use crate::dns::names::Asker;
use crate::dns::service::{STREAM_TIMEOUT, STREAMS_PER_SOURCE, read_query};
use crate::dns::testing::World;

/// A server on loopback, and the folder its `resolv.conf` is in.
struct Served {
    servers: DnsServers,
    at: SocketAddr,
    _folder: tempfile::TempDir,
}

fn serve(resolvers: &str) -> Served {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("resolv.conf");
    std::fs::write(&path, resolvers).expect("written");
    let mut servers = DnsServers::start(path);
    let sockets = DnsSockets::bind_port([Ipv4Addr::LOCALHOST.into()], 0, &Reserve::default())
        .expect("sockets");
    let at = sockets.local_addr();
    servers.add(World::network(1), sockets).expect("a runtime");
    servers.publish(Arc::new(world("10.1.0.2").names()));

    Served { servers, at, _folder: folder }
}

fn world(address: &str) -> World {
    World::default().with_network(1, "blue", "10.1.0.0/16").with_endpoint(
        1,
        1,
        "service2",
        &[],
        &[address],
    )
}

fn query(name: &str) -> Vec<u8> {
    let mut message = Message::new(99, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_ascii(name).expect("a name"), RecordType::A));

    message.to_vec().expect("encodes")
}

async fn ask_udp(at: SocketAddr, query: Vec<u8>) -> Message {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let mut buffer = [0; 4096];
    // As a resolver, it asks again when nothing comes: it may have asked too much.
    for _ in 0..10 {
        socket.send_to(&query, at).await.expect("sent");
        if let Ok(received) = timeout(Duration::from_secs(1), socket.recv_from(&mut buffer)).await {
            let (len, _) = received.expect("an answer");
            return Message::from_vec(&buffer[..len]).expect("a sound answer");
        }
    }

    panic!("no answer")
}

fn ask_tcp(stream: &mut StdTcpStream, query: &[u8]) -> io::Result<Message> {
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    let framed = [&len.to_be_bytes(), query].concat();
    stream.write_all(&framed)?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;

    Message::from_vec(&answer).map_err(io::Error::other)
}

fn address(answer: &Message) -> Option<String> {
    answer.answers.first().map(|record| record.data.to_string())
}

/// A resolver that knows `outside.example`, by UDP only in part.
async fn resolver() -> (SocketAddr, JoinSet<()>) {
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let at = udp.local_addr().expect("an address");
    let tcp = TcpListener::bind(at).await.expect("the same port");
    let answer = |query: &[u8], truncated| {
        let mut message = Message::from_vec(query).expect("a sound question").into_response();
        message.metadata.truncation = truncated;
        let owner = message.queries[0].name().clone();
        if !truncated {
            message.add_answer(Record::from_rdata(owner, 60, RData::A(A([192, 0, 2, 7].into()))));
        }
        message.to_vec().expect("encodes")
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (len, from) = udp.recv_from(&mut buffer).await.expect("a question");
            let mut forged = answer(&buffer[..len], false);
            forged[0] ^= 0xFF;
            udp.send_to(&forged, from).await.expect("sent");
            let truncated = String::from_utf8_lossy(&buffer[..len]).contains("large");
            udp.send_to(&answer(&buffer[..len], truncated), from).await.expect("sent");
        }
    });
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.expect("a connection");
            let query = read_query(&mut stream).await.expect("a question");
            write_message(&mut stream, &answer(&query, false)).await.expect("sent");
        }
    });

    (at, tasks)
}

#[tokio::test]
async fn names_are_answered_by_udp_and_tcp_and_follow_what_is_published() {
    let served = serve("");

    assert_eq!(address(&ask_udp(served.at, query("service2.")).await), Some("10.1.0.2".to_owned()));
    let at = served.at;
    let by_tcp = tokio::task::spawn_blocking(move || {
        let mut stream = StdTcpStream::connect(at)?;
        let first = ask_tcp(&mut stream, &query("service2."))?;
        let second = ask_tcp(&mut stream, &query("service2.blue."))?;
        Ok::<_, io::Error>((address(&first), address(&second)))
    });
    let expected = Some("10.1.0.2".to_owned());
    assert_eq!(by_tcp.await.expect("joined").expect("answers"), (expected.clone(), expected));

    served.servers.publish(Arc::new(world("10.1.0.77").names()));
    assert_eq!(
        address(&ask_udp(served.at, query("service2.")).await),
        Some("10.1.0.77".to_owned())
    );
}

#[tokio::test]
async fn without_resolvers_the_answer_comes_at_once() {
    let served = serve("");

    let short = ask_udp(served.at, query("nobody.")).await;
    let long = ask_udp(served.at, query("outside.example.")).await;

    assert_eq!(short.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(long.metadata.response_code, ResponseCode::ServFail);
}

#[tokio::test]
async fn forged_answers_are_passed_over_and_cut_ones_fetched_by_tcp() {
    let (at, _tasks) = resolver().await;
    let question = |name: &str, transport| {
        let asker = Asker::Address { network: World::network(1), source: [10, 1, 0, 9].into() };
        let judged = judge(&query(name), transport, asker, &world("10.1.0.2").names(), 0);
        let Disposition::Forward(question) = judged else { panic!("not forwarded: {judged:?}") };

        question
    };

    let forward = Forwarder::new(Arc::new(Resolvers::new(Path::new("/nonexistent").to_owned())));
    let ask = |name: &'static str, transport| {
        let (forward, question) = (forward.clone(), question(name, transport));
        async move {
            Message::from_vec(&forward.ask_one(&question, at).await.expect("an answer"))
                .expect("sound")
        }
    };

    let plain = ask("outside.example.", Transport::Udp).await;
    let cut = ask("large.example.", Transport::Udp).await;
    let whole = ask("large.example.", Transport::Tcp).await;

    assert_eq!((plain.metadata.id, address(&plain)), (99, Some("192.0.2.7".to_owned())));
    assert!(cut.metadata.truncation && cut.answers.is_empty());
    assert_eq!(address(&whole), Some("192.0.2.7".to_owned()));
}

#[tokio::test]
async fn an_idle_stream_is_closed_and_too_many_are_not_served() {
    let served = serve("");
    let at = served.at;
    let held: Vec<_> =
        (0..STREAMS_PER_SOURCE).map(|_| StdTcpStream::connect(at).expect("connected")).collect();

    let refused = tokio::task::spawn_blocking(move || {
        let mut one_more = StdTcpStream::connect(at).expect("connected");
        ask_tcp(&mut one_more, &query("service2.")).is_err()
    });
    assert!(refused.await.expect("joined"), "one connection too many was served");

    let closed = tokio::task::spawn_blocking(move || {
        held.into_iter().all(|mut stream| {
            stream.set_read_timeout(Some(STREAM_TIMEOUT * 2)).expect("set");
            matches!(stream.read(&mut [0; 1]), Ok(0))
        })
    });
    assert!(closed.await.expect("joined"), "an idle connection stayed open");
}

#[tokio::test]
async fn junk_does_not_end_the_server() {
    let served = serve("");
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");

    for len in (0..4200).step_by(7) {
        let junk: Vec<u8> = (0..len).map(|_| rand::random()).collect();
        socket.send_to(&junk, served.at).await.expect("sent");
    }
    let at = served.at;
    let framed = tokio::task::spawn_blocking(move || {
        for len in [0u16, 1, 11, 65535] {
            let mut stream = StdTcpStream::connect(at).expect("connected");
            let junk = vec![0xFF; usize::from(len.min(4000))];
            drop(stream.write_all(&[&len.to_be_bytes()[..], &junk].concat()));
        }
    });
    framed.await.expect("joined");

    assert_eq!(address(&ask_udp(served.at, query("service2.")).await), Some("10.1.0.2".to_owned()));
}

#[tokio::test]
async fn a_removed_server_answers_no_more() {
    let mut served = serve("");

    served.servers.remove(World::network(1));

    assert_eq!(served.servers.networks().count(), 0);
    tokio::task::yield_now().await;
    assert!(
        DnsSockets::bind_port([Ipv4Addr::LOCALHOST.into()], served.at.port(), &Reserve::default())
            .is_ok(),
        "the port is still held"
    );
}

#[tokio::test]
async fn a_search_domain_does_not_carry_a_name_of_the_overlay_outside() {
    let served = serve("");
    let asked = async |name: &str| ask_udp(served.at, query(name)).await.metadata.response_code;

    assert_eq!(asked("db.blue.example.com.").await, ResponseCode::ServFail, "it may be a real one");
    assert_eq!(asked("db.blue.").await, ResponseCode::NXDomain);
    assert_eq!(asked("db.blue.example.com.").await, ResponseCode::NXDomain);
    assert_eq!(asked("web.example.com.").await, ResponseCode::ServFail);
}
