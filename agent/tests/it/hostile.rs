//! Callers that do not keep to the rules (reliability row E5).

use std::io::Write as _;
use std::os::unix::net::UnixStream;

use overlay_proto::v1;
use overlay_proto::v1::agent_client::AgentClient;

use crate::harness::{Agent, Home};

async fn answers(agent: &Agent) -> bool {
    let Ok(channel) = overlay_proto::channel::agent(&agent.socket).await else { return false };
    AgentClient::new(channel).status(v1::StatusRequest {}).await.is_ok()
}

#[tokio::test]
async fn junk_and_broken_off_calls_harm_nobody_else() {
    let home = Home::new();
    let agent = home.start().await;
    let preface: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    // A frame that announces 16 MiB less one byte.
    let huge = [preface, &[0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 1]].concat();

    for bytes in [&b"\0"[..], b"GET / HTTP/1.1\r\n\r\n", preface, &huge, &[0xFF; 4096]] {
        let mut stream = UnixStream::connect(&agent.socket).expect("it listens");
        // The agent may close before everything was written.
        let _ = stream.write_all(bytes);
    }

    assert!(answers(&agent).await);
}

#[tokio::test]
async fn more_connections_than_there_are_places_are_let_go_and_the_places_come_back() {
    let home = Home::new();
    let agent = home.start().await;

    let held: Vec<_> = (0..600).filter_map(|_| UnixStream::connect(&agent.socket).ok()).collect();
    assert!(!held.is_empty());
    drop(held);

    assert!(crate::harness::eventually(|| answers(&agent)).await);
}

#[tokio::test]
async fn a_message_larger_than_allowed_is_refused() {
    let home = Home::new();
    let agent = home.start().await;
    let request =
        v1::AttachRequest { network: "x".repeat(8 << 20), ..v1::AttachRequest::default() };

    assert!(agent.client().await.attach(request).await.is_err());
    assert!(answers(&agent).await);
}
