use std::net::{Ipv6Addr, UdpSocket as StdUdpSocket};

use tokio::net::{TcpListener, UdpSocket};
use tokio::time::timeout;

use super::*;

const GUARDED: &str = "127.0.0.1:0";
const GREEDY: &str = "127.0.0.2";
const MODEST: &str = "127.0.0.3";
const MOMENT: Duration = Duration::from_millis(100);

fn is_heard(server: &StdUdpSocket, client: IpAddr) -> bool {
    let socket = StdUdpSocket::bind((client, 0)).expect("a socket");
    server.set_read_timeout(Some(MOMENT)).expect("a timeout");
    socket.send_to(b"question", server.local_addr().expect("an address")).expect("sent");

    server.recv(&mut [0; 16]).is_ok()
}

#[test]
fn who_goes_on_is_not_heard_for_longer_each_time_and_who_rests_is_as_at_first() {
    let (mut pauses, client) = (Pauses::default(), IpAddr::from([10, 0, 0, 1]));
    let mut now = Instant::now();
    let mut pause = |pauses: &mut Pauses, rest: Duration| {
        now += rest;
        assert!(pauses.begin(client, now) && !pauses.begin(client, now));
        let end = pauses.next_end().expect("a pause");
        let length = end - now;
        pauses.end(end - Duration::from_millis(1));
        assert!(pauses.next_end().is_some());
        pauses.end(end);
        assert!(pauses.next_end().is_none());
        now = end;
        length.as_millis()
    };
    let moment = Duration::from_millis(1);

    let lengths = [(); 7].map(|()| pause(&mut pauses, moment));

    assert_eq!(lengths, [50, 100, 200, 400, 800, 800, 800]);
    assert_eq!(pause(&mut pauses, REST), 50);
}

#[test]
fn a_filter_drops_what_comes_from_the_clients_it_names() {
    let server = StdUdpSocket::bind(GUARDED).expect("a socket");
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let many = (0..60).map(|n| IpAddr::from([10, 9, 8, n])).chain([ip(GREEDY)]);

    SockRef::from(&server).attach_filter(&program(many)).expect("the kernel takes it");
    assert!(!is_heard(&server, ip(GREEDY)) && is_heard(&server, ip(MODEST)));
    SockRef::from(&server).detach_filter().expect("taken away");
    assert!(is_heard(&server, ip(GREEDY)));
    assert!(program(std::iter::empty()).is_empty());
}

#[test]
fn all_words_of_an_ipv6_address_are_compared() {
    let Ok(server) = StdUdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) else { return };
    let own = IpAddr::from(Ipv6Addr::LOCALHOST);
    let others = ["::2", "1::1", "::1:0:1"].map(|text| text.parse().expect("an address"));

    SockRef::from(&server).attach_filter(&program(others.into_iter())).expect("taken");
    assert!(is_heard(&server, own));
    SockRef::from(&server).attach_filter(&program(others.into_iter().chain([own]))).expect("taken");
    assert!(!is_heard(&server, own));
}

#[tokio::test]
async fn a_client_that_is_reported_is_not_heard_for_a_moment_and_what_it_asks_is_counted() {
    judge_flood(ShutOut::Clients, GREEDY, &[MODEST]).await;
}

#[tokio::test]
async fn where_all_questions_are_of_one_client_none_is_heard_for_a_moment() {
    judge_flood(ShutOut::All, MODEST, &[]).await;
}

/// Reports a client, and expects one not to be heard for a moment, while others are.
async fn judge_flood(shut_out: ShutOut, unheard: &str, others: &[&str]) {
    let udp = Arc::new(UdpSocket::bind(GUARDED).await.expect("a socket"));
    let at = udp.local_addr().expect("an address");
    let tcp = Arc::new(TcpListener::bind(GUARDED).await.expect("a socket"));
    let mut served = ServedSockets::default();
    served.push(at.ip(), Arc::clone(&udp), tcp);
    let counts = Arc::<DnsCounts>::default();
    let guard = FloodGuard::new(Arc::new(served), shut_out, Arc::clone(&counts));
    let (reports, mut floods) = FloodReports::channel();
    let guarding = tokio::spawn(async move { guard.run(&mut floods).await });
    let client = async |ip: &str| UdpSocket::bind((ip, 0)).await.expect("a socket");
    let heard = async |client: &UdpSocket| {
        client.send_to(b"question", at).await.expect("sent");
        timeout(MOMENT, udp.recv_from(&mut [0; 16])).await.is_ok()
    };
    let flooded = || counts.counters()[0].value;
    let asking = client(unheard).await;

    assert!(heard(&asking).await);
    reports.report(GREEDY.parse().expect("an address"));
    let is_shut_out = async { while heard(&asking).await {} };
    timeout(MOMENT * 20, is_shut_out).await.expect("it is shut out");
    for other in others {
        assert!(heard(&client(other).await).await);
    }
    tokio::time::sleep(PAUSE + MOMENT).await;

    assert!(heard(&asking).await);
    assert_eq!(flooded(), 1);
    drop(reports);
    guarding.await.expect("it ends with the last who reports");
}
