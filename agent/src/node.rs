//! The node: the agent from its beginning to its end, or to where another process takes its place.

mod begin;
mod hand_over;
mod phases;

use std::sync::Arc;
use std::time::Duration;

use overlay_daemon::log::Log;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::config::Config;
use crate::descriptor_reserves::DescriptorReserves;
use crate::endpoint::sandbox;
use crate::hand_over::{Predecessor, Program};
use crate::kernel::code_pages;
use crate::node_handle::Request;
use crate::problem::explain;
use crate::readiness;
use crate::signals::Signals;

use self::phases::Node;
pub use self::phases::NodeError;

/// How often the time of handshakes is stored. A clock that is set back while the agent is down may
/// cost this much.
const CLOCK_KEPT: Duration = Duration::from_secs(10);

/// How soon a failed write is tried again.
const KEEP_AGAIN: Duration = Duration::from_secs(1);

/// How long this process waits, once another has its place, for those who are connected to read
/// their answers.
const HANG_UP: Duration = Duration::from_secs(1);

/// How the agent ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeEnd {
    /// It was told to.
    Stopped,
    /// Another process has taken its place, and has what this one had: nothing may be given back or
    /// removed.
    HandedOver,
}

/// Runs the agent until it is told to stop. What stands in the kernel then stays.
///
/// # Errors
///
/// [`NodeError`] when it cannot start, or a task of it broke.
pub async fn run(
    program: Program,
    config: Config,
    log: Log,
    reserves: DescriptorReserves,
) -> Result<NodeEnd, NodeError> {
    sandbox::look_at_boot();
    let mut signals = Signals::new().map_err(NodeError::Signals)?;
    let predecessor =
        if config.take_over { Some(Predecessor::greet(&config).await?) } else { None };
    let begun = begin::begin(program, config, log, reserves, predecessor.as_ref()).await;
    let (mut node, mut inbox) = match begun {
        Ok(begun) => begun,
        Err(error) => {
            if let Some(predecessor) = predecessor {
                predecessor.refuse(&explain(&error)).await;
            }
            return Err(error);
        }
    };
    let handle = Arc::clone(&node.handle);
    let ready = tokio::spawn(async move {
        if let Some(predecessor) = predecessor {
            // Whoever watches over the agent hears of this process from the one before it.
            predecessor.gone().await;
        }
        readiness::tell(&handle).await;
        handle.has_joined().await;
        code_pages::release_and_tell();
    });
    let outcome = node.serve(&mut inbox, &mut signals).await;
    ready.abort();
    if node.is_handed_over {
        tracing::info!("Agent ends, another one has taken its place");
        // Its tasks would end before the process does, and remove what is the other's: sockets.
        std::mem::forget(node);
        return Ok(NodeEnd::HandedOver);
    }
    readiness::ending();
    node.stop_session().await;
    if let Some(userspace) = node.userspace.take() {
        tokio::task::spawn_blocking(move || drop(userspace)).await.map_err(NodeError::Task)?;
    }
    // Nobody listens there any more; the next start would replace it anyway.
    let _ = std::fs::remove_file(node.handle.config.socket());
    // Stays while a network is pinned in it.
    let _ = std::fs::remove_dir(&node.handle.config.run_dir);
    tracing::info!("Agent stopped, what it made in the kernel stays");

    outcome.map(|()| NodeEnd::Stopped)
}

impl Node {
    async fn serve(
        &mut self,
        inbox: &mut mpsc::Receiver<Request>,
        signals: &mut Signals,
    ) -> Result<(), NodeError> {
        let mut kept = Instant::now();
        loop {
            // What does not work is tried again sooner, and found to work again by that.
            let pause = if self.store.condition().is_some() { KEEP_AGAIN } else { CLOCK_KEPT };
            tokio::select! {
                () = signals.stop() => return Ok(()),
                Some(request) = inbox.recv() => tokio::select! {
                    () = self.handle(request) => {
                        if self.is_handed_over {
                            return Ok(());
                        }
                    }
                    // Whoever asked has an answer by our end; what is half done is done or undone
                    // by the next start.
                    () = signals.stop() => return Ok(()),
                },
                Some(ended) = self.tasks.join_next() => {
                    if let Some(reason) = ended.map_err(NodeError::Task)? {
                        self.expel(reason).await;
                    }
                }
                Some(ended) = self.services.join_next() => {
                    return Err(ended.map_or_else(NodeError::Task, |()| NodeError::NotServed));
                }
                () = self.store.fails() => {}
                () = sleep_until(kept + pause) => {
                    self.keep().await;
                    kept = Instant::now();
                }
            }
        }
    }

    async fn handle(&mut self, request: Request) {
        // Who asked may have gone meanwhile; what was done stays done.
        match request {
            Request::Join(line, options, answer) => {
                drop(answer.send(self.join(&line, options).await))
            }
            Request::Leave(force, answer) => drop(answer.send(self.leave(force).await)),
            Request::Upgrade(binary, answer) => {
                let upgraded = self.upgrade(binary).await;
                drop(answer.send(upgraded));
                if self.is_handed_over {
                    self.handle.gate.hung_up(HANG_UP).await;
                }
            }
        }
    }
}

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
