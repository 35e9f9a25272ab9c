//! Attach and detach: reserve, journal, let the kernel follow, answer; control hears of it later.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{Endpoint, EndpointId, Network, NetworkId, Runtime, View};
use overlay_proto::{Code, Refusal, v1};
use tokio::time::timeout;

use super::request::{AttachSpec, find_network, require_network, try_fixed};
use super::sandbox;
use crate::joined_node::JoinedNode;
use crate::kernel::Netns;
use crate::kernel::host::HostNetwork;
use crate::membership::{connection, network_membership, publish};
use crate::reconcile::EndpointState;
use crate::state::{EndpointRecord, SandboxRecord};

/// How long a network made a moment ago elsewhere may take to become known here.
const NEWS: Duration = Duration::from_secs(2);
/// How long the kernel may take for one endpoint.
const KERNEL: Duration = Duration::from_secs(15);
/// Endpoints on this node at the most; the kernel's own tables stay small with them.
pub(crate) const MAX_ENDPOINTS: usize = 10_000;
/// Characters of a container's id that Docker takes for the whole.
const SHORT_ID: usize = 12;

/// Attaches, or finds what the same request attached before. Runs to its end whoever waits.
pub(crate) async fn attach(joined: Arc<JoinedNode>, wanted: AttachSpec) -> Result<v1::AttachResponse, Refusal> {
    let task = tokio::spawn(async move { attach_whole(&joined, wanted).await });

    task.await.map_err(|error| Refusal::new(Code::Fault, error))?
}

async fn attach_whole(joined: &JoinedNode, wanted: AttachSpec) -> Result<v1::AttachResponse, Refusal> {
    let network = resolve(joined, &wanted.network).await?;
    let (place, netns) = sandbox::identify(wanted.runtime, &wanted.netns)?;
    if wanted.runtime == Runtime::Host {
        try_host(joined, &network, &netns).await?;
    }
    let record = reserve(joined, &network, &wanted, place, &netns).await?;

    match brought_up(joined, &record).await {
        Ok(()) => Ok(answer(joined, &network, record)),
        Err(refusal) => {
            // The reason to tell is why it did not come up.
            let _ = joined.journal.remove(vec![record.endpoint.id]).await;
            Err(refusal)
        }
    }
}

/// The host must not lose its way to what it reaches already.
async fn try_host(joined: &JoinedNode, network: &Network, host: &Netns) -> Result<(), Refusal> {
    let on_it =
        |record: &EndpointRecord| record.sandbox == SandboxRecord::Host && record.endpoint.network == network.id;
    if joined.journal.entries().values().any(on_it) {
        return Ok(());
    }
    let has = HostNetwork::list(host).await.map_err(sandbox::kernel)?;
    let Some((used, holder)) = network.prefixes(network.prefix).into_iter().find_map(|prefix| has.conflict(prefix))
    else {
        return Ok(());
    };
    let text = format!("the host uses {used} ({holder}) itself, which overlaps the prefix of {}", network.name);

    Err(Refusal::new(Code::AddressTaken, format!("{text}; attach it to another network")))
}

/// Finds the network, waiting a moment for news of it.
async fn resolve(joined: &JoinedNode, text: &str) -> Result<Network, Refusal> {
    let find = |view: &View| find_network(view, text).cloned();
    if let Some(network) = find(&joined.membership.borrow().view) {
        return Ok(network);
    }
    let unknown = format!("network {:?} is not known here", text.chars().take(80).collect::<String>());
    if let Err(away) = joined.connection.reach(connection::PATIENCE).await {
        return Err(Refusal::new(Code::ControlAway, format!("{unknown}, and {}", away.message)));
    }
    let mut membership = joined.membership.subscribe();
    let arrived = timeout(NEWS, membership.wait_for(|m| find(&m.view).is_some())).await;

    arrived
        .ok()
        .and_then(Result::ok)
        .and_then(|membership| find(&membership.view))
        .ok_or_else(|| Refusal::new(Code::NotFound, format!("{unknown}; `overlayctl network ls` lists all")))
}

