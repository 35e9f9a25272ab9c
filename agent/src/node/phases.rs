//! The phases of this process, from a host that has joined nothing to one that was expelled, and
//! the tasks of each.
//!
//! ```text
//!  Unjoined ──join──► Joining ──► Joined ──leave──► Unjoined
//!                        │          │ control removed us
//!                     refused       ▼
//!                        └► back  Expelled ──leave or join──► Unjoined / Joining
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use overlay_proto::{Code, JoinLine, identity, v1};
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::backend::userspace::{LaneEvents, Userspace};
use crate::backend::{Backend as _, NetworkConfigs};
use crate::descriptor_reserves::DescriptorReserves;
use crate::docker;
use crate::endpoint::gc;
use crate::endpoint::sandbox::boot;
use crate::hand_over::{HandedNode, NoPredecessor, Program};
use crate::joined_node::JoinedNode;
use crate::lock::{LockError, StateLock};
use crate::membership::admission::Admission;
use crate::membership::connection::ControlCalls;
use crate::membership::containers::Containers;
use crate::membership::control_link::ProcessContext;
use crate::membership::join::{self, JoinOptions};
use crate::membership::{
    announce, eviction, leases, prefix_clash, renewal, view_cache, watch as following,
};
use crate::node_handle::{NodeHandle, Phase};
use crate::path::{LanesError, consecutive_ports};
use crate::problem::explain;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::reconcile;
use crate::request_error::{NodeJoinError, NodeLeaveError};
use crate::state::{Identity, Joining, StateError, StateStore, StoredState, in_store};
use crate::unix_socket::SocketError;

/// The pause before a task that ended unexpectedly is restarted.
const BEGIN_AGAIN: Duration = Duration::from_secs(1);

