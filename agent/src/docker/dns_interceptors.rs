//! Runs a DNS interceptor in every container on a network of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overlay_core::NetworkId;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::dns::{DnsInterceptor, Names};
use crate::kernel::Netns;
use crate::problem::{Problems, explain};
use crate::state::journal::{Entries, Journal};

/// How soon a namespace that does not exist yet is tried again: Docker creates it milliseconds after it announced it.
const SOON: Duration = Duration::from_millis(20);
/// How soon it is tried again after many attempts.
const LATER: Duration = Duration::from_secs(1);
/// After how many attempts the longer pause is used.
const OFTEN: u32 = 250;

/// Serves the containers while the node is joined.
pub(super) async fn run(journal: &Journal, names: &watch::Sender<Arc<Names>>, problems: &Problems) {
    let mut journal = journal.subscribe();
    let mut interceptors: BTreeMap<PathBuf, DnsInterceptor> = BTreeMap::new();
    let mut tries: BTreeMap<PathBuf, u32> = BTreeMap::new();
    loop {
        let wanted = wanted(&journal.borrow_and_update());
        interceptors.retain(|path, _| wanted.contains_key(path));
        let had_trouble = is_in_trouble(&tries);
        tries.retain(|path, _| wanted.contains_key(path));
        let mut waiting = None;
        for (path, scope) in wanted {
            if let Some(interceptor) = interceptors.get(&path) {
                interceptor.set_scope(scope);
                continue;
            }
            match open(names, &path, scope).await {
                Ok(interceptor) => {
                    tries.remove(&path);
                    interceptors.insert(path, interceptor);
                }
                Err(why) => {
                    let tried = tries.entry(path).or_default();
                    *tried += 1;
                    if let (Some(text), true) = (why, *tried >= OFTEN) {
                        problems.raise("docker names", "kernel", text);
                    }
                    let pause = if *tried < OFTEN { SOON } else { LATER };
                    waiting = Some(waiting.map_or(pause, |known: Duration| known.min(pause)));
                }
            }
        }
        // A container that ended takes its trouble along.
        if had_trouble && !is_in_trouble(&tries) {
            problems.clear("docker names");
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

/// Tells whether a namespace was looked for so often that it may be a problem.
fn is_in_trouble(tries: &BTreeMap<PathBuf, u32>) -> bool {
    tries.values().any(|tried| *tried >= OFTEN)
}

/// Lists the sandboxes with their networks.
fn wanted(entries: &Entries) -> BTreeMap<PathBuf, BTreeSet<NetworkId>> {
    let mut wanted: BTreeMap<PathBuf, BTreeSet<NetworkId>> = BTreeMap::new();
    for record in entries.values() {
        if let Some(netns) = record.sandbox.managed().and_then(|docker| docker.netns.clone()) {
            wanted.entry(netns).or_default().insert(record.endpoint.network);
        }
    }

    wanted
}

/// Opens a front; nothing to tell where the namespace is simply not there yet.
async fn open(
    names: &watch::Sender<Arc<Names>>,
    path: &Path,
    scope: BTreeSet<NetworkId>,
) -> Result<DnsInterceptor, Option<String>> {
    let netns = Netns::open(path).map_err(|_| None)?;
    let opened = DnsInterceptor::open(&netns, scope, names.subscribe()).await;

    opened
        .map_err(|error| Some(format!("names of other hosts are not known in {}: {}", path.display(), explain(&error))))
}
