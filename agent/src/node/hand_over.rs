//! The node's side of a hand-over: what stops and goes on in the running agent, and what comes up
//! in the new one.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use overlay_core::{NetworkId, NodeId, View};
use overlay_proto::v1;
use tokio::time::timeout;

use super::phases::{Node, NodeError};
use crate::backend::userspace::Userspace;
use crate::hand_over::{
    HandedNode, Kept, NoPredecessor, NoSuccessor, Predecessor, SharedDescriptors, Successor,
};
use crate::joined_node::JoinedNode;
use crate::membership::admission::Admission;
use crate::node_handle::Phase;
use crate::path::LaneSockets;
use crate::problem::explain;
use crate::readiness;
use crate::reconcile::NetworkReports;
use crate::request_error::UpgradeError;

/// The name under which the lock of the state directory is handed over.
pub(super) const LOCK: &str = "lock";
/// What the names begin with under which the sockets of lanes are handed over; the rest is the
/// number.
const LANE: &str = "lane/";
/// How long calls that are under way may take until everything rests.
const CALLS: Duration = Duration::from_secs(10);
/// How long the networks may take to come up in the new process.
const NETWORKS: Duration = Duration::from_secs(45);

/// The running agent.
impl Node {
    /// Has another program take this one's place. On any failure this one goes on as it was.
    pub(super) async fn upgrade(
        &mut self,
        binary: Option<PathBuf>,
    ) -> Result<v1::UpgradeResponse, UpgradeError> {
        let binary = binary.unwrap_or_else(|| self.program.binary.clone());
        tracing::info!(binary = %binary.display(), "Handing over to another program");
        match self.hand_over(&binary).await {
            Ok(upgraded) => {
                tracing::info!(version = %upgraded.to_version, pid = upgraded.pid, "Handed over");
                Ok(upgraded)
            }
            Err(error) => {
                tracing::warn!(reason = %error, "The other program does not take over, going on");
                Err(error)
            }
        }
    }

    async fn hand_over(&mut self, binary: &Path) -> Result<v1::UpgradeResponse, UpgradeError> {
        let mut successor =
            Successor::start(&self.program, binary).map_err(UpgradeError::Successor)?;
        if let Err(error) = successor.greet(self.offer()).await {
            successor.end().await;
            return Err(UpgradeError::Successor(error));
        }
        let gate = self.handle.gate.clone();
        let Some(closed) = gate.close(CALLS).await else {
            successor.end().await;
            return Err(UpgradeError::Calls { seconds: CALLS.as_secs() });
        };
        let handed = self.rest().await;
        let outcome = match self.give(&mut successor, &handed).await {
            Ok(given) => {
                let gone = successor.go().await;
                gone.map(|()| upgraded(&successor, given)).map_err(|error| (error, Doubt::Sessions))
            }
            Err(error) => Err((error, Doubt::None)),
        };
        match outcome {
            Ok(upgraded) => {
                self.is_handed_over = true;
                // What the new process reads from now on, nobody here is to take from it.
                self.handle.descriptors.unseal();
                readiness::replaced_by(upgraded.pid);
                gate.turn_away(closed);
                Ok(upgraded)
            }
            Err((error, doubt)) => {
                successor.end().await;
                self.go_on(handed, doubt).await;
                drop(closed);
                Err(UpgradeError::Successor(error))
            }
        }
    }

