//! Follows the membership: one stream, resumed where it broke off, begun anew after a gap.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{Delta, NodeId, Revision, View};
use overlay_proto::channel::{self, Dialled};
use overlay_proto::v1::control_client::ControlClient;
use overlay_proto::v1::watch_response::Event;
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Membership, back_off, connection, renewal};
use crate::joined_node::{Admission, JoinedNode};
use crate::problem::Problems;

/// Control sends a sign of life every few seconds; a stream that is silent for longer is dead.
const IDLE: Duration = Duration::from_secs(20);

/// How long the address in use may take to show that it is still there, when there is reason to doubt.
const DOUBT: Duration = Duration::from_secs(1);
/// The least time between two probes of a connection: a host may change all the time.
const PROBE_PACE: Duration = Duration::from_secs(1);
/// The pause of a node whose identity another host uses: it waits for that one to go.
const CLASH: Duration = Duration::from_secs(2);

/// How a stream ended.
#[derive(Debug)]
enum Ended {
    /// It broke; the view may be continued.
    Broken(Refusal),
    /// What came does not fit the view: it must be fetched whole.
    Astray(String),
    /// Control says that we are no node of it any more.
    Expelled(String),
}

/// Follows control until it throws us out; returns why.
pub(crate) async fn run(joined: &JoinedNode) -> String {
    let mut pauses = back_off();
    loop {
        let connected = joined.connection.is_connected();
        let ended = connect_and_follow(joined).await;
        // What is wrong with control that does not speak with us is not known.
        hear(&joined.problems, &[]);
        match ended {
            Ended::Expelled(reason) => {
                joined.connection.away(&reason);
                return reason;
            }
            Ended::Astray(reason) => {
                tracing::info!(%reason, "Asking control for the whole membership");
                joined.connection.away(&reason);
                joined.follow_from_nothing();
            }
            Ended::Broken(refusal) => {
                if refusal.code == Code::IdentityClash {
                    turned_away(joined, &refusal);
                } else {
                    joined.assume_admission();
                }
                if joined.connection.is_connected() && !connected {
                    pauses = back_off();
                }
                joined.connection.away(&refusal);
            }
        }
        let turned_away = *joined.admission.borrow() == Admission::TurnedAway;
        let pause = if turned_away { CLASH } else { pauses.next().unwrap_or(IDLE) };
        tokio::select! {
            () = sleep(pause) => {}
            () = joined.connection.wanted() => {}
        }
    }
}

async fn connect_and_follow(joined: &JoinedNode) -> Ended {
    let who = joined.identity();
    let addresses: Vec<_> = joined.control_candidates().into_iter().map(|candidate| candidate.address).collect();
    let Dialled { channel, address, local } = match connection::dial(&who, &addresses).await {
        Ok(dialled) => dialled,
        Err(refusal) => return Ended::Broken(refusal),
    };
    renewal::renew_if_due(joined, connection::client(channel.clone())).await;
    let request = v1::WatchRequest {
        revision: joined.followed().0,
        cluster: who.cluster.to_string(),
        instance: joined.process.instance.to_string(),
    };
    let opened = connection::call(connection::client(channel.clone()).watch(request)).await;
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(refusal) => return judge(refusal),
    };
    let probe = connection::client(channel.clone());
    joined.connection.connected(address.clone(), channel);
    admitted(joined);
    keep(joined, joined.control.answered(&address).await);

    // Also while an answer of control's is waited for.
    tokio::select! {
        ended = follow_stream(joined, &mut stream) => ended,
        refusal = doubt(joined, &address, local, probe) => Ended::Broken(refusal),
    }
}

async fn follow_stream(joined: &JoinedNode, stream: &mut Streaming<v1::WatchResponse>) -> Ended {
    loop {
        let event = match timeout(IDLE, stream.message()).await {
            Ok(Ok(Some(response))) => response.event,
            Ok(Ok(None)) => return Ended::Broken(Refusal::new(Code::ControlAway, "control ended the watch")),
            Ok(Err(status)) => return judge(connection::judge(status)),
            Err(_) => return Ended::Broken(Refusal::new(Code::ControlAway, "control fell silent")),
        };
        joined.connection.heard(Instant::now());
        if let Some(Event::Alive(alive)) = &event {
            note_alive(joined, alive).await;
        }
        if let Err(ended) = handle(joined, event) {
            return ended;
        }
    }
}

