//! What works and what does not: the node, its networks and its peers, as a plain value.
//!
//! It is gathered from the stores in one go, and says nothing of how it is told: `local_api/`
//! turns it into messages.

mod networks;
mod peers;

use std::path::PathBuf;
use std::time::Duration;

use overlay_core::{ClusterId, Name, NodeId, Revision, Role};
use overlay_proto::{Code, identity};
use tokio::time::{Instant, timeout};

pub(crate) use networks::{NetworkStatus, endpoint_problem};
pub(crate) use peers::{PeerLaneStatus, peers};

use crate::backend::{BackendReport, Counter, SocketReport};
use crate::health::{self, Facts};
use crate::joined_node::JoinedNode;
use crate::membership::admission::Admission;
use crate::membership::connection::ConnectionStatus;
use crate::membership::prefix_clash;
use crate::node_handle::{NodeHandle, Phase};
use crate::problem::{Problem, unix_now};
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// How long somebody who asks right after a join waits until the host has been looked at.
const FIRST_LOOK: Duration = Duration::from_millis(500);

/// How this node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Status {
    /// The process's id.
    pub(crate) pid: u32,
    /// When the process started, in seconds since 1970.
    pub(crate) started: u64,
    /// Where its state is kept.
    pub(crate) state_dir: PathBuf,
    /// What it is at the moment.
    pub(crate) phase: PhaseStatus,
    /// What does not work.
    pub(crate) problems: Vec<Problem>,
}

/// What this process is at the moment, with what there is to say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PhaseStatus {
    /// It has joined nothing.
    Unjoined,
    /// It is joining.
    Joining,
    /// It is a node.
    Joined(Box<JoinedStatus>),
    /// It was a node and was expelled.
    Expelled(NodeStatus),
}

/// How a joined node is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JoinedStatus {
    /// Which node it is.
    pub(crate) node: NodeStatus,
    /// How control is reached.
    pub(crate) control: ControlStatus,
    /// Its UDP sockets, in the order of its keys.
    pub(crate) sockets: Vec<SocketReport>,
    /// The networks that it is a member of.
    pub(crate) networks: Vec<NetworkStatus>,
    /// What became of packets, over all lanes, by name.
    pub(crate) counters: Vec<Counter>,
}

/// Which node this is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeStatus {
    /// Its cluster.
    pub(crate) cluster: ClusterId,
    /// Its id there.
    pub(crate) node: NodeId,
    /// Its name there.
    pub(crate) name: Name,
    /// What it may ask of control.
    pub(crate) role: Role,
    /// When its certificate ends, in seconds since 1970, if it says so.
    pub(crate) certificate_expires: Option<u64>,
    /// How far it has followed control.
    pub(crate) revision: Revision,
}

/// How control is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ControlStatus {
    /// The connection.
    pub(crate) connection: ConnectionStatus,
    /// How many changes wait for it.
    pub(crate) unpublished: usize,
}

/// Gathers how this node is doing.
pub(crate) async fn status(handle: &NodeHandle) -> Status {
    let phase = handle.phase();
    if let Phase::Joined(joined) = &phase {
        look_for_clashes(handle, joined).await;
    }
    let mut problems = handle.problems.list();
    let phase = match &phase {
        Phase::Unjoined => PhaseStatus::Unjoined,
        Phase::Joining => PhaseStatus::Joining,
        Phase::Joined(joined) => {
            PhaseStatus::Joined(Box::new(joined_status(joined, &mut problems).await))
        }
        Phase::Expelled(joined, reason) => {
            // What was stated at the expulsion itself is not said twice.
            if !problems.iter().any(|problem| problem.key == ProblemKey::Node) {
                problems.push(expulsion(reason, handle.started));
            }
            PhaseStatus::Expelled(node_status(joined))
        }
    };

    Status {
        pid: std::process::id(),
        started: handle.started,
        state_dir: handle.config.state.clone(),
        phase,
        problems,
    }
}

/// States the clashes of prefixes as they are now.
async fn look_for_clashes(handle: &NodeHandle, joined: &JoinedNode) {
    let mut prefixes = joined.host.prefixes();
    // Every host has its loopback's.
    let _ = timeout(FIRST_LOOK, prefixes.wait_for(|prefixes| !prefixes.links.is_empty())).await;

    prefix_clash::check(&joined.view(), &prefixes.borrow(), &handle.problems);
}

fn expulsion(reason: &str, since: u64) -> Problem {
    let text = format!("{reason}; all tunnels of this node are shut; `overlayctl leave` cleans up");

    Problem { key: ProblemKey::Node, code: ProblemCode::Expelled, text, since }
}

async fn joined_status(joined: &JoinedNode, problems: &mut Vec<Problem>) -> JoinedStatus {
    let (control, control_problem) = control_status(joined);
    let report = joined.data_path.backend.report().await;
    problems.extend(control_problem);
    problems.extend(peer_problems(joined, &report));

    JoinedStatus {
        node: node_status(joined),
        control,
        sockets: report.sockets,
        networks: networks::networks(joined),
        counters: report.counters.into_iter().chain(joined.dns_counts.counters()).collect(),
    }
}

fn node_status(joined: &JoinedNode) -> NodeStatus {
    let identity = joined.identity();

    NodeStatus {
        cluster: identity.cluster,
        node: identity.node,
        name: identity.name.clone(),
        role: identity.role,
        certificate_expires: identity::validity(&identity.certificate).ok().map(|(_, until)| until),
        revision: joined.membership.borrow().view.revision,
    }
}

/// Returns how control is reached, and what is wrong with that.
fn control_status(joined: &JoinedNode) -> (ControlStatus, Option<Problem>) {
    let mut connection = joined.control.connection.status();
    let displaced = || {
        let known = joined.control.addresses.known();
        health::displaced(&known, joined.node, &joined.host.own().borrow())
    };
    let displaced = if connection.is_connected() { None } else { displaced() };
    let and_displaced = |text: String| match &displaced {
        Some(displaced) => format!("{text}; {displaced}"),
        None => text,
    };
    if let ConnectionStatus::Away { reason, .. } = &mut connection {
        *reason = and_displaced(std::mem::take(reason));
    }
    // A node that was turned away says why.
    let is_turned_away = joined.admission.current() == Admission::TurnedAway;
    let trouble = joined.control.connection.trouble(Instant::now(), unix_now());
    let problem = trouble.filter(|_| !is_turned_away).map(|(text, since)| Problem {
        key: ProblemKey::ControlConnection,
        code: Code::ControlAway.into(),
        text: and_displaced(text),
        since,
    });
    let unpublished = joined.endpoints.publisher.unpublished().len();

    (ControlStatus { connection, unpublished }, problem)
}

fn peer_problems(joined: &JoinedNode, report: &BackendReport) -> Vec<Problem> {
    let peers: Vec<_> = report.peers.iter().map(|peer| &peer.status).collect();

    health::problems(&Facts {
        view: &joined.membership.borrow().view,
        peers: &peers,
        ports: &joined.data_path.ports,
        own: &joined.host.own().borrow(),
        refused: report.refused,
        now: unix_now(),
    })
}
