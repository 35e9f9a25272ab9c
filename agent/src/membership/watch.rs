//! Follows the membership: one stream, resumed where it broke off, begun anew after a gap.

use std::sync::Arc;
use std::time::Duration;

use overlay_core::{Delta, NodeId, Revision, View};
use overlay_proto::channel::Dialled;
use overlay_proto::v1::watch_response::Event;
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::{Membership, back_off, link, renewal};
use crate::problem::Problems;
use crate::session::Session;

/// Control sends a sign of life every few seconds; a stream that is silent for longer is dead.
const IDLE: Duration = Duration::from_secs(20);

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
pub(crate) async fn run(session: &Session) -> String {
    let mut pauses = back_off();
    loop {
        let connected = session.link.is_connected();
        let ended = connect_and_follow(session).await;
        // What is wrong with control that does not speak with us is not known.
        hear(&session.problems, &[]);
        match ended {
            Ended::Expelled(reason) => {
                session.link.away(&reason);
                return reason;
            }
            Ended::Astray(reason) => {
                tracing::info!(%reason, "Asking control for the whole membership");
                session.link.away(&reason);
                session.follow_from_nothing();
            }
            Ended::Broken(refusal) => {
                if session.link.is_connected() && !connected {
                    pauses = back_off();
                }
                session.link.away(&refusal);
            }
        }
        tokio::select! {
            () = sleep(pauses.next().unwrap_or(IDLE)) => {}
            () = session.link.wanted() => {}
        }
    }
}

async fn connect_and_follow(session: &Session) -> Ended {
    let who = session.identity();
    let Dialled { channel, address, .. } = match link::dial(&who).await {
        Ok(dialled) => dialled,
        Err(refusal) => return Ended::Broken(refusal),
    };
    renewal::renew_if_due(session, link::client(channel.clone())).await;
    let request = v1::WatchRequest { revision: session.followed().0, cluster: who.cluster.to_string() };
    let opened = link::call(link::client(channel.clone()).watch(request)).await;
    let mut stream = match opened {
        Ok(stream) => stream,
        Err(refusal) => return judge(refusal),
    };
    session.link.connected(address, channel);

    loop {
        let event = match timeout(IDLE, stream.message()).await {
            Ok(Ok(Some(response))) => response.event,
            Ok(Ok(None)) => return Ended::Broken(Refusal::new(Code::ControlAway, "control ended the watch")),
            Ok(Err(status)) => return judge(link::judge(status)),
            Err(_) => return Ended::Broken(Refusal::new(Code::ControlAway, "control fell silent")),
        };
        if let Err(ended) = handle(session, event) {
            return ended;
        }
    }
}

/// Every node may watch; who may not was taken out. A certificate out of its time is no such thing, and renewed.
fn judge(refusal: Refusal) -> Ended {
    if refusal.code == Code::NotAllowed { Ended::Expelled(refusal.message) } else { Ended::Broken(refusal) }
}

fn handle(session: &Session, event: Option<Event>) -> Result<(), Ended> {
    match event {
        Some(Event::Snapshot(snapshot)) => {
            let view = View::try_from(snapshot).map_err(Ended::Broken)?;
            follow(&session.membership, |known| {
                *known = Arc::new(view);
                Ok(())
            })?;
        }
        Some(Event::Delta(delta)) => {
            let delta = Delta::try_from(delta).map_err(Ended::Broken)?;
            follow(&session.membership, |view| go_on(view, delta))?;
        }
        // A sign of life without a change before it: the view we came with is the latest.
        alive @ (Some(Event::Alive(_)) | None) => {
            if let Some(Event::Alive(alive)) = alive {
                hear(&session.problems, &alive.problems);
            }
            session.membership.send_if_modified(|membership| {
                let becomes_live = !membership.live && membership.view.revision > Revision(0);
                membership.live |= becomes_live;
                becomes_live
            });
        }
    }

    still_a_node(&session.membership.borrow(), session.node)
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