    fn offer(&self) -> v1::HandOverOffer {
        let config = &self.handle.config;
        let ports = self
            .userspace
            .as_ref()
            .map(|userspace| userspace.lanes.ports().to_vec())
            .unwrap_or_default();

        v1::HandOverOffer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            format: 0,
            state_dir: config.state.display().to_string(),
            run_dir: config.run_dir.display().to_string(),
            socket: config.socket().display().to_string(),
            ports: ports.into_iter().map(u32::from).collect(),
        }
    }

    /// Ends the session but for its lanes, and lets go of the store. Returns what is not in there.
    async fn rest(&mut self) -> HandedNode {
        self.handle.descriptors.seal();
        let joined = match self.handle.phase() {
            Phase::Joined(joined) | Phase::Expelled(joined, _) => Some(joined),
            Phase::Unjoined | Phase::Joining => None,
        };
        self.stop_session().await;
        self.keep().await;
        if let Some(joined) = &joined {
            keep_view(joined).await;
        }
        let store = self.store.clone();
        // It waits for a write that is under way.
        let _ = tokio::task::spawn_blocking(move || store.close()).await;

        HandedNode {
            instance: self.instance.to_string(),
            unix_time: Duration::from_secs(
                self.userspace.as_ref().map_or(0, |userspace| userspace.unix_time()),
            ),
            underlay_mtu: joined.as_ref().map_or(0, |joined| *joined.host.underlay_mtu().borrow()),
            own: joined
                .as_ref()
                .map(|joined| (**joined.host.own().borrow()).clone())
                .unwrap_or_default(),
            admission: joined.map_or(Admission::Unproven, |joined| joined.admission.current()),
        }
    }

    /// Gives everything away, but for the right to use it. Returns since when packets wait, and how
    /// many sessions are lost.
    async fn give(
        &mut self,
        successor: &mut Successor,
        handed: &HandedNode,
    ) -> Result<(Instant, u32), NoSuccessor> {
        let kept = self.keep_process().map_err(|error| successor.unable(error))?;
        let list = self.handle.descriptors.list().map_err(|error| successor.unable(error))?;
        let prepared = successor.prepare(handed, &list).await;
        drop(list);
        drop(kept);
        prepared?;
        let begun = Instant::now();
        let mut sessions_lost = 0;
        if let Some(userspace) = &self.userspace {
            let frozen = userspace.lanes.freeze().await;
            let states = frozen.map_err(|error| successor.unable(error))?;
            sessions_lost = successor.give(states).await?;
        }

        Ok((begun, sessions_lost))
    }

    /// Puts what belongs to the process beside what the session kept.
    fn keep_process(&self) -> std::io::Result<Vec<Kept>> {
        let store = &self.handle.descriptors;
        let note = String::new;
        let lock = SharedDescriptors { list: vec![self.lock.share()?], note: note() };
        let mut kept = vec![store.keep(LOCK, Arc::new(lock))];
        let lanes = self.userspace.iter().flat_map(|userspace| userspace.lanes.sockets());
        for (number, sockets) in lanes.enumerate() {
            let list = std::iter::once(&sockets.v4).chain(&sockets.v6).map(OwnedFd::try_clone);
            let sockets = SharedDescriptors { list: list.collect::<Result<_, _>>()?, note: note() };
            kept.push(store.keep(&format!("{LANE}{number}"), Arc::new(sockets)));
        }

        Ok(kept)
    }

    /// Goes on after another program did not take over.
    async fn go_on(&mut self, handed: HandedNode, doubt: Doubt) {
        if let Some(userspace) = &self.userspace {
            // A lane that takes no commands has ended the process already.
            let _ = match doubt {
                Doubt::None => userspace.lanes.thaw(),
                // Counters may have been used.
                Doubt::Sessions => userspace.lanes.thaw_without_sessions(),
            };
        }
        let store = &self.handle.descriptors;
        store.forget(LOCK, |_| false);
        store.forget(LANE, |_| false);
        store.unseal();
        if let Err(error) = self.lock.retake() {
            tracing::error!(%error, "Failed to take the lock of the state directory again");
        }
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.reopen()).await {
            Ok(Ok(mut loaded)) => {
                self.handed = Some(handed);
                if let Some(identity) = loaded.identity.take()
                    && let Err(error) = self.resume(identity, loaded)
                {
                    tracing::error!(error = %explain(&error), "Failed to go on");
                }
            }
            Ok(Err(error)) => {
                tracing::error!(error = %explain(&error), "Failed to read the state again")
            }
            Err(error) => tracing::error!(%error, "Failed to read the state again"),
        }
    }
}

/// Whether sessions may have been used by another process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doubt {
    None,
    Sessions,
}

fn upgraded(successor: &Successor, (begun, sessions_lost): (Instant, u32)) -> v1::UpgradeResponse {
    v1::UpgradeResponse {
        from_version: env!("CARGO_PKG_VERSION").to_owned(),
        to_version: successor.version().to_owned(),
        paused_micros: u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        pid: successor.pid(),
        sessions_lost,
    }
}

/// Writes down the view as it is now.
async fn keep_view(joined: &JoinedNode) {
    let view = Arc::clone(&joined.membership.borrow().view);
    // One that waits for its snapshot is no better than what is on disk.
    if view.revision > overlay_core::Revision(0) {
        // The store reports its own failure.
        let _ = crate::state::in_store(joined.store(), move |store| store.put_view(&view)).await;
    }
}