/// Why the agent cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// Another agent uses the state directory.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The state cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The lanes cannot start.
    #[error(transparent)]
    Lanes(#[from] LanesError),
    /// The local socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The kernel gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(getrandom::Error),
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// A task panicked.
    #[error("a task of the agent broke")]
    Task(#[source] JoinError),
    /// The running agent's place cannot be taken.
    #[error(transparent)]
    NoPredecessor(#[from] NoPredecessor),
    /// The local socket is no longer served.
    #[error("the local socket is served no longer")]
    NotServed,
}

/// The process as a node: what it holds in every phase, and the tasks of the one that it is in.
pub(super) struct Node {
    pub(super) handle: Arc<NodeHandle>,
    pub(super) reserves: Arc<DescriptorReserves>,
    pub(super) program: Program,
    pub(super) lock: StateLock,
    pub(super) store: StateStore,
    /// Random: tells this process from every other that shows the same certificate.
    pub(super) instance: Arc<str>,
    pub(super) userspace: Option<Arc<Userspace>>,
    pub(super) kept_time: u64,
    /// Why control has thrown us out, while the disk does not have it.
    pub(super) unkept_expulsion: Option<String>,
    pub(super) joining: Option<Joining>,
    /// The tasks of the joined node; each says why it ended if that means expulsion.
    pub(super) tasks: JoinSet<Option<String>>,
    /// The tasks of the process.
    pub(super) services: JoinSet<()>,
    /// What the session before knew, for the next one.
    pub(super) handed: Option<HandedNode>,
    /// Whether another process has taken this one's place.
    pub(super) is_handed_over: bool,
}

impl Node {
    /// Goes on as the node that was joined before: packets first, control later.
    pub(super) fn resume(
        &mut self,
        identity: Identity,
        loaded: StoredState,
    ) -> Result<(), NodeError> {
        let userspace = self.userspace()?;
        let expelled = loaded.expelled.clone();
        let joined = self.joined(identity, loaded, &userspace);
        match expelled {
            Some(reason) => {
                self.handle.set_phase(Phase::Expelled(joined, reason));
            }
            None => self.start(joined),
        }

        Ok(())
    }

    pub(super) async fn join(
        &mut self,
        line: &JoinLine,
        options: JoinOptions,
    ) -> Result<v1::AgentJoinResponse, NodeJoinError> {
        match self.handle.phase() {
            Phase::Joined(joined) => {
                let who = joined.identity();
                if identity::key_pin(&who.ca).is_ok_and(|pin| pin == line.pin) {
                    return Ok(joined_as(&who));
                }
                let (name, cluster) = (who.name.clone(), who.cluster);
                return Err(NodeJoinError::Elsewhere { name, cluster });
            }
            Phase::Expelled(..) => drop(self.leave(true).await?),
            Phase::Unjoined | Phase::Joining => {}
        }
        // What cannot run should not join.
        let userspace = self.userspace()?;
        self.handle.set_phase(Phase::Joining);
        match join::join(line, options, self.joining.clone(), &self.store).await {
            Ok(identity) => {
                self.joining = None;
                tracing::info!(cluster = %identity.cluster, node = %identity.node, name = %identity.name, "Joined");
                let joined = self.joined(identity, StoredState::default(), &userspace);
                let who = joined.identity();
                self.start(joined);
                Ok(joined_as(&who))
            }
            Err(error) => {
                self.handle.set_phase(Phase::Unjoined);
                Err(error.into())
            }
        }
    }

    pub(super) async fn leave(
        &mut self,
        force: bool,
    ) -> Result<v1::AgentLeaveResponse, NodeLeaveError> {
        let (joined, expelled) = match self.handle.phase() {
            Phase::Joined(joined) => (joined, false),
            Phase::Expelled(joined, _) => (joined, true),
            Phase::Unjoined | Phase::Joining => {
                return Err(NodeLeaveError::NotJoined);
            }
        };
        let told_control = expelled || self.or_thrown_out(tell_control(&joined, force)).await?;
        self.stop_session().await;
        if let Some(socket) = self.handle.config.docker()
            && let Err(error) = docker::sync::withdraw(&joined.docker, &socket).await
        {
            tracing::warn!(error = %explain(&error), "Docker keeps what it had of our networks");
        }
        joined.data_path.backend.publish(&NetworkConfigs::new());
        for network in joined.endpoints.reports.borrow().keys() {
            joined.data_path.backend.release_interface(*network);
        }
        self.handle.problems.clear_all();
        reconcile::clean::all_but(&joined.endpoints.run_dir, &[], &self.handle.problems).await;
        reconcile::clean::folders(&joined.endpoints.run_dir);
        in_store(&self.store, StateStore::wipe).await?;
        self.unkept_expulsion = None;
        self.handle.set_phase(Phase::Unjoined);
        tracing::info!("Left; nothing of this node stays on the host");

        Ok(v1::AgentLeaveResponse { told_control })
    }

    /// Waits for control to be told that this node leaves. Where the answer is lost, that control
    /// throws us out says as much.
    pub(super) async fn or_thrown_out(
        &mut self,
        told: impl Future<Output = Result<bool, NodeLeaveError>>,
    ) -> Result<bool, NodeLeaveError> {
        let thrown_out = async {
            while let Some(ended) = self.tasks.join_next().await {
                if matches!(ended, Ok(Some(_))) {
                    return;
                }
            }
            std::future::pending().await
        };

        tokio::select! {
            told = told => told,
            () = thrown_out => Ok(true),
        }
    }

    /// Fails closed: whatever control's reason, no packet of this node passes any longer.
    pub(super) async fn expel(&mut self, reason: String) {
        let Phase::Joined(joined) = self.handle.phase() else { return };
        tracing::error!(%reason, "This node was removed, tunnels are shut");
        joined.data_path.backend.publish(&NetworkConfigs::new());
        let kept = reason.clone();
        if in_store(&self.store, move |store| store.put_expelled(&kept)).await.is_err() {
            self.unkept_expulsion = Some(reason.clone());
        }
        self.stop_session().await;
        joined.data_path.backend.publish(&NetworkConfigs::new());
        self.handle.problems.raise(
            ProblemKey::Node,
            ProblemCode::Expelled,
            format!("{reason}; all tunnels of this node are shut"),
        );
        self.handle.set_phase(Phase::Expelled(joined, reason));
    }

    fn joined(
        &mut self,
        identity: Identity,
        loaded: StoredState,
        userspace: &Arc<Userspace>,
    ) -> Arc<JoinedNode> {
        let run_dir = self.handle.config.run_dir.clone();
        let (store, problems) = (self.store.clone(), Arc::clone(&self.handle.problems));
        let process = ProcessContext {
            instance: Arc::clone(&self.instance),
            descriptors: self.handle.descriptors.clone(),
            tunnels: userspace.heard_at(),
            notices: userspace.notices(),
        };
        let data_path = userspace.data_path();
        let joined = Arc::new(JoinedNode::new(
            identity, loaded, store, problems, data_path, run_dir, process,
        ));
        if let Some(handed) = self.handed.take() {
            go_on(&joined, handed);
        }

        joined
    }

    fn start(&mut self, joined: Arc<JoinedNode>) {
        let context = Arc::new(joined.reconcile_context());
        self.tasks.spawn(async move {
            reconcile::run(context).await;
            None
        });
        let (follower, stop) = (joined.follower(), joined.stop.clone());
        self.tasks.spawn(async move { stop.run_until_cancelled(following::run(&follower)).await });
        let (listener, stop) = (Arc::clone(&joined), joined.stop.clone());
        self.tasks.spawn(async move {
            let notices = &listener.control.process.notices;
            let heard = eviction::run(&listener.membership, &listener.control, notices);
            stop.run_until_cancelled(heard).await
        });
        self.keep_task(&joined, "revocations", |joined| async move {
            eviction::keep(joined.membership.subscribe(), joined.store()).await;
        });
        self.keep_task(&joined, "leases", |joined| async move {
            leases::run(
                joined.node,
                joined.membership.subscribe(),
                &joined.control.contact,
                &joined.lapsed,
                &joined.endpoints.problems,
            )
            .await;
        });
        self.keep_task(&joined, "view-cache", |joined| async move {
            view_cache::run(joined.membership.subscribe(), joined.store()).await;
        });
        self.keep_task(&joined, "prefix clash", |joined| async move {
            prefix_clash::run(
                joined.membership.subscribe(),
                &joined.host,
                &joined.endpoints.problems,
            )
            .await;
        });
        let announcer = Arc::new(joined.announcer());
        self.keep_task(&joined, "announce", move |_| {
            let announcer = Arc::clone(&announcer);
            async move { announce::run(&announcer).await }
        });
        self.keep_task(&joined, "publish", |joined| async move {
            joined.endpoints.publisher.run().await
        });
        self.keep_task(&joined, "network-membership", |joined| async move {
            joined.endpoints.memberships.run().await
        });
        self.keep_task(
            &joined,
            "renewal",
            |joined| async move { renewal::run(joined.renewal()).await },
        );
        self.keep_task(&joined, "gc", |joined| async move { gc::run(&joined.endpoints).await });
        if let Some(socket) = self.handle.config.docker() {
            let work = Arc::new((joined.docker_work(), Arc::clone(&self.reserves), socket));
            self.keep_task(&joined, "docker", move |_| {
                let work = Arc::clone(&work);
                async move { docker::task::follow(&work.0, &work.1.interceptors, &work.2).await }
            });
        } else {
            joined.endpoints.journal.set_whole();
            // No engine has any.
            joined.endpoints.publisher.containers.send_replace(Containers::Known(BTreeMap::new()));
        }
        self.handle.set_phase(Phase::Joined(joined));
    }

    /// Does something for as long as the node is joined.
    fn keep_task<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        joined: &Arc<JoinedNode>,
        name: &'static str,
        work: impl Fn(Arc<JoinedNode>) -> F + Send + Sync + 'static,
    ) {
        let joined = Arc::clone(joined);
        self.tasks.spawn(async move {
            keep_going(name, &joined.stop, BEGIN_AGAIN, || work(Arc::clone(&joined))).await;
            None
        });
    }

    pub(super) async fn stop_session(&mut self) {
        if let Phase::Joined(joined) = self.handle.phase() {
            joined.stop.cancel();
        }
        while self.tasks.join_next().await.is_some() {}
    }

    /// Returns the backend in userspace; the first who asks starts it.
    fn userspace(&mut self) -> Result<Arc<Userspace>, LanesError> {
        if let Some(userspace) = &self.userspace {
            return Ok(Arc::clone(userspace));
        }
        let config = &self.handle.config;
        let ports = consecutive_ports(config.port.get(), config.lanes().into());
        let descriptors = self.handle.descriptors.clone();
        let (userspace, events) = Userspace::start(ports, self.kept_time, descriptors)?;

        Ok(self.set_userspace(userspace, events))
    }

    pub(super) fn set_userspace(
        &mut self,
        userspace: Arc<Userspace>,
        events: LaneEvents,
    ) -> Arc<Userspace> {
        self.services.spawn(events.tell());
        self.userspace = Some(Arc::clone(&userspace));

        userspace
    }

    /// Keeps what the disk does not have yet. What cannot be kept is a problem until it is.
    pub(super) async fn keep(&mut self) {
        if let Some(reason) = self.unkept_expulsion.clone() {
            let kept = in_store(&self.store, move |store| store.put_expelled(&reason)).await;
            if kept.is_ok() {
                self.unkept_expulsion = None;
            }
        }
        match &self.userspace {
            Some(userspace) => {
                let seconds = userspace.unix_time();
                let contact = match self.handle.phase() {
                    Phase::Joined(joined) => joined.control.contact.to_kept(&boot()),
                    Phase::Unjoined | Phase::Joining | Phase::Expelled(..) => None,
                };
                let keep = move |store: &StateStore| store.put_clocks(seconds, contact.as_ref());
                if in_store(&self.store, keep).await.is_ok() {
                    self.kept_time = seconds;
                }
            }
            None if self.store.condition().is_some() => {
                drop(in_store(&self.store, StateStore::probe).await)
            }
            None => {}
        }
    }
}

fn joined_as(who: &Identity) -> v1::AgentJoinResponse {
    v1::AgentJoinResponse {
        cluster: who.cluster.to_string(),
        node: who.node.to_string(),
        node_name: who.name.to_string(),
        role: v1::Role::from(who.role).into(),
    }
}

async fn tell_control(joined: &JoinedNode, force: bool) -> Result<bool, NodeLeaveError> {
    // The node that control knows is the other host, which was there first: it must not be taken
    // out.
    if joined.admission.current() == Admission::TurnedAway {
        return Ok(false);
    }
    let leave = |mut client: ControlCalls| async move { client.leave(v1::LeaveRequest {}).await };
    match joined.control.connection.ask_again(leave).await {
        Ok(_) => Ok(true),
        // It has forgotten us already.
        Err(error) if error.code() == Code::NotAllowed => Ok(true),
        Err(_) if force => Ok(false),
        Err(error) => Err(NodeLeaveError::NotTold(error)),
    }
}

/// Has a session go on where the one before was.
fn go_on(joined: &JoinedNode, handed: HandedNode) {
    joined.admission.set(handed.admission);
    if handed.underlay_mtu > 0 {
        joined.host.note_underlay_mtu(handed.underlay_mtu);
    }
    if joined.host.note_own(handed.own) {
        joined.data_path.backend.know_own(&joined.host.own().borrow());
    }
}

/// Does what does not end by itself until `stop`; what did is begun again after `pause`, and heard
/// of.
async fn keep_going<F: Future<Output = ()>>(
    name: &'static str,
    stop: &CancellationToken,
    pause: Duration,
    work: impl Fn() -> F,
) {
    while stop.run_until_cancelled(work()).await.is_some() {
        tracing::error!(task = name, "A task ended by itself, beginning it again");
        sleep(pause).await;
    }
    tracing::debug!(task = name, "Task ended");
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_task_that_ends_by_itself_is_begun_again_until_it_is_stopped() {
        let (stop, begun) = (CancellationToken::new(), Cell::new(0));
        let work = || {
            begun.set(begun.get() + 1);
            let (stop, is_last) = (stop.clone(), begun.get() == 3);
            async move {
                if is_last {
                    stop.cancel();
                    std::future::pending().await
                }
            }
        };

        keep_going("test", &stop, Duration::ZERO, work).await;

        assert_eq!(begun.get(), 3);
    }
}
