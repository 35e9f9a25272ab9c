//! Follows the membership: one stream, resumed where it broke off, begun anew after a gap.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use overlay_core::{Delta, NetworkId, NodeId, Revision, View};
use overlay_proto::channel::Dialled;
use overlay_proto::convert;
use overlay_proto::v1::watch_response::Event;
use overlay_proto::{Code, v1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use super::admission::{Admission, AdmissionState};
use super::broken_watch::BrokenWatch;
use super::connection_loss::{self, ConnectionLoss};
use super::control_error::{ConnectError, ControlError};
use super::control_link::ControlLink;
use super::renewal::Renewal;
use super::transfer::{ReceivedTransfer, Whole};
use super::{Membership, back_off, connection, contact, eviction, renewal, report};
use crate::backend::Backend;
use crate::host_state::HostState;
use crate::problem::Problems;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::state::journal::Journal;
use crate::state::{StoreFailure, in_store};

/// Control sends a sign of life every few seconds; a stream that is silent for longer is dead.
const IDLE: Duration = Duration::from_secs(20);

/// The pause of a node whose identity another host uses: it waits for that one to go.
const CLASH: Duration = Duration::from_secs(2);

/// What it takes to follow control.
#[derive(Debug)]
pub(crate) struct Follower {
    /// Whom to follow, and by which connection.
    pub(crate) control: Arc<ControlLink>,
    /// The membership as it was heard last.
    pub(crate) membership: watch::Sender<Membership>,
    /// Whether control lets this host be its node.
    pub(crate) admission: Arc<AdmissionState>,
    /// The host's network, whose changes may end the connection.
    pub(crate) host: Arc<HostState>,
    /// The tunnels, by which others find control when it moves.
    pub(crate) backend: Arc<dyn Backend>,
    /// The certificate, replaced on a fresh connection where it is time.
    pub(crate) renewal: Arc<Renewal>,
    /// Where it is told what is wrong.
    pub(crate) problems: Arc<Problems>,
    /// The endpoints of this node, which control may have to be told of.
    pub(crate) journal: Arc<Journal>,
    /// Which networks are kept as lost.
    pub(crate) kept_lost: Mutex<BTreeMap<NetworkId, String>>,
}

impl Follower {
    fn node(&self) -> NodeId {
        self.control.identity().node
    }

    /// Lists the removed nodes that this one knows of.
    fn revoked(&self) -> Vec<u64> {
        let membership = self.membership.borrow();

        membership.revocations.iter().map(|(node, _)| node.as_u64()).collect()
    }

    /// Makes the next watch begin with a snapshot; the rows stay in use until it arrives.
    fn follow_from_nothing(&self) {
        self.membership.send_modify(|membership| {
            Arc::make_mut(&mut membership.view).revision = Revision(0);
            membership.live = false;
        });
    }
}

/// How a stream ended.
#[derive(Debug)]
enum Ended {
    /// It broke; the view may be continued.
    Broken(BrokenWatch),
    /// What came does not fit the view: it must be fetched whole.
    Astray(String),
    /// Control says that we are no node of it any more.
    Expelled(String),
}

/// Follows control until it throws us out; returns why.
pub(crate) async fn run(follower: &Follower) -> String {
    let mut pauses = back_off();
    let mut own = follower.host.own();
    loop {
        own.mark_unchanged();
        let connected = follower.control.connection.is_connected();
        let ended = connect_and_follow(follower).await;
        // What is wrong with control that does not speak with us is not known.
        hear(&follower.problems, &[]);
        match ended {
            Ended::Expelled(reason) => {
                follower.control.connection.away(&reason);
                return reason;
            }
            Ended::Astray(reason) => {
                tracing::info!(%reason, "Asking control for the whole membership");
                follower.control.connection.away(&reason);
                follower.follow_from_nothing();
            }
            Ended::Broken(error) => {
                if error.code() == Code::IdentityClash {
                    turned_away(follower, &error);
                } else {
                    follower.admission.assume();
                }
                if follower.control.connection.is_connected() && !connected {
                    pauses = back_off();
                }
                follower.control.connection.away(&error);
                if matches!(error, BrokenWatch::Loss(ConnectionLoss::Renumbered(_))) {
                    // Control was not at fault: no need to spare it.
                    continue;
                }
            }
        }
        let turned_away = follower.admission.current() == Admission::TurnedAway;
        let pause = if turned_away { CLASH } else { pauses.next().unwrap_or(IDLE) };
        tokio::select! {
            () = sleep(pause) => {}
            () = follower.control.connection.wanted() => {}
            // The sender belongs to the joined node.
            _ = own.changed() => {}
        }
    }
}

async fn connect_and_follow(follower: &Follower) -> Ended {
    let Dialled { channel, address, local, cutter } = match dial(follower).await {
        Ok(dialled) => dialled,
        Err(error) => return Ended::Broken(error.into()),
    };
    let probe = follower.control.connection.client_of(channel.clone());

    // Also while an answer of control's is waited for.
    tokio::select! {
        ended = open_and_follow(follower, channel, &address) => ended,
        loss = connection_loss::wait(&follower.control, &follower.host, &address, local, probe) => {
            // Whoever else waits for an answer would wait for as long as the kernel does.
            cutter.cut();
            Ended::Broken(loss.into())
        }
    }
}

/// Connects. An attempt from an address that the host may not have any more is begun anew: nothing
/// would answer it.
async fn dial(follower: &Follower) -> Result<Dialled, ConnectError> {
    let mut own = follower.host.own();
    loop {
        let who = follower.control.identity();
        let addresses: Vec<_> =
            follower.control.candidates().into_iter().map(|candidate| candidate.address).collect();
        tokio::select! {
            dialled = connection::dial(&who, &addresses) => return dialled,
            // The sender belongs to the joined node.
            _ = own.changed() => {}
        }
    }
}

async fn open_and_follow(follower: &Follower, channel: Channel, address: &str) -> Ended {
    renewal::renew_if_due(
        &follower.renewal,
        follower.control.connection.client_of(channel.clone()),
    )
    .await;
    let mut opened = open(follower, &channel).await;
    if opened.as_ref().is_err_and(|error| error.code() == Code::ReportWanted) {
        opened = match tell_what_we_hold(follower, &channel).await {
            Ok(()) => open(follower, &channel).await,
            Err(error) => Err(error),
        };
    }
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(error) => return judge(error),
    };
    follower.control.connection.connected(address.to_owned(), channel);
    admitted(follower);
    keep(follower, follower.control.addresses.answered(address).await);

    follow_stream(follower, &mut stream).await
}

