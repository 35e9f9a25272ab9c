//! The node without its tasks.

use std::path::Path;

use clap::Parser as _;

use super::*;
use crate::config::Arguments;

/// A node that has joined nothing, and the queue of what is asked of it.
async fn unjoined(dir: &Path) -> (Node, mpsc::Receiver<Request>) {
    let dir = dir.to_str().expect("UTF-8");
    let words = ["overlayd", "--state", dir, "--run-dir", dir, "--docker", "off"];
    let arguments = Arguments::try_parse_from(words).expect("arguments");
    let program = Program { binary: "overlayd".into(), arguments: Vec::new() };

    begin::begin(program, arguments.config, Log::default(), DescriptorReserves::default(), None)
        .await
        .expect("it begins")
}

#[tokio::test]
async fn the_process_does_not_outlive_what_it_serves() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut signals = Signals::new().expect("signals");
    let (mut node, mut inbox) = unjoined(dir.path()).await;
    // Beside the local socket, which is served.
    node.services.spawn(async {});

    let ended = node.serve(&mut inbox, &mut signals).await;

    assert!(matches!(ended, Err(NodeError::NotServed)), "{ended:?}");
}

#[tokio::test]
async fn who_was_thrown_out_has_left_though_control_does_not_answer() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut node, _inbox) = unjoined(dir.path()).await;
    node.tasks.spawn(async { None });
    node.tasks.spawn(async { Some("the node left".to_owned()) });

    let told = node.or_thrown_out(std::future::pending()).await;

    assert!(matches!(told, Ok(true)), "{told:?}");
}
