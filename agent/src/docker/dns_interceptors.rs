//! Runs a DNS interceptor in every container on a network of ours.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{EndpointId, NetworkId};
use overlay_daemon::reserve::Reserve;
use overlay_proto::Code;
use tokio::sync::watch;
use tokio::time::sleep;

use super::engine_names::OtherNetworks;
use super::interceptor_reserves::InterceptorReserves;
use crate::dns::{DnsInterceptor, NameSource, SandboxScope};
use crate::hand_over::{DescriptorStore, Kept, Lingering, Share, SharedDescriptors};
use crate::kernel::{KernelError, Netns};
use crate::problem::{Problems, explain};
use crate::problem_key::ProblemKey;
use crate::state::journal::{Entries, Journal};

/// The prefix of the names under which interceptors are kept; the rest is the path of the
/// namespace.
const KEPT: &str = "interceptor/";
/// How soon a namespace that does not exist yet is tried again: Docker creates it milliseconds
/// after it announced it.
const SOON: Duration = Duration::from_millis(20);
/// How soon it is tried again after many attempts.
const LATER: Duration = Duration::from_secs(1);
/// After how many attempts the longer pause is used.
const OFTEN: u32 = 250;

/// What the interceptors are made of.
pub(super) struct InterceptorSources<'a> {
    /// The endpoints of this node.
    pub(super) journal: &'a Journal,
    /// The networks of the engine alone that its containers are on.
    pub(super) others: watch::Receiver<BTreeMap<String, OtherNetworks>>,
    /// The names that they answer with.
    pub(super) source: NameSource,
    /// Where problems are reported.
    pub(super) problems: &'a Problems,
}

/// A container on networks of ours.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sandbox {
    scope: SandboxScope,
    endpoints: BTreeSet<EndpointId>,
}

/// An interceptor that serves a container, and what the next session of the agent needs to go on
/// with it.
struct Served {
    interceptor: Lingering<DnsInterceptor>,
    _kept: Kept,
}