/// Opens a watch that goes on where the view stands.
async fn open(
    follower: &Follower,
    channel: &Channel,
) -> Result<Streaming<v1::WatchResponse>, ControlError> {
    let (revision, stamp) = {
        let membership = follower.membership.borrow();
        (membership.view.revision, membership.view.stamp)
    };
    let (lineage, mark) = convert::stamp_fields(stamp);
    let request = v1::WatchRequest {
        revision: revision.0,
        cluster: follower.control.identity().cluster.to_string(),
        instance: follower.control.process.instance.to_string(),
        lineage,
        mark,
        chunks: true,
        reports: true,
        takes_revocations: true,
        revoked: follower.revoked(),
    };

    let mut client = follower.control.connection.client_of(channel.clone());

    connection::call(client.watch(request)).await
}

/// Reports what this node holds, before anything that a restored control says is taken over.
async fn tell_what_we_hold(follower: &Follower, channel: &Channel) -> Result<(), ControlError> {
    let request = {
        let view = Arc::clone(&follower.membership.borrow().view);
        let (node, journal) = (follower.node(), follower.journal.entries());
        let lost = follower.journal.lost(&view, node);
        report::report(&view, node, &journal, lost)
    };
    tracing::warn!(
        members = request.members.len(),
        endpoints = request.endpoints.len(),
        "Control's history began anew, telling it what this node holds"
    );

    let mut client = follower.control.connection.client_of(channel.clone());

    connection::call(client.report(request)).await.map(drop)
}

