//! The node that attacks, in the network of the others, and how it repeats a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use overlay_core::{Name, Network};
use overlay_proto::v1;
use overlay_proto::v1::control_client::ControlClient;
use overlay_traffic::signal::is_stopped;
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::{Options, Tally, requests};
use crate::tool::crowd;
use crate::tool::enrolled_node::EnrolledNode;

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause after a connection was refused.
const RETRY: Duration = Duration::from_millis(50);

/// Connections to control as this node.
pub(super) type Control = ControlClient<Channel>;

/// Connections that calls are made over, each of many attacks: whoever opens more than control
/// leaves a node cuts its own off.
#[derive(Clone, Copy, Debug)]
pub(super) enum Line {
    Rows,
    Announcements,
    Others,
}

/// The hostile node.
#[derive(Debug)]
pub(super) struct Attacker {
    lines: [Mutex<Option<(u64, Control)>>; 3],
    pub(super) identity: EnrolledNode,
    /// The network of the others that it is in.
    pub(super) network: Network,
    /// Its membership there.
    pub(super) member: v1::Member,
    /// The name of another's endpoint there.
    pub(super) steal: Name,
    /// When it stops.
    pub(super) ends: Instant,
    pub(super) tally: Arc<Tally>,
}

impl Attacker {
    /// Enters the network as an honest node would.
    pub(super) async fn enter(
        identity: EnrolledNode,
        options: &Options,
        ends: Instant,
        tally: Arc<Tally>,
    ) -> Result<Self> {
        let mut control = identity.connect().await?;
        let network = crowd::find(&mut control, &options.network).await?;
        let entered = control.enter_network(requests::enter(&network, 1, 1)).await?.into_inner();
        let member = entered.member.unwrap_or_default();

        let lines = Default::default();

        Ok(Self { lines, identity, network, member, steal: options.steal.clone(), ends, tally })
    }

    /// Returns whether it goes on.
    pub(super) fn is_on(&self) -> bool {
        Instant::now() < self.ends && !is_stopped()
    }

    /// Repeats a call with no pause, over a new connection whenever the one before has broken. The
    /// call is told how many it is, from 1.
    pub(super) async fn repeat<T>(
        &self,
        kind: &str,
        line: Line,
        mut call: impl AsyncFnMut(&mut Control, u64) -> Result<T, Status>,
    ) {
        let mut turn = 0;
        while self.is_on() {
            let Some((number, mut control)) = self.line(line).await else {
                sleep(RETRY).await;
                continue;
            };
            turn += 1;
            let answer = timeout(PATIENCE, call(&mut control, turn)).await;
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")));
            self.tally.answer(kind, &answer);
            if answer.is_err_and(|status| is_broken(&status)) && !self.answers(&mut control).await {
                let mut known = self.lines[line as usize].lock().await;
                // Another attack may have noticed before.
                known.take_if(|(known, _)| *known == number);
            }
        }
    }

    /// Returns whether a connection still works.
    async fn answers(&self, control: &mut Control) -> bool {
        let answer = timeout(PATIENCE, control.version(v1::VersionRequest {})).await;

        matches!(answer, Ok(Ok(_)))
    }

    /// Returns a connection with a number of its own. Only one is made at a time: each one more
    /// would cut another off.
    async fn line(&self, line: Line) -> Option<(u64, Control)> {
        let mut known = self.lines[line as usize].lock().await;
        if known.is_none() {
            *known = self.connect().await.map(|made| (rand::random(), made));
        }

        known.clone()
    }

    /// Opens a connection of its own.
    pub(super) async fn connect(&self) -> Option<Control> {
        let made = self.identity.connect().await;
        match &made {
            Ok(_) => self.tally.accepted("connections"),
            Err(error) => self.tally.refused("connections", "not-made", &error.to_string()),
        }

        made.ok()
    }
}

/// Returns whether a call failed because the connection did.
fn is_broken(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}