/// Serves the containers while the node is joined.
pub(super) async fn run(
    sources: InterceptorSources<'_>,
    reserves: &InterceptorReserves,
    store: &DescriptorStore,
) {
    let InterceptorSources { journal, mut others, source, problems } = sources;
    let mut entries = journal.subscribe();
    let mut interceptors: BTreeMap<PathBuf, Served> = BTreeMap::new();
    let mut attempts = Attempts::default();
    loop {
        let is_misnamed = |id| problems.text(&ProblemKey::ContainerNames(id)).is_some();
        let wanted = wanted(&entries.borrow_and_update(), &others.borrow_and_update(), is_misnamed);
        interceptors.retain(|path, _| wanted.contains_key(path));
        // The failures of a container end with it.
        attempts.failed.retain(|path, _| wanted.contains_key(path));
        let mut waiting = None;
        for (path, sandbox) in wanted {
            if let Some(served) = interceptors.get(&path) {
                served.interceptor.set_scope(sandbox.scope);
                continue;
            }
            match open(&source, reserves, store, &path, sandbox).await {
                Ok(served) => {
                    attempts.failed.remove(&path);
                    interceptors.insert(path, served);
                }
                Err(why) => {
                    let pause = attempts.handle_failure(path, why);
                    waiting = Some(waiting.map_or(pause, |known: Duration| known.min(pause)));
                }
            }
        }
        reserves.retain(|endpoint| is_awaited(&journal.entries(), endpoint, &interceptors));
        // An interceptor of an earlier session that is no longer wanted must not keep its
        // namespace.
        store.forget(KEPT, |_| waiting.is_some());
        attempts.tell(problems);
        let pause = async {
            match waiting {
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = entries.changed() => if changed.is_err() { return },
            changed = others.changed() => if changed.is_err() { return },
            () = pause => {}
        }
    }
}

/// The namespaces whose interceptor could not be opened yet.
#[derive(Debug, Default)]
struct Attempts {
    failed: BTreeMap<PathBuf, Attempt>,
}

/// How often it was tried, and why it failed last; nothing where the namespace is simply not there
/// yet.
#[derive(Debug, Default)]
struct Attempt {
    count: u32,
    why: Option<String>,
}

impl Attempts {
    /// Takes note of a failure; returns how long to wait until it is tried again.
    fn handle_failure(&mut self, path: PathBuf, why: Option<String>) -> Duration {
        let attempt = self.failed.entry(path).or_default();
        attempt.count += 1;
        attempt.why = why;

        if attempt.count < OFTEN { SOON } else { LATER }
    }

    /// Says what has failed so often that it is a problem, or that nothing has.
    fn tell(&self, problems: &Problems) {
        let lasting = self.failed.values().filter(|attempt| attempt.count >= OFTEN);
        match lasting.filter_map(|attempt| attempt.why.as_ref()).next() {
            Some(why) => problems.raise(ProblemKey::Interceptors, Code::Kernel, why),
            None => problems.clear(&ProblemKey::Interceptors),
        }
    }
}

/// Tells whether an endpoint's container has still to get its interceptor.
fn is_awaited(
    entries: &Entries,
    endpoint: EndpointId,
    interceptors: &BTreeMap<PathBuf, Served>,
) -> bool {
    let docker = entries.get(&endpoint).and_then(|record| record.sandbox.managed());

    docker.is_some_and(|docker| {
        docker.netns.as_ref().is_none_or(|netns| !interceptors.contains_key(netns))
    })
}

/// Lists the sandboxes, with what Docker's resolver may know in each.
fn wanted(
    entries: &Entries,
    others: &BTreeMap<String, OtherNetworks>,
    is_misnamed: impl Fn(EndpointId) -> bool,
) -> BTreeMap<PathBuf, Sandbox> {
    let mut wanted: BTreeMap<PathBuf, Sandbox> = BTreeMap::new();
    let (mut starting, mut misnamed) = (BTreeSet::<NetworkId>::new(), BTreeSet::new());
    for record in entries.values() {
        let Some(docker) = record.sandbox.managed() else { continue };
        let network = record.endpoint.network;
        if docker.container.is_none() {
            starting.insert(network);
        }
        if is_misnamed(record.endpoint.id) {
            misnamed.insert(network);
        }
        let Some(netns) = docker.netns.clone() else { continue };
        let sandbox = wanted.entry(netns).or_default();
        sandbox.scope.networks.insert(network);
        sandbox.endpoints.insert(record.endpoint.id);
        if let Some(others) = docker.container.as_ref().and_then(|id| others.get(id)) {
            let engine = &mut sandbox.scope.engine;
            engine.networks.get_or_insert_default().extend(others.names.iter().cloned());
            engine.has_more |= others.has_links;
        }
    }
    for sandbox in wanted.values_mut() {
        let SandboxScope { networks, engine } = &mut sandbox.scope;
        engine.is_settling = !starting.is_disjoint(networks);
        engine.has_more |= !misnamed.is_disjoint(networks);
    }

    wanted
}

/// Opens an interceptor, or goes on with that of an earlier session; nothing to tell where the
/// namespace is simply not there yet.
async fn open(
    source: &NameSource,
    reserves: &InterceptorReserves,
    store: &DescriptorStore,
    path: &Path,
    sandbox: Sandbox,
) -> Result<Served, Option<String>> {
    let reserve = reserves.of(&sandbox.endpoints);
    let opened = open_with(source, store, path, sandbox.scope, &reserve).await;
    if opened.is_err() {
        reserve.replenish();
    }

    opened
}

async fn open_with(
    source: &NameSource,
    store: &DescriptorStore,
    path: &Path,
    scope: SandboxScope,
    reserve: &Arc<Reserve>,
) -> Result<Served, Option<String>> {
    let unserved =
        |why: &str| format!("names of other hosts are not known in {}: {why}", path.display());
    let netns = reserve.spend(|| Netns::open(path)).map_err(|error| {
        // Docker makes the file first.
        let is_not_there = matches!(error, KernelError::NotANamespace { .. })
            || error.errno() == Some(libc::ENOENT);
        (!is_not_there).then(|| unserved(&explain(&error)))
    })?;
    let (name, place) = (format!("{KEPT}{}", path.display()), format!("{:?} ", netns.identity()));
    // The path may lead to another container by now.
    let earlier = store.take(&name).filter(|earlier| earlier.note.starts_with(&place));
    let earlier = earlier.map(|earlier| SharedDescriptors {
        note: earlier.note[place.len()..].to_owned(),
        ..earlier
    });
    let opened =
        DnsInterceptor::open(&netns, earlier, scope, source.clone(), Arc::clone(reserve)).await;
    let interceptor = opened.map_err(|error| Some(unserved(&explain(&error))))?;
    let kept = store.keep(&name, Arc::new(Placed { place, sockets: interceptor.sockets() }));

    Ok(Served { interceptor: store.lingering(interceptor), _kept: kept })
}

/// The sockets of an interceptor, and which namespace they are in.
struct Placed {
    place: String,
    sockets: Arc<dyn Share>,
}

impl Share for Placed {
    fn share(&self) -> io::Result<SharedDescriptors> {
        let shared = self.sockets.share()?;

        Ok(SharedDescriptors { note: self.place.clone() + &shared.note, ..shared })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: &str = "names of other hosts are not known in web: too many open files";

    fn fail(attempts: &mut Attempts, path: &str, why: Option<&str>, times: u32) {
        for _ in 0..times {
            attempts.handle_failure(path.into(), why.map(str::to_owned));
        }
    }

    fn told(attempts: &Attempts, problems: &Problems) -> Option<String> {
        attempts.tell(problems);

        problems.text(&ProblemKey::Interceptors)
    }

    #[test]
    fn names_that_stay_unknown_are_a_problem_until_they_are_known() {
        let (mut attempts, problems) = (Attempts::default(), Problems::default());
        fail(&mut attempts, "web", Some(REFUSED), OFTEN - 1);
        assert_eq!(told(&attempts, &problems), None, "it may be starting");

        assert_eq!(attempts.handle_failure("web".into(), Some(REFUSED.to_owned())), LATER);
        assert_eq!(told(&attempts, &problems).as_deref(), Some(REFUSED));

        attempts.failed.remove(Path::new("web"));
        assert_eq!(told(&attempts, &problems), None);
    }

    #[test]
    fn a_namespace_that_is_not_there_yet_is_no_problem_and_keeps_none() {
        let (mut attempts, problems) = (Attempts::default(), Problems::default());
        fail(&mut attempts, "away", None, OFTEN * 2);
        fail(&mut attempts, "web", Some(REFUSED), OFTEN);
        assert_eq!(told(&attempts, &problems).as_deref(), Some(REFUSED));

        // Its container ends.
        attempts.failed.remove(Path::new("web"));

        assert_eq!(told(&attempts, &problems), None);
    }

    #[test]
    fn of_two_the_one_that_stays_is_told() {
        let (mut attempts, problems) = (Attempts::default(), Problems::default());
        fail(&mut attempts, "db", Some("db"), OFTEN);
        fail(&mut attempts, "web", Some("web"), OFTEN);
        assert_eq!(told(&attempts, &problems).as_deref(), Some("db"));

        attempts.failed.remove(Path::new("db"));

        assert_eq!(told(&attempts, &problems).as_deref(), Some("web"));
    }
}
