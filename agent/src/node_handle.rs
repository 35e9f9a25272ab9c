//! A handle to the node, for the local API and Docker.

use std::path::PathBuf;
use std::sync::Arc;

use overlay_proto::{Code, JoinLine, v1};
use tokio::sync::{mpsc, oneshot, watch};

use crate::call_gate::CallGate;
use crate::config::Config;
use crate::hand_over::DescriptorStore;
use crate::joined_node::JoinedNode;
use crate::membership::join::JoinOptions;
use crate::problem::{Problems, unix_now};
use crate::request_error::{NodeJoinError, NodeLeaveError, Stopping, UpgradeError};

/// Requests that wait; each is a person's command.
const MAX_REQUESTS: usize = 16;

/// The phase of this process.
#[derive(Debug, Clone)]
pub(crate) enum Phase {
    /// It has joined nothing.
    Unjoined,
    /// It is joining.
    Joining,
    /// It is a node.
    Joined(Arc<JoinedNode>),
    /// It was a node and was expelled, with the reason.
    Expelled(Arc<JoinedNode>, String),
}

/// A request of the local API to the node.
#[derive(Debug)]
pub(crate) enum Request {
    /// Join a cluster.
    Join(Box<JoinLine>, JoinOptions, oneshot::Sender<Result<v1::AgentJoinResponse, NodeJoinError>>),
    /// Leave the cluster.
    Leave(bool, oneshot::Sender<Result<v1::AgentLeaveResponse, NodeLeaveError>>),
    /// Have another program take this one's place: that of the path, or the one that this was
    /// started from.
    Upgrade(Option<PathBuf>, oneshot::Sender<Result<v1::UpgradeResponse, UpgradeError>>),
}

/// This host is no node at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotJoined {
    /// It has joined nothing.
    #[error("this host has joined nothing; use `overlayctl init` or `overlayctl join JOIN-LINE`")]
    Unjoined,
    /// It was expelled.
    #[error("this node was removed ({reason}); use `overlayctl leave`, then join again")]
    Expelled {
        /// Why.
        reason: String,
    },
}

impl NotJoined {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        Code::WrongState
    }
}

/// A handle to the node, for the local API and Docker.
#[derive(Debug)]
pub(crate) struct NodeHandle {
    /// The configuration.
    pub(crate) config: Config,
    /// The current problems.
    pub(crate) problems: Arc<Problems>,
    /// When this process started, in seconds since 1970.
    pub(crate) started: u64,
    /// What calls go through.
    pub(crate) gate: CallGate,
    /// What is handed over to the next session.
    pub(crate) descriptors: DescriptorStore,
    phase: watch::Sender<Phase>,
    requests: mpsc::Sender<Request>,
}

impl NodeHandle {
    /// Makes the handle of a node that has joined nothing yet, and the queue of what is asked of
    /// it.
    pub(crate) fn new(
        config: Config,
        problems: Arc<Problems>,
        gate: CallGate,
        descriptors: DescriptorStore,
    ) -> (Self, mpsc::Receiver<Request>) {
        let (requests, inbox) = mpsc::channel(MAX_REQUESTS);
        let phase = watch::Sender::new(Phase::Unjoined);

        (Self { config, problems, started: unix_now(), gate, descriptors, phase, requests }, inbox)
    }

    /// States the phase.
    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.send_replace(phase);
    }

    /// Waits until this host is a node.
    pub(crate) async fn has_joined(&self) {
        let mut phase = self.phase.subscribe();
        // The sender is this very value's, so an error cannot be.
        let _ = phase.wait_for(|phase| matches!(phase, Phase::Joined(_))).await;
    }

    /// Returns the current phase.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.borrow().clone()
    }

    /// Returns the joined node, or why there is none.
    pub(crate) fn joined(&self) -> Result<Arc<JoinedNode>, NotJoined> {
        match self.phase() {
            Phase::Joined(joined) => Ok(joined),
            Phase::Unjoined | Phase::Joining => Err(NotJoined::Unjoined),
            Phase::Expelled(_, reason) => Err(NotJoined::Expelled { reason }),
        }
    }

    /// Sends a request to the node, which handles one at a time.
    pub(crate) async fn ask<T, E: From<Stopping>>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, E>>) -> Request,
    ) -> Result<T, E> {
        let (sender, answer) = oneshot::channel();
        self.requests.send(request(sender)).await.map_err(|_| Stopping)?;

        answer.await.map_err(|_| Stopping)?
    }
}