/// Takes note of what control says beside the membership.
async fn note_alive(joined: &JoinedNode, alive: &v1::Alive) {
    if alive.answer
        && let Ok(mut client) = joined.connection.client()
    {
        let instance = joined.process.instance.to_string();
        // Control that does not hear it takes this process for dead, and the next attempt to connect tells.
        let _ = connection::call(client.confirm(v1::ConfirmRequest { instance })).await;
    }
    if let Some(place) = &alive.control {
        let before = joined.control.known();
        keep(joined, joined.control.heard(place).await);
        let now = joined.control.known();
        if now.nodes.contains(&joined.node) && before.announced != now.announced {
            // Control is on this host, and only the tunnels from here can still tell the others where it is.
            let _ = joined.lanes.wake_peers();
        }
    }
    match &alive.clash {
        Some(clash) => {
            let text = format!(
                "another host ({}) uses this node's identity, as if the state directory had been copied there; it was \
                 turned away: on that host run `overlayctl leave` and join with a new token",
                clash.address
            );
            let is_new = !joined.problems.stands("identity");
            joined.problems.raise("identity", Code::IdentityClash.as_str(), text);
            if is_new {
                // The other one may have drawn the peers' packets to itself.
                let _ = joined.lanes.wake_peers();
            }
        }
        None => joined.problems.clear("identity"),
    }
}

fn keep(joined: &JoinedNode, outcome: Result<(), Refusal>) {
    match outcome {
        Ok(()) => joined.problems.clear("control-addresses"),
        Err(refusal) => joined.problems.raise("control-addresses", refusal.code.as_str(), refusal),
    }
}

/// Carries no packet while another host is this node.
fn turned_away(joined: &JoinedNode, refusal: &Refusal) {
    joined.problems.raise("identity", refusal.code.as_str(), format!("{refusal}; all tunnels of this host are shut"));
    joined.set_admission(Admission::TurnedAway);
}

/// Carries packets, now that control has let this host in.
fn admitted(joined: &JoinedNode) {
    if joined.set_admission(Admission::Admitted) {
        joined.problems.clear("identity");
    }
}

/// Waits until the connection is dead for a reason that is known before the kernel gives it up: this host does not have its
/// end of it any more, its network has changed and control does not answer by the connection, or control's host has moved
/// and does not answer where it was.
async fn doubt(joined: &JoinedNode, address: &str, local: IpAddr, probe: ControlClient<Channel>) -> Refusal {
    let (mut own, mut ways) = (joined.own(), joined.ways());
    // What changed while the connection was made was heard of by nobody.
    own.mark_changed();
    let mut tunnels = joined.process.tunnels.clone();
    let of_control = |tunnels: &BTreeMap<NodeId, IpAddr>| -> Vec<IpAddr> {
        let nodes = joined.control.known().nodes;
        nodes.iter().filter_map(|node| tunnels.get(node)).copied().collect()
    };
    let mut seen = of_control(&tunnels.borrow_and_update());
    loop {
        tokio::select! {
            _ = own.changed() => {
                let own = own.borrow_and_update();
                if !own.is_empty() && !own.contains(&local) && !local.is_loopback() {
                    return Refusal::new(Code::ControlAway, format!("this host does not have {local} any more"));
                }
            }
            _ = ways.changed() => {
                if !is_answered(probe.clone()).await {
                    let text = format!("control at {address} does not answer since this host's network changed");
                    return Refusal::new(Code::ControlAway, text);
                }
                sleep(PROBE_PACE).await;
            }
            _ = tunnels.changed() => {
                let now = of_control(&tunnels.borrow_and_update());
                if std::mem::replace(&mut seen, now.clone()) != now && !channel::is_reachable(address, DOUBT).await {
                    return Refusal::new(Code::ControlAway, format!("control has moved from {address}"));
                }
            }
        }
    }
}

/// Tells whether control answers by a connection soon; whatever it answers.
async fn is_answered(mut client: ControlClient<Channel>) -> bool {
    match timeout(DOUBT, client.version(v1::VersionRequest {})).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => connection::judge(status).code != Code::ControlAway,
        Err(_) => false,
    }
}

/// Every node may watch; who may not was taken out. A certificate out of its time is no such thing, and renewed.
fn judge(refusal: Refusal) -> Ended {
    if refusal.code == Code::NotAllowed { Ended::Expelled(refusal.message) } else { Ended::Broken(refusal) }
}

fn handle(joined: &JoinedNode, event: Option<Event>) -> Result<(), Ended> {
    match event {
        Some(Event::Snapshot(snapshot)) => {
            let view = View::try_from(snapshot).map_err(Ended::Broken)?;
            follow(&joined.membership, |known| {
                *known = Arc::new(view);
                Ok(())
            })?;
        }
        Some(Event::Delta(delta)) => {
            let delta = Delta::try_from(delta).map_err(Ended::Broken)?;
            follow(&joined.membership, |view| go_on(view, delta))?;
        }
        // A sign of life without a change before it: the view we came with is the latest.
        alive @ (Some(Event::Alive(_)) | None) => {
            if let Some(Event::Alive(alive)) = alive {
                hear(&joined.problems, &alive.problems);
            }
            joined.membership.send_if_modified(|membership| {
                let becomes_live = !membership.live && membership.view.revision > Revision(0);
                membership.live |= becomes_live;
                becomes_live
            });
        }
    }

    still_a_node(&joined.membership.borrow(), joined.node)
}