async fn follow_stream(follower: &Follower, stream: &mut Streaming<v1::WatchResponse>) -> Ended {
    let mut transfer = ReceivedTransfer::default();
    loop {
        let event = match timeout(IDLE, stream.message()).await {
            Ok(Ok(Some(response))) => response.event,
            Ok(Ok(None)) => {
                return Ended::Broken(BrokenWatch::Ended);
            }
            Ok(Err(status)) => return judge(ControlError::new(status)),
            Err(_) => return Ended::Broken(BrokenWatch::Silent),
        };
        follower.control.connection.heard(Instant::now());
        if let Some(Event::Alive(alive)) = &event {
            note_alive(follower, alive).await;
        }
        if let Some(Event::Revocations(news)) = &event {
            let (membership, control) = (&follower.membership, &follower.control);
            if let Some(reason) = eviction::hear_control(membership, control, news).await {
                return Ended::Expelled(reason);
            }
            continue;
        }
        // It comes after the change that may take a peer out.
        let is_alive = matches!(event, Some(Event::Alive(_)));
        if let Err(ended) = handle(follower, event, &mut transfer) {
            return ended;
        }
        if is_alive {
            follower.control.contact.heard(contact::boot_time());
        }
        tell_lost(follower).await;
    }
}

/// Takes note of what control says beside the membership.
async fn note_alive(follower: &Follower, alive: &v1::Alive) {
    if alive.answer
        && let Ok(mut client) = follower.control.connection.client()
    {
        let instance = follower.control.process.instance.to_string();
        // Control that does not hear it takes this process for dead, and the next attempt to
        // connect tells.
        let _ = connection::call(client.confirm(v1::ConfirmRequest { instance })).await;
    }
    if let Some(place) = &alive.control {
        let before = follower.control.addresses.known();
        keep(follower, follower.control.addresses.heard(place).await);
        let now = follower.control.addresses.known();
        if now.nodes.contains(&follower.node()) && before.announced != now.announced {
            // Control is on this host, and only the tunnels from here can still tell the others
            // where it is.
            follower.backend.wake_peers();
        }
    }
    match &alive.clash {
        Some(clash) => {
            let text = format!(
                "another host ({}) uses this node's identity, as if the state directory had been copied there; it was \
                 turned away: on that host run `overlayctl leave` and join with a new token",
                clash.address
            );
            let is_new = !follower.problems.stands(&ProblemKey::Identity);
            follower.problems.raise(ProblemKey::Identity, Code::IdentityClash, text);
            if is_new {
                // The other one may have drawn the peers' packets to itself.
                follower.backend.wake_peers();
            }
        }
        None => follower.problems.clear(&ProblemKey::Identity),
    }
}

fn keep(follower: &Follower, outcome: Result<(), StoreFailure>) {
    match outcome {
        Ok(()) => follower.problems.clear(&ProblemKey::ControlAddresses),
        Err(failure) => {
            follower.problems.raise(ProblemKey::ControlAddresses, failure.code(), failure)
        }
    }
}

/// Carries no packet while another host is this node.
fn turned_away(follower: &Follower, error: &BrokenWatch) {
    follower.problems.raise(
        ProblemKey::Identity,
        error.code(),
        format!("{error}; all tunnels of this host are shut"),
    );
    follower.admission.set(Admission::TurnedAway);
}

/// Carries packets, now that control has let this host in.
fn admitted(follower: &Follower) {
    if follower.admission.set(Admission::Admitted) {
        follower.problems.clear(&ProblemKey::Identity);
    }
}

/// Every node may watch; who may not was taken out. A certificate out of its time is no such thing,
/// and renewed.
fn judge(error: ControlError) -> Ended {
    if error.code() == Code::NotAllowed {
        Ended::Expelled(error.to_string())
    } else {
        Ended::Broken(error.into())
    }
}

