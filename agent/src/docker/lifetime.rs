//! Whether an endpoint of Docker's still belongs to something, and whether an address that Docker
//! holds still serves somebody. Both are judged by what the engine says and by the run of the
//! kernel, never by a clock: a container may take minutes to start, and the engine may stand still
//! between any two calls.
//!
//! What proves that nobody has an endpoint any more: the engine's network does not list it,
//! *after* every container was found at rest. The engine answers for a single container only
//! between two changes of it, so a start or a connect that was under way has ended by then, and
//! has either taken the endpoint over or given it up.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use overlay_core::{EndpointId, NetworkId};
use tokio::time::timeout;

use super::book::Ledger;
use super::engine::{Engine, EngineError, ListedContainer};
use crate::endpoint::journal::Entries;
use crate::endpoint::{lifecycle, sandbox};
use crate::session::Session;
use crate::state::{DockerKey, DockerLease, DockerSandbox, EndpointRecord};

/// How long a container may take to answer before it counts as busy; the next look asks again.
const REST: Duration = Duration::from_secs(1);

/// How long Docker's request for an address waits for [`pass`].
const FREED: Duration = Duration::from_secs(3);

/// What is known of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Facts {
    /// Whether it was made in an earlier run of the kernel, whose interfaces are all gone.
    is_of_earlier_boot: bool,
    /// Whether a running container has it, by the engine's list.
    is_listed: bool,
    /// Whether the container that had it does not exist any more.
    is_container_removed: bool,
    /// Whether the engine's network has it; nothing where the engine did not say.
    in_network: Option<bool>,
    /// Whether every container was found at rest before the network was asked.
    all_rested: bool,
}

/// What becomes of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It belongs to something.
    Lives,
    /// Nothing proves either; it stays.
    Undecided,
    /// Nobody has it any more, and why.
    Gone(&'static str),
}

fn judge(facts: Facts) -> Verdict {
    match facts {
        Facts { is_of_earlier_boot: true, .. } => Verdict::Gone("the host was started anew"),
        Facts { is_listed: true, .. } => Verdict::Lives,
        Facts { is_container_removed: true, .. } => Verdict::Gone("its container was removed"),
        Facts { in_network: Some(true), .. } => Verdict::Lives,
        Facts { in_network: Some(false), all_rested: true, .. } => Verdict::Gone("Docker does not have it any more"),
        Facts { in_network: Some(false) | None, .. } => Verdict::Undecided,
    }
}

/// Returns what is known of an endpoint by the engine's list alone.
fn facts(docker: &DockerSandbox, listed: &[ListedContainer]) -> Facts {
    let has_it =
        |container: &ListedContainer| container.is_running && container.endpoints.contains_key(&docker.endpoint);
    let is_removed = |id: &String| listed.iter().all(|container| container.id != *id);

    Facts {
        is_of_earlier_boot: sandbox::is_of_earlier_boot(docker),
        is_listed: listed.iter().any(has_it),
        is_container_removed: docker.container.as_ref().is_some_and(is_removed),
        in_network: None,
        all_rested: false,
    }
}

/// Lists the addresses of endpoints, each with its network.
fn addresses<'a>(records: impl Iterator<Item = &'a EndpointRecord>) -> BTreeSet<(NetworkId, IpAddr)> {
    let of = |record: &'a EndpointRecord| {
        record.endpoint.addresses.iter().map(|address| (record.endpoint.network, *address))
    };

    records.flat_map(of).collect()
}

/// Lists the addresses that Docker holds for containers and that no endpoint has.
fn unused<'a>(ledger: &'a Ledger, entries: &Entries) -> Vec<&'a DockerLease> {
    let used = addresses(entries.values());
    let unused = ledger.given().filter(|(network, lease)| !used.contains(&(*network, lease.address)));

    unused.map(|(_, lease)| lease).collect()
}

/// Tells whether anything needs [`pass`], as the engine lists its containers.
pub(super) fn is_doubtful(session: &Session, listed: &[ListedContainer]) -> bool {
    let entries = session.journal.entries();
    let docker = entries.values().filter_map(|record| record.sandbox.docker());

    docker.map(|docker| facts(docker, listed)).any(|facts| !facts.is_listed)
        || !unused(&session.docker.ledger(), &entries).is_empty()
}

/// Goes over the endpoints that no running container has and the addresses that no endpoint has,
/// and removes those that nobody can have any more.
pub(super) async fn pass(session: &Session, engine: &Engine) -> Result<(), EngineError> {
    // What is made later than this is not judged by what follows.
    let entries = session.journal.entries();
    let ledger = session.docker.ledger();
    let listed = engine.containers().await?;
    let mut cases = Cases::new(&entries, &listed);
    cases.ask_networks(engine).await?;
    let has_unused = !unused(&ledger, &entries).is_empty();
    let all_rested = (has_unused || cases.undecided().next().is_some()) && all_rest(engine, &listed).await;
    if all_rested {
        cases.rested();
        cases.ask_networks(engine).await?;
    }
    let gone = cases.gone();
    let had = addresses(entries.values().filter(|record| gone.contains_key(&record.endpoint.id)));
    let with_them = ledger.given().filter(|(network, lease)| had.contains(&(*network, lease.address)));
    let with_them = with_them.map(|(_, lease)| lease);
    let unused = unused(&ledger, &entries).into_iter().filter(|_| all_rested);
    let leases: Vec<_> = with_them.chain(unused).collect();
    for (id, why) in &gone {
        if let Err(refusal) = lifecycle::remove(session, vec![*id], why).await {
            // The store says itself that it keeps nothing; the next look tries again.
            tracing::debug!(%refusal, "Failed to write the journal");
        }
    }
    strike(session, &leases).await;
    session.docker.note_examined();

    Ok(())
}