/// Chooses id, name, address and interface, and journals them; or returns what an equal request journalled before.
async fn reserve(
    joined: &JoinedNode,
    network: &Network,
    wanted: &AttachSpec,
    place: SandboxRecord,
    netns: &Netns,
) -> Result<EndpointRecord, Refusal> {
    let _one = network_membership::stay(joined, network.id).await?;
    let entries = joined.journal.entries();
    let there = entries.values().find(|e| e.sandbox == place && e.endpoint.network == network.id);
    if let Some(there) = there {
        return if wanted.fits(there) { Ok(there.clone()) } else { Err(occupied(there, network)) };
    }
    if entries.len() >= MAX_ENDPOINTS {
        return Err(Refusal::new(
            Code::Exhausted,
            format!("this node has {MAX_ENDPOINTS} endpoints, which is the limit"),
        ));
    }
    let id = EndpointId::from_random(rand::random());
    let address = address(joined, network, wanted.address).await?;
    let used = entries.values().filter(|e| e.sandbox == place).map(|e| e.ifname.clone()).collect();
    let record = EndpointRecord {
        endpoint: Endpoint {
            id,
            network: network.id,
            node: joined.node,
            name: wanted.name_or(id)?,
            aliases: wanted.aliases.clone(),
            addresses: network.addresses(address),
            labels: wanted.labels.clone(),
            runtime: wanted.runtime,
        },
        ifname: ifname(wanted, used, netns).await?,
        sandbox: place,
        owner: wanted.owner.map(sandbox::owner).transpose()?,
    };
    if !in_blocks(joined, network.id, address) {
        publish::put(joined, std::slice::from_ref(&record.endpoint)).await?;
    }
    joined.journal.insert(record.clone()).await?;
    tracing::info!(endpoint = %id, name = %record.endpoint.name, network = %network.name, %address, "Attached endpoint");

    Ok(record)
}

fn occupied(there: &EndpointRecord, network: &Network) -> Refusal {
    let name = &there.endpoint.name;
    let addresses: Vec<_> = there.endpoint.addresses.iter().map(ToString::to_string).collect();
    let how = format!("as {name} with {} on {}", addresses.join(" and "), there.ifname);

    Refusal::new(Code::InUse, format!("this sandbox is on {} already, {how}; detach it first", network.name))
}

/// Chooses an address, or checks the one that is wanted. The caller holds the `lifecycle` lock of the joined node until it is noted down.
pub(crate) async fn address(
    joined: &JoinedNode,
    network: &Network,
    wanted: Option<Ipv4Addr>,
) -> Result<Ipv4Addr, Refusal> {
    let view = Arc::clone(&joined.membership.borrow().view);
    let in_use = network_membership::in_use(joined, network, &view);
    if let Some(address) = wanted {
        let node_address = view.members_of(network.id).any(|m| m.node_address(network) == Some(address));
        if in_use.contains(&address) || node_address {
            let taken = format!("address {address} is taken in {}; choose another --ip", network.name);
            return Err(Refusal::new(Code::AddressTaken, taken));
        }

        return try_fixed(network, address);
    }

    match next_free(joined, network, &view, &in_use) {
        Ok(address) => Ok(address),
        Err(exhausted) => {
            let blocks = view.member(network.id, joined.node).map_or(0, |member| member.blocks.len());
            let grown = network_membership::enter(joined, network.id, blocks + 1).await;
            grown.map_err(|refusal| Refusal::new(refusal.code, format!("{exhausted}, and {refusal}")))?;
            next_free(joined, network, &joined.membership.borrow().view, &in_use)
        }
    }
}

/// Returns the next address of this node's blocks that is not in use.
pub(crate) fn next_free(
    joined: &JoinedNode,
    network: &Network,
    view: &View,
    in_use: &BTreeSet<Ipv4Addr>,
) -> Result<Ipv4Addr, Refusal> {
    let member = view.member(network.id, joined.node);
    let pool = member.and_then(|member| network_membership::pool(view, member));
    let pool = pool.ok_or_else(|| Refusal::new(Code::WrongState, format!("not a member of {}", network.name)))?;

    pool.allocate(in_use, joined.journal.last_address(network.id)).map_err(|error| Refusal::new(Code::Exhausted, error))
}

