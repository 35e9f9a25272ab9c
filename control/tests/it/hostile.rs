//! What a port that anybody can reach must withstand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::View;
use overlay_proto::identity::CONTROL_NAME;
use overlay_proto::{Code, Refusal, channel, tls, v1};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic_health::pb::health_client::HealthClient;

use crate::harness::{Control, PATIENCE};

/// Writes bytes and waits until the server ends the connection.
async fn throw(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may end it before everything is written.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("the server ends it");
}

#[tokio::test]
async fn plain_text_and_junk_are_dropped_and_the_next_client_is_served() {
    let control = Control::start().await;
    let junk: Vec<u8> = (0..100_000u32).map(|i| u8::try_from(i * 7 % 251).unwrap()).collect();

    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &junk,
        &[0x16, 3, 1, 0xFF, 0xFF],
    ] {
        throw(control.address, bytes).await;
    }

    assert!(control.admin().await.create_network("net", "").await.is_ok());
}

#[tokio::test]
async fn a_handshake_that_never_comes_is_given_up_and_stops_nobody() {
    let control = Control::start().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        held.push(TcpStream::connect(control.address).await.unwrap());
    }
    let begun = Instant::now();

    let admin = control.admin().await;
    let joined = begun.elapsed();

    assert!(joined < Duration::from_secs(2), "{joined:?}");
    for mut stream in held {
        let read = timeout(Duration::from_secs(10), stream.read_u8())
            .await
            .expect("it is given up after 5 s");
        assert!(read.is_err());
    }
    assert!(admin.create_network("net", "").await.is_ok());
}

