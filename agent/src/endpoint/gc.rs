//! Garbage collection: removes endpoints whose process or namespace is gone.
//!
//! The kernel reports when a process ends or a namespace is unmounted; a slow sweep finds the rest.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;
use std::time::Duration;

use overlay_core::EndpointId;
use tokio::time::{Instant, sleep_until};

use super::cut_off::CutOff;
use super::lifecycle::Endpoints;
use super::sandbox;
use crate::kernel::{MountEvents, ProcessExits};
use crate::membership::Membership;
use crate::reconcile::{EndpointState, NetworkReports};
use crate::state::journal::Entries;
use crate::state::{EndpointRecord, SandboxRecord};

/// How often some endpoints are checked without an event. A check reads one small file of `/proc`
/// and does one `stat`.
const SWEEP: Duration = Duration::from_secs(15);
/// How many are checked at a time, in turn.
const A_SWEEP: usize = 500;
/// How often endpoints are checked whose end causes no event.
const LOOK: Duration = Duration::from_millis(500);

/// Watches while the node is joined.
pub(crate) async fn run(endpoints: &Endpoints) {
    let mut journal = endpoints.journal.subscribe();
    let mut membership = endpoints.memberships.membership.subscribe();
    let mut networks = endpoints.reports.subscribe();
    let mut watch = Watch::new();
    let mut cut_off = CutOff::default();
    let mut sweep = Instant::now();
    loop {
        let entries = Arc::clone(&journal.borrow_and_update());
        let mut suspects = watch.follow(&entries);
        suspects.append(&mut watch.heard);
        suspects.extend(watch.deaf());
        suspects.extend(gone(&networks.borrow_and_update()));
        if Instant::now() >= sweep {
            sweep = Instant::now() + SWEEP;
            suspects.extend(watch.turn(&entries));
        }
        let is_done = remove_lost(endpoints, &entries, &suspects, &mut cut_off).await;
        cut_off.review(&endpoints.memberships.membership.borrow().view, &endpoints.problems);
        let again = if is_done && watch.deaf().next().is_none() {
            sweep
        } else {
            sweep.min(Instant::now() + LOOK)
        };
        tokio::select! {
            // The senders belong to the joined node.
            _ = journal.changed() => {}
            _ = membership.changed() => {}
            _ = networks.changed() => {}
            () = watch.hears(&entries) => {}
            () = sleep_until(again) => {}
        }
        if !is_done {
            watch.heard.append(&mut suspects);
        }
    }
}

/// Lists the endpoints whose sandbox was not found.
fn gone(reports: &NetworkReports) -> impl Iterator<Item = EndpointId> {
    let states = reports.values().flat_map(|report| &report.endpoints);

    states.filter(|(_, state)| matches!(state, EndpointState::Gone(_))).map(|(id, _)| *id)
}

/// Removes those of the suspects that have lost what they lived in, and all whose network was
/// removed; tells whether that could be written.
async fn remove_lost(
    endpoints: &Endpoints,
    entries: &Entries,
    suspects: &BTreeSet<EndpointId>,
    cut_off: &mut CutOff,
) -> bool {
    let mut is_done = true;
    let mut lost: BTreeMap<&'static str, Vec<EndpointId>> = BTreeMap::new();
    for (id, record) in entries.iter() {
        let why = lost_network(&endpoints.memberships.membership.borrow(), record)
            .or_else(|| suspects.contains(id).then(|| sandbox::lost(record)).flatten());
        if let Some(why) = why {
            lost.entry(why).or_default().push(*id);
        }
    }
    for (why, ids) in lost {
        match endpoints.remove(ids, why).await {
            Ok(removed) => {
                let membership = endpoints.memberships.membership.borrow();
                cut_off.note(&membership.put_out, removed, &endpoints.problems);
            }
            Err(error) => {
                // The store says itself that it keeps nothing; the next look tries again.
                tracing::debug!(%error, "Failed to write the journal");
                is_done = false;
            }
        }
    }

    is_done
}

fn lost_network(membership: &Membership, record: &EndpointRecord) -> Option<&'static str> {
    let network = record.endpoint.network;
    // A network that containers of an engine are on comes back rather than that they lose it.
    if record.sandbox.is_managed()
        || !membership.live
        || membership.lost.contains_key(&network)
        || membership.view.networks.contains_key(&network)
    {
        return None;
    }

    Some(if membership.put_out.contains_key(&network) {
        "this node may not enter its network any more"
    } else {
        "its network was removed"
    })
}

