//! Networks with a lease: a node that has not heard control for that long carries no packet of
//! theirs any more, for a peer may have been removed without its hearing of it. Once control is
//! heard, they are carried at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{NetworkId, NodeId, View};
use tokio::sync::watch;
use tokio::time::sleep;

use super::Membership;
use super::contact::{Contact, boot_time};
use crate::problem::Problems;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// The longest pause between two looks at the clock, which goes on while the host sleeps and timers
/// do not.
const LOOK: Duration = Duration::from_secs(1);

/// The leases of this node's networks, by what people call these.
type Leases = BTreeMap<NetworkId, (String, Duration)>;

/// Lists the networks of a node whose lease has run out.
pub(crate) fn lapsed(view: &View, node: NodeId, contact: &Contact) -> Arc<BTreeSet<NetworkId>> {
    Arc::new(run_out(&leases(view, node), contact.last(), boot_time()))
}

/// Keeps `lapsed` and what is said of it, while the node is joined.
pub(crate) async fn run(
    node: NodeId,
    mut membership: watch::Receiver<Membership>,
    contact: &Contact,
    lapsed: &watch::Sender<Arc<BTreeSet<NetworkId>>>,
    problems: &Problems,
) {
    let mut heard = contact.subscribe();
    loop {
        let leases = leases(&membership.borrow_and_update().view, node);
        let last = *heard.borrow_and_update();
        let now = boot_time();
        let over = run_out(&leases, last, now);
        tell(problems, &leases, &over, last, now);
        lapsed.send_if_modified(|known| {
            let is_new = **known != over;
            if is_new {
                *known = Arc::new(over);
            }
            is_new
        });
        tokio::select! {
            changed = membership.changed() => if changed.is_err() { return },
            // The contact is the joined node's.
            _ = heard.changed() => {}
            () = sleep(LOOK), if !leases.is_empty() => {}
        }
    }
}

/// Lists the leases of the networks that a node is in.
fn leases(view: &View, node: NodeId) -> Leases {
    let networks = view.networks.values().filter(|it| view.member(it.id, node).is_some());
    let with = networks.filter_map(|it| Some((it, it.settings.lease?)));

    with.map(|(it, lease)| (it.id, (it.title().to_owned(), lease.duration()))).collect()
}

/// Lists the networks whose lease has run out. What was never heard has not been heard for ever.
fn run_out(leases: &Leases, last: Option<Duration>, now: Duration) -> BTreeSet<NetworkId> {
    let age = last.map(|last| now.saturating_sub(last));
    let is_over = |lease: &Duration| age.is_none_or(|age| age >= *lease);

    leases.iter().filter(|(_, (_, lease))| is_over(lease)).map(|(id, _)| *id).collect()
}

fn tell(
    problems: &Problems,
    leases: &Leases,
    over: &BTreeSet<NetworkId>,
    last: Option<Duration>,
    now: Duration,
) {
    problems.retain(|key| !matches!(key, ProblemKey::Lease(network) if !over.contains(network)));
    let since = match last {
        Some(last) => format!("for {} s", now.saturating_sub(last).as_secs()),
        None => "since this host or its agent started".to_owned(),
    };
    for (id, (name, lease)) in leases.iter().filter(|(id, _)| over.contains(id)) {
        let text = format!(
            "control was not heard {since}, and the lease of network {name} is {} s: no packet \
             passes between hosts on it until control is heard; have this host reach control, or \
             on a host that does: overlayctl network set {name} --no-lease",
            lease.as_secs()
        );
        problems.raise(ProblemKey::Lease(*id), ProblemCode::Lease, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn leases() -> Leases {
        let (short, long) = (NetworkId::FIRST, NetworkId::LAST);

        [(short, ("short".to_owned(), SECOND * 10)), (long, ("long".to_owned(), SECOND * 60))]
            .into()
    }

    #[test]
    fn a_lease_runs_out_when_control_was_not_heard_for_so_long() {
        let over = |last, now| run_out(&leases(), last, SECOND * now).len();

        assert_eq!(over(Some(SECOND * 100), 109), 0);
        assert_eq!(over(Some(SECOND * 100), 110), 1);
        assert_eq!(over(Some(SECOND * 100), 160), 2);
        assert_eq!(over(None, 1), 2, "after a restart, until control is heard");
        assert_eq!(over(Some(SECOND * 100), 50), 0, "a clock that went back is no reason");
    }

    #[test]
    fn it_is_told_why_and_what_to_do_until_it_is_over() {
        let (problems, known) = (Problems::default(), leases());
        let short = BTreeSet::from([NetworkId::FIRST]);

        tell(&problems, &known, &short, Some(SECOND * 100), SECOND * 112);

        let text = problems.text(&ProblemKey::Lease(NetworkId::FIRST)).expect("it is told");
        assert!(
            text.starts_with(
                "control was not heard for 12 s, and the lease of network short is 10 s"
            )
        );
        assert!(text.ends_with("overlayctl network set short --no-lease"), "{text}");
        assert!(!problems.stands(&ProblemKey::Lease(NetworkId::LAST)));
        tell(&problems, &known, &BTreeSet::new(), Some(SECOND * 112), SECOND * 112);
        assert!(!problems.stands(&ProblemKey::Lease(NetworkId::FIRST)));
    }
}