pub(crate) fn in_blocks(joined: &JoinedNode, network: NetworkId, address: Ipv4Addr) -> bool {
    let view = Arc::clone(&joined.membership.borrow().view);
    let member = view.member(network, joined.node);

    member.and_then(|member| network_membership::pool(&view, member)).is_some_and(|pool| pool.contains(address))
}

/// The host has interfaces of its own called `eth0`, so its attachments are named otherwise.
async fn ifname(wanted: &AttachSpec, mut used: BTreeSet<String>, netns: &Netns) -> Result<String, Refusal> {
    used.extend(sandbox::interfaces(netns).await?);
    let stem = if wanted.runtime == Runtime::Host { "ovh" } else { "eth" };
    match &wanted.ifname {
        Some(ifname) if used.contains(ifname) => {
            let shown: String = ifname.chars().take(15).collect();
            Err(Refusal::new(Code::InUse, format!("interface {shown} exists in the sandbox; choose another --ifname")))
        }
        Some(ifname) => Ok(ifname.clone()),
        None => (0..=used.len())
            .map(|n| format!("{stem}{n}"))
            .find(|name| !used.contains(name))
            .ok_or_else(|| Refusal::new(Code::Exhausted, "no interface name is free in the sandbox")),
    }
}

pub(crate) async fn brought_up(joined: &JoinedNode, record: &EndpointRecord) -> Result<(), Refusal> {
    let (network, id) = (record.endpoint.network, record.endpoint.id);
    let mut networks = joined.networks.subscribe();
    let state = |reports: &crate::reconcile::NetworkReports| reports.get(&network)?.endpoints.get(&id).cloned();
    let waited = timeout(KERNEL, networks.wait_for(|reports| state(reports).is_some())).await;

    match waited.ok().and_then(Result::ok).and_then(|reports| state(&reports)) {
        Some(EndpointState::Ready) => Ok(()),
        Some(EndpointState::Failed(text)) => Err(Refusal::new(Code::Kernel, text)),
        Some(EndpointState::Gone(text)) => Err(Refusal::new(Code::NotFound, text)),
        None => {
            let problem = joined.networks.borrow().get(&network).and_then(|report| report.problem.clone());
            let problem = problem.unwrap_or_else(|| "the kernel was not done within 15 seconds".to_owned());
            Err(Refusal::new(Code::Kernel, problem))
        }
    }
}

fn answer(joined: &JoinedNode, network: &Network, record: EndpointRecord) -> v1::AttachResponse {
    v1::AttachResponse {
        network_name: network.name.to_string(),
        ifname: record.ifname,
        nameservers: network.gateways().iter().map(ToString::to_string).collect(),
        mtu: joined.mtu(),
        endpoint: Some(record.endpoint.into()),
    }
}

/// Detaches what a request names; returns how many there were.
pub(crate) async fn detach(joined: &JoinedNode, request: &v1::DetachRequest) -> Result<usize, Refusal> {
    let ids = chosen(joined, request)?;
    let view = Arc::clone(&joined.membership.borrow().view);
    let entries = joined.journal.entries();
    for record in ids.iter().filter_map(|id| entries.get(id)) {
        try_detachable(&view, record)?;
    }
    let removed = remove(joined, ids, "it was detached").await?;
    if removed.is_empty() {
        return Err(Refusal::new(Code::NotFound, "this node has no such endpoint; `overlayctl endpoint ls` lists all"));
    }

    Ok(removed.len())
}

/// A running container of Docker's would get its endpoint back: Docker goes on saying that it has it.
fn try_detachable(view: &View, record: &EndpointRecord) -> Result<(), Refusal> {
    let Some(docker) = record.sandbox.docker().filter(|docker| !sandbox::is_of_earlier_boot(docker)) else {
        return Ok(());
    };
    // Docker removes the namespace's file with the container's end.
    let runs = docker.joined && docker.netns.as_ref().is_some_and(|netns| netns.exists());
    let Some(container) = docker.container.as_ref().filter(|_| runs) else { return Ok(()) };
    let name = &record.endpoint.name;
    let network = record.endpoint.network;
    let network = view.networks.get(&network).map_or_else(|| network.to_string(), |network| network.title().to_owned());
    let container: String = container.chars().take(SHORT_ID).collect();
    let text = format!(
        "{name} on {network} is of a running container of Docker's, which would have it back at once; \
         use `docker network disconnect {network} {container}`"
    );

    Err(Refusal::new(Code::InUse, text))
}