/// The watched endpoints and the events received.
struct Watch {
    exits: Option<ProcessExits>,
    mounts: Option<MountEvents>,
    /// The watched endpoints, and whether their end causes an event.
    known: BTreeMap<EndpointId, bool>,
    /// Endpoints that may have ended.
    heard: BTreeSet<EndpointId>,
    /// Where the last sweep stopped.
    looked_at: Option<EndpointId>,
}

impl Watch {
    fn new() -> Self {
        let (exits, mounts) = (ProcessExits::open().ok(), MountEvents::open().ok());

        Self { exits, mounts, known: BTreeMap::new(), heard: BTreeSet::new(), looked_at: None }
    }

    /// Watches the endpoints of the journal; returns those that are new, which may have ended
    /// already.
    fn follow(&mut self, entries: &Entries) -> BTreeSet<EndpointId> {
        let gone: Vec<_> =
            self.known.keys().filter(|id| !entries.contains_key(id)).copied().collect();
        for id in gone {
            self.known.remove(&id);
            if let Some(exits) = &mut self.exits {
                exits.forget(id.as_u64());
            }
        }
        let mut new = BTreeSet::new();
        for (id, record) in entries.iter() {
            if !self.known.contains_key(id) {
                let is_heard = self.watch(*id, record).is_ok();
                self.known.insert(*id, is_heard);
                new.insert(*id);
            }
        }

        new
    }

    /// Watches the processes whose end is that of the endpoint.
    fn watch(&mut self, id: EndpointId, record: &EndpointRecord) -> io::Result<()> {
        let host = match &record.sandbox {
            SandboxRecord::Netns { path, .. } => process_of(path),
            SandboxRecord::Host | SandboxRecord::Managed(_) => None,
        };
        for pid in record.owner.map(|owner| owner.pid).into_iter().chain(host) {
            let exits = self.exits.as_mut().ok_or(io::ErrorKind::Unsupported)?;
            exits.watch(id.as_u64(), pid)?;
        }

        Ok(())
    }

    /// Lists the endpoints whose end causes no event, because file descriptors are exhausted.
    fn deaf(&self) -> impl Iterator<Item = EndpointId> {
        self.known.iter().filter(|(_, is_heard)| !**is_heard).map(|(id, _)| *id)
    }

    /// Lists the endpoints to check next.
    fn turn(&mut self, entries: &Entries) -> BTreeSet<EndpointId> {
        let after = entries.keys().filter(|id| self.looked_at.is_none_or(|last| **id > last));
        let turn: Vec<_> = after.take(A_SWEEP).copied().collect();
        self.looked_at = turn.last().filter(|_| turn.len() == A_SWEEP).copied();

        turn.into_iter().collect()
    }

    /// Waits for an event and records the endpoints it concerns. Safe to cancel.
    async fn hears(&mut self, entries: &Entries) {
        let Self { exits, mounts, heard, known, .. } = self;
        let ended = async {
            match exits.as_mut() {
                Some(exits) => exits.ended().await,
                None => std::future::pending().await,
            }
        };
        let remounted = async {
            match mounts.as_mut() {
                Some(mounts) => mounts.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = ended => match ended {
                Ok(keys) => heard.extend(entries.keys().filter(|id| keys.contains(&id.as_u64())).copied()),
                Err(_) => {
                    *exits = None;
                    known.values_mut().for_each(|is_heard| *is_heard = false);
                }
            },
            remounted = remounted => match remounted {
                Ok(()) => heard.extend(entries.iter().filter(|(_, record)| is_mounted(record)).map(|(id, _)| *id)),
                Err(_) => *mounts = None,
            },
        }
    }
}

/// Whether the endpoint's namespace is at a path that something is mounted on.
fn is_mounted(record: &EndpointRecord) -> bool {
    match &record.sandbox {
        SandboxRecord::Netns { path, .. } => process_of(path).is_none(),
        SandboxRecord::Host | SandboxRecord::Managed(_) => false,
    }
}

/// Finds the process in a path such as `/proc/PID/ns/net`.
fn process_of(path: &Path) -> Option<u32> {
    let mut parts = path.strip_prefix("/proc").ok()?.components();

    match parts.next()? {
        Component::Normal(number) => number.to_str()?.parse().ok(),
        Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_below_proc_names_its_process() {
        assert_eq!(process_of(Path::new("/proc/42/ns/net")), Some(42));
        assert_eq!(process_of(Path::new("/proc/self/ns/net")), None);
        assert_eq!(process_of(Path::new("/run/netns/42")), None);
    }
}
