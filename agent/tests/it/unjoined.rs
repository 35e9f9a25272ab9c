//! What an agent answers before it has joined anything.

use overlay_proto::{Code, JoinLine, Refusal, v1};

use crate::harness::Home;

fn code<T: std::fmt::Debug>(answer: Result<tonic::Response<T>, tonic::Status>) -> Code {
    Refusal::from(answer.expect_err("refused")).code
}

fn line(address: &str) -> String {
    let text = format!("ovl1-{}-{}-{}@{address}", "01".repeat(8), "ab".repeat(16), "cd".repeat(32));
    assert!(text.parse::<JoinLine>().is_ok());

    text
}

#[tokio::test]
async fn status_says_that_nothing_was_joined() {
    let home = Home::new();
    let agent = home.start().await;

    let status =
        agent.client().await.status(v1::StatusRequest {}).await.expect("an answer").into_inner();

    assert_eq!(status.phase(), v1::NodePhase::Unjoined);
    assert_eq!(status.pid, agent.pid());
    assert!(status.problems.is_empty());
}

#[tokio::test]
async fn calls_that_need_a_cluster_say_how_to_get_one() {
    let home = Home::new();
    let agent = home.start().await;
    let mut client = agent.client().await;
    let attach = v1::AttachRequest {
        network: "blue".into(),
        runtime: v1::Runtime::Attach.into(),
        netns: "/proc/self/ns/net".into(),
        ..v1::AttachRequest::default()
    };

    let refused = client.attach(attach).await.expect_err("not joined");

    assert!(refused.message().contains("overlayctl join"), "{}", refused.message());
    assert_eq!(Refusal::from(refused).code, Code::WrongState);
    assert_eq!(code(client.peers(v1::PeersRequest {}).await), Code::WrongState);
    assert_eq!(code(client.list_nodes(v1::ListNodesRequest {}).await), Code::WrongState);
    assert_eq!(code(client.leave(v1::AgentLeaveRequest { force: true }).await), Code::WrongState);
}

#[tokio::test]
async fn a_join_that_fails_changes_nothing() {
    let home = Home::new();
    let agent = home.start().await;
    let mut client = agent.client().await;
    let join = |join_line: String, name: &str| v1::AgentJoinRequest {
        join_line,
        name: name.to_owned(),
        advertise: Vec::new(),
    };

    assert_eq!(code(client.join(join("nonsense".into(), "a")).await), Code::InvalidInput);
    assert_eq!(code(client.join(join(line("127.0.0.1:1"), "../a")).await), Code::InvalidInput);
    assert_eq!(code(client.join(join(line("127.0.0.1:1"), "a")).await), Code::ControlAway);

    let status = client.status(v1::StatusRequest {}).await.expect("an answer").into_inner();
    assert_eq!(status.phase(), v1::NodePhase::Unjoined);
}

#[tokio::test]
async fn a_secret_that_was_refused_is_not_repeated() {
    let home = Home::new();
    let agent = home.start().await;
    let request = v1::AgentJoinRequest {
        join_line: line("127.0.0.1:1"),
        name: "a".to_owned(),
        advertise: vec!["not an address".into()],
    };

    let first = agent.client().await.join(request.clone()).await.expect_err("refused");
    let second =
        agent.client().await.join(v1::AgentJoinRequest { advertise: Vec::new(), ..request }).await;

    let secret = "ab".repeat(16);
    assert!(!first.message().contains(&secret));
    assert!(!second.expect_err("refused").message().contains(&secret));
    let log = agent.stop().log;
    assert!(!log.contains(&secret), "{log}");
}
