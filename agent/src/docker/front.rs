//! Puts a front resolver into every container that is on a network of ours, and takes it away again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_core::NetworkId;
use tokio::time::sleep;

use crate::dns::Front;
use crate::endpoint::journal::Entries;
use crate::kernel::Netns;
use crate::problem::explain;
use crate::session::Session;

/// How soon a namespace that is not there yet is looked for again: an engine makes it milliseconds after it was told of.
const SOON: Duration = Duration::from_millis(20);
/// How soon, once it has been looked for often.
const LATER: Duration = Duration::from_secs(1);
/// How often is often.
const OFTEN: u32 = 250;

/// Serves the containers for as long as the session lasts.
pub(super) async fn run(session: &Session) {
    let mut journal = session.journal.subscribe();
    let mut fronts: BTreeMap<PathBuf, Front> = BTreeMap::new();
    let mut tries: BTreeMap<PathBuf, u32> = BTreeMap::new();
    loop {
        let wanted = wanted(&journal.borrow_and_update());
        fronts.retain(|path, _| wanted.contains_key(path));
        tries.retain(|path, _| wanted.contains_key(path));
        let mut waiting = None;
        for (path, scope) in wanted {
            if let Some(front) = fronts.get(&path) {
                front.set_scope(scope);
                continue;
            }
            match open(session, &path, scope).await {
                Ok(front) => {
                    tries.remove(&path);
                    fronts.insert(path, front);
                    session.problems.clear("docker names");
                }
                Err(why) => {
                    let tried = tries.entry(path).or_default();
                    *tried += 1;
                    if let (Some(text), true) = (why, *tried >= OFTEN) {
                        session.problems.raise("docker names", "kernel", text);
                    }
                    let pause = if *tried < OFTEN { SOON } else { LATER };
                    waiting = Some(waiting.map_or(pause, |known: Duration| known.min(pause)));
                }
            }
        }
        let pause = async {
            match waiting {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = journal.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

/// Lists the sandboxes with the networks that each is on.
fn wanted(entries: &Entries) -> BTreeMap<PathBuf, BTreeSet<NetworkId>> {
    let mut wanted: BTreeMap<PathBuf, BTreeSet<NetworkId>> = BTreeMap::new();
    for record in entries.values() {
        if let Some(netns) = record.sandbox.docker().and_then(|docker| docker.netns.clone()) {
            wanted.entry(netns).or_default().insert(record.endpoint.network);
        }
    }

    wanted
}

/// Opens a front; nothing to tell where the namespace is simply not there yet.
async fn open(session: &Session, path: &Path, scope: BTreeSet<NetworkId>) -> Result<Front, Option<String>> {
    let netns = Netns::open(path).map_err(|_| None)?;
    let opened = Front::open(&netns, scope, session.names.subscribe()).await;

    opened
        .map_err(|error| Some(format!("names of other hosts are not known in {}: {}", path.display(), explain(&error))))
}