#[tokio::test]
async fn tls_before_1_3_is_refused() {
    /// The kind of record and the description of the alert (RFC 8446, 5.1 and 6).
    const ALERT: u8 = 21;
    const PROTOCOL_VERSION: u8 = 70;
    // The first message of TLS 1.2 (RFC 5246, 7.4.1.2), with one cipher suite, and the signatures
    // that it takes (7.4.1.4.1).
    let begin = [0x16, 3, 1, 0, 59, 1, 0, 0, 55, 3, 3];
    let suite = [0, 0, 2, 0xC0, 0x2B, 1, 0];
    let signatures = [0, 12, 0, 13, 0, 8, 0, 6, 4, 3, 8, 4, 4, 1];
    let hello = [&begin[..], &[7; 32], &suite, &signatures].concat();
    let control = Control::start().await;
    let mut stream = TcpStream::connect(control.address).await.unwrap();
    let mut answer = Vec::new();

    stream.write_all(&hello).await.unwrap();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it is ended");

    read.unwrap();
    assert_eq!(answer.first(), Some(&ALERT), "{answer:?}");
    assert_eq!(answer.last(), Some(&PROTOCOL_VERSION), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_strangers_at_one_address_the_oldest_gives_way_and_a_host_joins_meanwhile() {
    const AT_ONCE: usize = 128;
    const MORE: usize = 12;
    let control = Control::start().await;
    let tls = Arc::new(tls::pinned_client(control.line.pin).unwrap());
    let mut held = Vec::new();
    for _ in 0..AT_ONCE + MORE {
        let tcp = TcpStream::connect(control.address).await.unwrap();
        let name = ServerName::try_from(CONTROL_NAME).unwrap();
        held.push(TlsConnector::from(Arc::clone(&tls)).connect(name, tcp).await.unwrap());
    }

    let mut rest = held.split_off(MORE);
    for stream in &mut held {
        // What gRPC says first may still be there to be read.
        let ended = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        drop(ended.expect("the oldest are ended"));
    }
    let admin = control.admin().await;
    assert!(admin.create_network("net", "").await.is_ok());
    // To join took one connection, for which one more went.
    let last = rest.last_mut().expect("the last");
    let stays = timeout(Duration::from_millis(200), last.read_to_end(&mut Vec::new())).await;
    assert!(stays.is_err(), "the youngest stay: {stays:?}");
}

#[tokio::test]
async fn a_message_over_4_mib_is_refused_and_the_connection_lives() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let mut request = v1::CreateNetworkRequest { name: "net".to_owned(), ..Default::default() };
    request.labels.insert("key".to_owned(), "x".repeat(overlay_control::MAX_REQUEST + 1));

    let refusal: Refusal = admin.client.clone().create_network(request).await.unwrap_err().into();

    assert!(matches!(refusal.code, Code::InvalidInput | Code::Exhausted), "{refusal:?}");
    assert!(admin.create_network("net", "").await.is_ok());
}

#[tokio::test]
async fn fields_out_of_range_are_refused_by_name() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let network = admin.create_network("net", "10.9.0.0/16").await.unwrap();
    admin.enter(&network).await.unwrap();
    let client = || admin.client.clone();
    let code = |status: tonic::Status| Refusal::from(status);

    let many = (0..1_001).map(|i| admin.endpoint(&network, i + 1, "e", "10.9.255.9")).collect();
    let many = admin.put(many).await.unwrap_err();
    assert!(many.code == Code::InvalidInput && many.message.contains("1001"), "{many}");
    for prefix in [
        "0.0.0.0/0",
        "127.0.0.0/8",
        "224.0.0.0/8",
        "169.254.0.0/16",
        "10.0.0.1/16",
        "10.0.0.0/30",
        "x",
    ] {
        let refusal = admin.create_network("other", prefix).await.unwrap_err();
        assert!(
            refusal.code == Code::InvalidInput && refusal.message.contains("prefix"),
            "{prefix}: {refusal}"
        );
    }
    let mode = v1::CreateNetworkRequest { name: "l2".to_owned(), mode: 77, ..Default::default() };
    assert_eq!(code(client().create_network(mode).await.unwrap_err()).code, Code::Unsupported);
    let keys = |lane_keys| v1::EnterNetworkRequest {
        network: network.id.clone(),
        lane_keys,
        blocks: u32::MAX,
    };
    for lane_keys in [vec![], vec![vec![0; 31]], vec![vec![0; 32]; 65], vec![vec![1; 32]]] {
        assert_eq!(
            code(client().enter_network(keys(lane_keys)).await.unwrap_err()).code,
            Code::InvalidInput
        );
    }
    let routes = vec!["10.0.0.0/8".to_owned(); 1_025];
    let announce = v1::AnnounceRequest { routes, ..Default::default() };
    assert!(code(client().announce(announce).await.unwrap_err()).message.contains("routes"));
    let ttl = v1::CreateTokenRequest { ttl_seconds: u64::MAX, ..Default::default() };
    assert!(client().create_token(ttl).await.err().map(code).unwrap().message.contains("ttl"));
    for id in ["", "zz", "000000000000", "\0", &"9".repeat(10_000)] {
        let request = v1::ExitNetworkRequest { network: id.to_owned() };
        assert_eq!(
            code(client().exit_network(request).await.unwrap_err()).code,
            Code::InvalidInput
        );
        let request = v1::RemoveNetworkRequest { network: id.to_owned(), force: true };
        let refusal = code(client().remove_network(request).await.unwrap_err());
        assert!(refusal.code == Code::NotFound && refusal.message.len() < 600, "{refusal}");
    }
    let forged = v1::Endpoint {
        node: "00000000beef".to_owned(),
        ..admin.endpoint(&network, 1, "e", "10.9.255.9")
    };
    assert_eq!(admin.put(vec![forged]).await.unwrap_err().code, Code::NotAllowed);
}

#[tokio::test]
async fn health_is_told_to_anybody() {
    let control = Control::start().await;
    let tls = Arc::new(tls::pinned_client(control.line.pin).unwrap());
    let channel = channel::control(&control.line.addresses, tls).await.unwrap().channel;
    let request = tonic_health::pb::HealthCheckRequest { service: "overlay.v1.Control".to_owned() };

    let answer = HealthClient::new(channel).check(request).await.unwrap().into_inner();

    assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving);
}

#[tokio::test]
async fn stopping_ends_watches_with_a_word_and_within_seconds() {
    let mut control = Control::start().await;
    let admin = control.admin().await;
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    let begun = Instant::now();

    let (end, ()) = tokio::join!(watcher.end(), control.stop());

    assert_eq!(end.map(|end| end.code), Some(Code::ControlAway));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