/// Under this are the problems that control has itself.
const OF_CONTROL: &str = "control's ";

/// Takes over what control says that it cannot do.
fn hear(problems: &Problems, told: &[v1::ControlProblem]) {
    problems.keep_only(OF_CONTROL, |about| told.iter().any(|problem| about[OF_CONTROL.len()..] == problem.code));
    for problem in told {
        let code = match problem.code.as_str() {
            "storage" => "control-storage",
            "log" => "control-log",
            "descriptors" => "control-descriptors",
            _ => "control-trouble",
        };
        problems.raise(&format!("{OF_CONTROL}{}", problem.code), code, format!("on control's host: {}", problem.text));
    }
}

fn follow(
    membership: &watch::Sender<Membership>,
    step: impl FnOnce(&mut Arc<View>) -> Result<(), Ended>,
) -> Result<(), Ended> {
    let mut outcome = Ok(());
    membership.send_if_modified(|membership| {
        outcome = step(&mut membership.view);
        membership.live |= outcome.is_ok();
        outcome.is_ok()
    });

    outcome
}

/// Goes one delta further: in place, unless somebody still reads the view as it was. Whole views are most of what an agent holds
/// while many nodes join.
fn go_on(view: &mut Arc<View>, delta: Delta) -> Result<(), Ended> {
    Arc::make_mut(view).apply_delta(delta).map_err(|gap| Ended::Astray(gap.to_string()))
}

/// Our own row is always visible to us; where it is gone, we are.
fn still_a_node(membership: &Membership, node: NodeId) -> Result<(), Ended> {
    if membership.live && !membership.view.nodes.contains_key(&node) {
        return Err(Ended::Expelled("an administrator removed this node".to_owned()));
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Invariant 9.
    #[test]
    fn a_delta_that_does_not_fit_leaves_the_view_alone() {
        let membership = watch::Sender::new(Membership::default());
        let delta = Delta { from: Revision(4), to: Revision(5), changes: Vec::new() };

        let refused = follow(&membership, |view| go_on(view, delta));

        assert!(matches!(refused, Err(Ended::Astray(_))));
        assert_eq!(*membership.borrow(), Membership::default());
    }

    #[test]
    fn who_still_reads_a_view_keeps_it_as_it_was() {
        let membership = watch::Sender::new(Membership::default());
        let read = Arc::clone(&membership.borrow().view);
        let delta = Delta { from: Revision(0), to: Revision(1), changes: Vec::new() };

        follow(&membership, |view| go_on(view, delta)).expect("it starts there");

        assert_eq!(read.revision, Revision(0));
        assert_eq!(membership.borrow().view.revision, Revision(1));
        assert!(membership.borrow().live);
    }

    #[test]
    fn a_live_view_without_our_row_means_expulsion_and_a_kept_one_does_not() {
        let membership = |live| Membership { view: Arc::default(), live };

        assert!(matches!(still_a_node(&membership(true), NodeId::FIRST), Err(Ended::Expelled(_))));
        assert!(still_a_node(&membership(false), NodeId::FIRST).is_ok());
    }

    #[test]
    fn what_control_cannot_do_is_a_problem_here_until_it_can() {
        let problems = Problems::default();
        let told = |code: &str| v1::ControlProblem { code: code.into(), text: "full".into(), since_unix: 1 };

        hear(&problems, &[told("storage"), told("of a later version")]);
        let codes: Vec<_> = problems.list().into_iter().map(|problem| problem.code).collect();
        hear(&problems, &[told("of a later version")]);

        assert_eq!(codes, ["control-trouble", "control-storage"]);
        assert_eq!(problems.list().len(), 1);
        hear(&problems, &[]);
        assert_eq!(problems.list(), []);
    }

    #[test]
    fn only_a_removed_node_is_expelled() {
        assert!(matches!(judge(Refusal::new(Code::NotAllowed, "removed")), Ended::Expelled(_)));
        assert!(matches!(judge(Refusal::new(Code::NotAuthenticated, "expired")), Ended::Broken(_)));
        assert!(matches!(judge(Refusal::new(Code::ControlAway, "gone")), Ended::Broken(_)));
        assert!(matches!(judge(Refusal::new(Code::Fault, "oops")), Ended::Broken(_)));
    }
}