fn chosen(joined: &JoinedNode, request: &v1::DetachRequest) -> Result<Vec<EndpointId>, Refusal> {
    if !request.endpoint.is_empty() {
        return Ok(vec![overlay_proto::convert::field("endpoint", &request.endpoint)?]);
    }
    let name: overlay_core::Name = overlay_proto::convert::field("name", &request.name)?;
    let network = if request.network.is_empty() {
        None
    } else {
        let view = Arc::clone(&joined.membership.borrow().view);
        Some(require_network(&view, &request.network)?.id)
    };
    let entries = joined.journal.entries();
    let endpoints = entries.values().map(|record| &record.endpoint);
    let fits = |e: &&Endpoint| e.name == name && network.is_none_or(|network| network == e.network);

    Ok(endpoints.filter(fits).map(|endpoint| endpoint.id).collect())
}

/// Takes endpoints out of the journal and waits for the kernel to follow.
pub(crate) async fn remove(
    joined: &JoinedNode,
    ids: Vec<EndpointId>,
    why: &str,
) -> Result<Vec<EndpointRecord>, Refusal> {
    let removed = joined.journal.remove(ids).await?;
    for record in &removed {
        let endpoint = &record.endpoint;
        tracing::info!(endpoint = %endpoint.id, name = %endpoint.name, why, "Detached endpoint");
        joined.problems.clear_prefix(&format!("publish {}", endpoint.id));
    }
    let gone = |reports: &crate::reconcile::NetworkReports| {
        removed.iter().all(|record| {
            reports
                .get(&record.endpoint.network)
                .is_none_or(|report| !report.endpoints.contains_key(&record.endpoint.id))
        })
    };
    // What the kernel still refuses is tried again and shown as a problem.
    let _ = timeout(KERNEL, joined.networks.subscribe().wait_for(gone)).await;

    Ok(removed)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use overlay_core::{Change, NetworkMode, NetworkSettings, NodeId, Revision};

    use super::*;
    use crate::state::DockerSandbox;

    fn record(docker: DockerSandbox) -> EndpointRecord {
        let endpoint = Endpoint {
            id: EndpointId::FIRST,
            network: NetworkId::FIRST,
            node: NodeId::FIRST,
            name: "web".parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
            runtime: Runtime::Docker,
        };

        EndpointRecord { endpoint, sandbox: SandboxRecord::Docker(docker), ifname: "ovc0".into(), owner: None }
    }

    #[test]
    fn what_a_running_container_of_dockers_has_is_dockers_to_take_away() {
        let dir = tempfile::tempdir().expect("a directory");
        let netns = dir.path().join("5df66f04e09f");
        std::fs::write(&netns, "").expect("a namespace's file");
        let network = Network {
            id: NetworkId::FIRST,
            name: "shop".parse().expect("a name"),
            prefix: "10.64.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
        };
        let view = View::from_rows(Revision(1), [Change::Network(network)]);
        let running = DockerSandbox {
            netns: Some(netns.clone()),
            ..crate::docker::testing::sandbox("e", Some("5df66f04e09f1234567890"))
        };
        let of_earlier_boot = DockerSandbox { boot: "another".into(), ..running.clone() };
        let not_taken = DockerSandbox { joined: false, ..running.clone() };

        let refused = try_detachable(&view, &record(running.clone())).expect_err("it runs").message;

        assert!(refused.ends_with("use `docker network disconnect shop 5df66f04e09f`"), "{refused}");
        assert!(try_detachable(&view, &record(of_earlier_boot)).is_ok());
        assert!(try_detachable(&view, &record(not_taken)).is_ok());
        std::fs::remove_file(netns).expect("removed");
        assert!(try_detachable(&view, &record(running)).is_ok(), "it has ended");
    }
}