fn handle(
    follower: &Follower,
    event: Option<Event>,
    transfer: &mut ReceivedTransfer,
) -> Result<(), Ended> {
    match event {
        Some(Event::Chunk(chunk)) => {
            match transfer.take(chunk).map_err(|error| Ended::Astray(error.to_string()))? {
                Some(Whole::Snapshot(view)) => take_over(follower, view)?,
                Some(Whole::Delta(delta)) => step(follower, delta)?,
                None => return Ok(()),
            }
        }
        Some(Event::Snapshot(snapshot)) => {
            let view = View::try_from(snapshot).map_err(|error| Ended::Broken(error.into()))?;
            take_over(follower, view)?;
        }
        Some(Event::Delta(delta)) => {
            let delta = Delta::try_from(delta).map_err(|error| Ended::Broken(error.into()))?;
            step(follower, delta)?;
        }
        // A sign of life without a change before it: the view we came with is the latest.
        alive @ (Some(Event::Alive(_) | Event::Revocations(_)) | None) => {
            if let Some(Event::Alive(alive)) = alive {
                hear(&follower.problems, &alive.problems);
            }
            follower.membership.send_if_modified(|membership| {
                let becomes_live = !membership.live && membership.view.revision > Revision(0);
                membership.live |= becomes_live;
                becomes_live
            });
        }
    }

    still_a_node(&follower.membership.borrow(), follower.node())
}

fn take_over(follower: &Follower, view: View) -> Result<(), Ended> {
    let node = follower.node();

    follow(&follower.membership, |membership| {
        membership.begin_anew(view, node);
        Ok(())
    })
}

fn step(follower: &Follower, delta: Delta) -> Result<(), Ended> {
    let node = follower.node();

    follow(&follower.membership, |membership| go_on(membership, delta, node))
}

/// Tells of networks that control lost while endpoints of this node are on them, and keeps which
/// these are: after a restart they must not be taken for removed.
async fn tell_lost(follower: &Follower) {
    let lost = follower.membership.borrow().lost.clone();
    let before = std::mem::replace(
        &mut *follower.kept_lost.lock().unwrap_or_else(PoisonError::into_inner),
        lost.clone(),
    );
    if lost.is_empty() && before.is_empty() {
        return;
    }
    if lost != before {
        let kept = lost.clone();
        // The store reports its own failure.
        let _ =
            in_store(&follower.renewal.store, move |store| store.put_lost_networks(&kept)).await;
    }
    let told = |network: &NetworkId| follower.problems.stands(&ProblemKey::LostNetwork(*network));
    let used = follower.journal.networks();
    let stands = |id: &NetworkId| lost.contains_key(id) && used.contains(id);
    follower.problems.retain(|key| !matches!(key, ProblemKey::LostNetwork(id) if !stands(id)));
    for (network, title) in lost.iter().filter(|(id, _)| used.contains(id) && !told(id)) {
        follower.problems.raise(
            ProblemKey::LostNetwork(*network),
            ProblemCode::NetworkLost,
            format!(
                "control was restored from a backup made before network {title}: its endpoints on \
                 this host are cut off; make it again and start them anew, or detach them"
            ),
        );
    }
}

/// Takes over what control says that it cannot do.
fn hear(problems: &Problems, told: &[v1::ControlProblem]) {
    let is_told = |code: &String| told.iter().any(|problem| problem.code == *code);
    problems.retain(|key| !matches!(key, ProblemKey::Control(code) if !is_told(code)));
    for problem in told {
        let code = match problem.code.as_str() {
            "storage" => ProblemCode::ControlStorage,
            "log" => ProblemCode::ControlLog,
            "descriptors" => ProblemCode::ControlDescriptors,
            "restored" => ProblemCode::ControlRestored,
            _ => ProblemCode::ControlTrouble,
        };
        problems.raise(
            ProblemKey::Control(problem.code.clone()),
            code,
            format!("on control's host: {}", problem.text),
        );
    }
}

fn follow(
    membership: &watch::Sender<Membership>,
    step: impl FnOnce(&mut Membership) -> Result<(), Ended>,
) -> Result<(), Ended> {
    let mut outcome = Ok(());
    membership.send_if_modified(|membership| {
        outcome = step(membership);
        membership.live |= outcome.is_ok();
        outcome.is_ok()
    });

    outcome
}

/// Goes one delta further.
fn go_on(membership: &mut Membership, delta: Delta, node: NodeId) -> Result<(), Ended> {
    membership.go_on(delta, node).map_err(|gap| Ended::Astray(gap.to_string()))
}

/// Our own row is always visible to us; where it is gone, we are.
fn still_a_node(membership: &Membership, node: NodeId) -> Result<(), Ended> {
    if membership.live && !membership.view.nodes.contains_key(&node) {
        return Err(Ended::Expelled("an administrator removed this node".to_owned()));
    }

    Ok(())
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
