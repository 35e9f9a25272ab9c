//! Starts that must not succeed, and stops that must.

use std::os::unix::fs::PermissionsExt as _;

use crate::harness::Home;

#[tokio::test]
async fn a_second_start_says_which_process_runs() {
    let home = Home::new();
    let first = home.start().await;

    let second = home.try_start(&[]);

    assert_eq!(second.code, Some(1));
    assert!(
        second.log.contains(&format!("already running, pid {}", first.pid())),
        "{}",
        second.log
    );
}

#[tokio::test]
async fn a_socket_in_use_is_not_taken_from_its_owner() {
    let home = Home::new();
    let first = home.start().await;
    let other = Home::new();

    let second = other.try_start(&["--socket", first.socket.to_str().expect("UTF-8")]);

    assert_eq!(second.code, Some(1));
    assert!(second.log.contains("is in use by another agent"), "{}", second.log);
    assert!(first.client().await.status(overlay_proto::v1::StatusRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_killed_agent_starts_again_over_its_stale_socket_and_lock() {
    let home = Home::new();
    drop(home.start().await);
    assert!(home.socket().exists(), "a killed agent leaves its socket");

    let again = home.start().await;

    assert!(again.client().await.status(overlay_proto::v1::StatusRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_stopped_agent_ends_well_and_takes_its_socket_along() {
    let home = Home::new();
    let agent = home.start().await;

    let ended = agent.stop();

    assert_eq!(ended.code, Some(0), "{}", ended.log);
    assert!(!home.socket().exists());
}

#[tokio::test]
async fn a_damaged_state_file_is_named_and_left_alone() {
    let home = Home::new();
    drop(home.start().await);
    let file = home.state().join("agent.redb");
    let mut bytes = std::fs::read(&file).expect("the state");
    bytes.truncate(bytes.len() / 3);
    std::fs::write(&file, &bytes).expect("written");

    let ended = home.try_start(&[]);

    assert_eq!(ended.code, Some(1));
    assert!(ended.log.contains("agent.redb is damaged"), "{}", ended.log);
    assert!(!ended.log.contains("panicked"), "{}", ended.log);
    assert_eq!(std::fs::read(&file).expect("still there").len(), bytes.len());
}

#[tokio::test]
async fn state_and_socket_are_for_their_owner_only() {
    let home = Home::new();
    let agent = home.start().await;
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    };

    assert_eq!(mode(&home.state()), 0o700);
    assert_eq!(mode(&home.state().join("agent.redb")), 0o600);
    assert_eq!(mode(&agent.socket), 0o600);
}

#[test]
fn what_is_not_supported_is_refused_in_one_line() {
    let home = Home::new();

    let kernel = home.try_start(&["--backend", "kernel"]);
    let wrong = home.try_start(&["--lanes", "0"]);

    assert_eq!(kernel.code, Some(64));
    assert!(kernel.log.contains("--backend kernel is not supported"), "{}", kernel.log);
    assert_eq!(kernel.log.lines().count(), 1, "{}", kernel.log);
    assert_eq!(wrong.code, Some(2));
    assert!(!home.state().exists(), "a refused start makes nothing");
}