/// Waits until an address that somebody names is free, where Docker may have taken it from its
/// holder unheard.
pub(super) async fn freed(session: &Session, network: NetworkId, address: IpAddr) {
    let is_held = || {
        let has_it = |record: &EndpointRecord| {
            record.endpoint.network == network && record.endpoint.addresses.contains(&address)
        };
        session.docker.ledger().leased(network).contains(&address)
            || session.journal.entries().values().any(|record| record.sandbox.is_docker() && has_it(record))
    };
    let mut examined = session.docker.examined();
    // One may be under way that began before the holder was removed.
    let enough = *examined.borrow_and_update() + 2;
    let looks = async {
        while is_held() && *examined.borrow_and_update() < enough {
            session.docker.doubt();
            if examined.changed().await.is_err() {
                return;
            }
        }
    };
    // Where the engine says nothing, the address counts as taken.
    let _ = timeout(FREED, looks).await;
}

/// The endpoints that no running container has, by the engine's list.
struct Cases<'a> {
    facts: BTreeMap<EndpointId, (Facts, &'a DockerSandbox)>,
}

impl<'a> Cases<'a> {
    fn new(entries: &'a Entries, listed: &[ListedContainer]) -> Self {
        let docker = |record: &'a EndpointRecord| Some((record.endpoint.id, record.sandbox.docker()?));
        let all = entries.values().filter_map(docker);
        let judged = all.map(|(id, docker)| (id, (facts(docker, listed), docker)));

        Self { facts: judged.filter(|(_, (facts, _))| !facts.is_listed).collect() }
    }

    fn undecided(&self) -> impl Iterator<Item = &'a DockerSandbox> + '_ {
        let undecided = self.facts.values().filter(|(facts, _)| judge(*facts) == Verdict::Undecided);

        undecided.map(|(_, docker)| *docker)
    }

    /// Asks the engine's networks for the endpoints that are not decided, each network once.
    async fn ask_networks(&mut self, engine: &Engine) -> Result<(), EngineError> {
        let networks: BTreeSet<&String> = self.undecided().map(|docker| &docker.network).collect();
        for network in networks {
            let there = match engine.endpoints_of(network).await {
                Err(error) if error.is_missing() => BTreeSet::new(),
                there => there?,
            };
            let of_network = self.facts.values_mut().filter(|(_, docker)| docker.network == *network);
            for (facts, docker) in of_network {
                facts.in_network = Some(there.contains(&docker.endpoint));
            }
        }

        Ok(())
    }

    /// Notes that every container was found at rest: what the networks said before is stale.
    fn rested(&mut self) {
        for (facts, _) in self.facts.values_mut().filter(|(facts, _)| judge(*facts) == Verdict::Undecided) {
            *facts = Facts { all_rested: true, in_network: None, ..*facts };
        }
    }

    fn gone(&self) -> BTreeMap<EndpointId, &'static str> {
        let why = |facts: Facts| match judge(facts) {
            Verdict::Gone(why) => Some(why),
            Verdict::Lives | Verdict::Undecided => None,
        };

        self.facts.iter().filter_map(|(id, (facts, _))| Some((*id, why(*facts)?))).collect()
    }
}

/// Asks for each container by itself, which waits for what is being done to it.
async fn all_rest(engine: &Engine, listed: &[ListedContainer]) -> bool {
    for container in listed {
        match timeout(REST, engine.container(&container.id)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if error.is_missing() => {}
            Ok(Err(_)) | Err(_) => return false,
        }
    }

    true
}

/// Strikes addresses out of the book that Docker gave back while this process was away.
async fn strike(session: &Session, leases: &[&DockerLease]) {
    // Nobody is given one meanwhile.
    let _one = session.lifecycle.lock().await;
    let now = session.docker.ledger();
    let is_same = |lease: &&&DockerLease| now.leases.get(&(lease.pool.clone(), lease.address)) == Some(**lease);
    let keys = leases.iter().filter(is_same);
    let keys = keys.map(|lease| DockerKey::Lease(lease.pool.clone(), lease.address)).collect();
    if let Err(refusal) = session.docker.write(Vec::new(), keys).await {
        // The store says itself that it keeps nothing; the next look tries again.
        tracing::debug!(%refusal, "Failed to write the docker book");
    }
}

#[cfg(test)]
#[path = "lifetime_tests.rs"]
mod tests;