/// The new one.
impl Node {
    /// Starts lanes that wait, on the sockets of the running agent.
    pub(super) fn adopt_lanes(&mut self, predecessor: &Predecessor) -> Result<(), NodeError> {
        let unix_time = self.handed.as_ref().map(|handed| handed.unix_time).unwrap_or_default();
        let missing = || NoPredecessor::Unusable {
            what: "a lane's socket",
            source: std::io::ErrorKind::NotFound.into(),
        };
        let mut sockets = Vec::with_capacity(predecessor.lanes());
        for number in 0..predecessor.lanes() {
            let kept =
                self.handle.descriptors.take(&format!("{LANE}{number}")).ok_or_else(missing)?;
            let mut list = kept.list.into_iter();
            sockets.push(LaneSockets { v4: list.next().ok_or_else(missing)?, v6: list.next() });
        }
        if !sockets.is_empty() {
            let descriptors = self.handle.descriptors.clone();
            let (userspace, events) =
                Userspace::take_over(sockets, self.kept_time, unix_time, descriptors)?;
            self.set_userspace(userspace, events);
        }

        Ok(())
    }

    /// Takes the running agent's place once everything is up.
    pub(super) async fn take_place(
        &mut self,
        predecessor: &Predecessor,
    ) -> Result<(), NoPredecessor> {
        if let Phase::Joined(joined) = self.handle.phase() {
            brought_up(&joined).await?;
        }
        predecessor.prepared().await?;
        let lanes = self.userspace.as_ref().map(|userspace| &userspace.lanes);
        let mut refused = 0;
        if let Some(lanes) = lanes {
            let states = predecessor.sessions().await?;
            refused = lanes.resume(states).await.map_err(|_| NoPredecessor::Lanes)?;
            predecessor.ready(refused).await?;
        }
        predecessor.released().await?;
        if let Some(lanes) = lanes {
            lanes.begin().map_err(|_| NoPredecessor::Lanes)?;
        }
        if refused > 0 {
            tracing::warn!(refused, "Sessions could not be taken over, making others");
        }

        predecessor.running().await
    }
}

/// Waits until the networks of the running agent are up here as well.
async fn brought_up(joined: &JoinedNode) -> Result<(), NoPredecessor> {
    let mut membership = joined.membership.subscribe();
    let mut networks = joined.endpoints.reports.subscribe();
    let mut awaited = members(&membership.borrow_and_update().view, joined.node);
    awaited.retain(|network| joined.has_keys(*network));
    let mut missing = String::new();
    let all = timeout(NETWORKS, async {
        loop {
            // Control is followed already: a network that is removed meanwhile never comes up.
            let members = members(&membership.borrow_and_update().view, joined.node);
            awaited.retain(|network| members.contains(network));
            match first_missing(&awaited, &networks.borrow_and_update())? {
                None => return Ok(()),
                Some(network) => missing = format!("network {network}"),
            }
            let changed = tokio::select! {
                changed = networks.changed() => changed,
                changed = membership.changed() => changed,
            };
            if changed.is_err() {
                return Err(NoPredecessor::Lanes);
            }
        }
    });

    all.await.unwrap_or_else(|_| Err(NoPredecessor::Slow(missing)))
}

/// Lists the networks that a node is in.
fn members(view: &View, node: NodeId) -> BTreeSet<NetworkId> {
    view.memberships_of(node).map(|member| member.network).collect()
}

/// Finds the first network that is not up yet; one that does not come up is an error.
fn first_missing(
    awaited: &BTreeSet<NetworkId>,
    reports: &NetworkReports,
) -> Result<Option<NetworkId>, NoPredecessor> {
    let problem = |network: &NetworkId| Some((*network, reports.get(network)?.problem.clone()?));
    if let Some((network, problem)) = awaited.iter().find_map(problem) {
        return Err(NoPredecessor::Network { network: network.to_string(), problem });
    }

    Ok(awaited.iter().find(|network| !reports.contains_key(network)).copied())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::NetworkReport;

    #[test]
    fn networks_are_waited_for_until_all_are_up_and_one_that_fails_is_told() {
        let [up, other] = [1, 2].map(NetworkId::from_random);
        let mut reports = NetworkReports::from([(up, NetworkReport::default())]);
        let missing = |reports: &_| first_missing(&[up, other].into(), reports);

        assert_eq!(missing(&reports).expect("no failure"), Some(other));
        // As when control removes the other one meanwhile.
        assert_eq!(first_missing(&[up].into(), &reports).expect("no failure"), None);

        reports.insert(other, NetworkReport { problem: Some("full".into()), ..Default::default() });
        assert!(matches!(missing(&reports), Err(NoPredecessor::Network { .. })));
    }
}
