//! `overlayctl run` and `attach`: finds network and sandbox, reserves, waits for the kernel,
//! answers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use overlay_core::{EndpointId, Network, Runtime, View};
use overlay_proto::{Code, Refusal, v1};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::lifecycle::Endpoints;
use super::request::{AttachSpec, find_network};
use super::reservation::{Addresses, Reservation};
use super::sandbox;
use super::start_wait::StartFailure;
use crate::kernel::Netns;
use crate::kernel::host::HostNetwork;
use crate::membership::connection;
use crate::state::{EndpointRecord, SandboxRecord};

/// How long a network made a moment ago elsewhere may take to become known here.
const NEWS: Duration = Duration::from_secs(2);

/// Attaches, or finds what the same request attached before. If the caller stops waiting, what was
/// begun is taken back.
pub(crate) async fn attach(
    endpoints: Arc<Endpoints>,
    wanted: AttachSpec,
) -> Result<v1::AttachResponse, Refusal> {
    let given_up = CancellationToken::new();
    // Dropped with the caller's interest; the task goes on until nothing is left half done.
    let _caller = given_up.clone().drop_guard();
    let task = tokio::spawn(async move { attach_whole(&endpoints, wanted, &given_up).await });

    task.await.map_err(|error| Refusal::new(Code::Fault, error))?
}

async fn attach_whole(
    endpoints: &Endpoints,
    wanted: AttachSpec,
    given_up: &CancellationToken,
) -> Result<v1::AttachResponse, Refusal> {
    let network = resolve(endpoints, &wanted.network).await?;
    let (place, netns) = sandbox::identify(wanted.runtime, &wanted.netns)?;
    if wanted.runtime == Runtime::Host {
        try_host(endpoints, &network, &netns).await?;
    }
    loop {
        let Reserved { record, is_new } =
            reserve(endpoints, &network, wanted.clone(), place.clone(), &netns).await?;
        let id = record.endpoint.id;
        match given_up.run_until_cancelled(endpoints.brought_up(&record)).await {
            Some(Ok(())) => return Ok(answer(endpoints, &network, record)),
            // Who had attached it gave up.
            Some(Err(StartFailure::TakenBack)) if !is_new => {}
            Some(Err(failure)) => {
                // The reason to tell is why it did not come up.
                let _ = take_back(endpoints, id).await;
                return Err(failure.into());
            }
            None => {
                if is_new {
                    take_back(endpoints, id).await?;
                    tracing::info!(endpoint = %id, "Took an endpoint back: nobody waits for it any more");
                }
                return Err(Refusal::new(Code::Fault, "the caller stopped waiting"));
            }
        }
    }
}

/// Takes an endpoint out of the journal without waiting for the kernel to follow.
async fn take_back(endpoints: &Endpoints, id: EndpointId) -> Result<(), Refusal> {
    endpoints.journal.remove(vec![id]).await?;
    endpoints.publisher.forget(id);

    Ok(())
}

/// An endpoint in the journal.
struct Reserved {
    record: EndpointRecord,
    /// Whether this request put it there, not an equal one before.
    is_new: bool,
}

/// Reserves what is wanted; or returns what an equal request reserved before.
async fn reserve(
    endpoints: &Endpoints,
    network: &Network,
    wanted: AttachSpec,
    place: SandboxRecord,
    netns: &Netns,
) -> Result<Reserved, Refusal> {
    let _staying = endpoints.memberships.stay(network.id).await?;
    let entries = endpoints.journal.entries();
    let there = entries.values().find(|e| e.sandbox == place && e.endpoint.network == network.id);
    if let Some(there) = there {
        return if wanted.fits(there) {
            Ok(Reserved { record: there.clone(), is_new: false })
        } else {
            Err(occupied(there, network))
        };
    }
    let used = entries.values().filter(|e| e.sandbox == place).map(|e| e.ifname.clone()).collect();
    let reservation = Reservation {
        id: endpoints.free_id(EndpointId::from_random(rand::random())),
        ifname: ifname(&wanted, used, netns).await?,
        owner: wanted.owner.map(sandbox::owner).transpose()?,
        addresses: wanted.address.map_or(Addresses::Next, Addresses::Fixed),
        name: wanted.name,
        aliases: wanted.aliases,
        labels: wanted.labels,
        runtime: wanted.runtime,
        sandbox: place,
        replaced: Vec::new(),
    };

    Ok(Reserved { record: endpoints.reserve(network, reservation).await?, is_new: true })
}

/// The host must not lose its way to what it reaches already.
async fn try_host(endpoints: &Endpoints, network: &Network, host: &Netns) -> Result<(), Refusal> {
    let on_it = |record: &EndpointRecord| {
        record.sandbox == SandboxRecord::Host && record.endpoint.network == network.id
    };
    if endpoints.journal.entries().values().any(on_it) {
        return Ok(());
    }
    let has = HostNetwork::list(host).await.map_err(sandbox::kernel)?;
    let Some((used, holder)) =
        network.prefixes(network.prefix).into_iter().find_map(|prefix| has.conflict(prefix))
    else {
        return Ok(());
    };
    let text = format!(
        "the host uses {used} ({holder}) itself, which overlaps the prefix of {}",
        network.name
    );

    Err(Refusal::new(Code::AddressTaken, format!("{text}; attach it to another network")))
}

/// Finds the network, waiting a moment for news of it.
async fn resolve(endpoints: &Endpoints, text: &str) -> Result<Network, Refusal> {
    let find = |view: &View| find_network(view, text).cloned();
    if let Some(network) = find(&endpoints.memberships.membership.borrow().view) {
        return Ok(network);
    }
    let unknown =
        format!("network {:?} is not known here", text.chars().take(80).collect::<String>());
    if let Err(away) = endpoints.control().connection.reach(connection::PATIENCE).await {
        return Err(Refusal::new(Code::ControlAway, format!("{unknown}, and {}", away.message)));
    }
    let mut membership = endpoints.memberships.membership.subscribe();
    let arrived = timeout(NEWS, membership.wait_for(|m| find(&m.view).is_some())).await;

    arrived.ok().and_then(Result::ok).and_then(|membership| find(&membership.view)).ok_or_else(
        || Refusal::new(Code::NotFound, format!("{unknown}; `overlayctl network ls` lists all")),
    )
}

fn occupied(there: &EndpointRecord, network: &Network) -> Refusal {
    let name = &there.endpoint.name;
    let addresses: Vec<_> = there.endpoint.addresses.iter().map(ToString::to_string).collect();
    let how = format!("as {name} with {} on {}", addresses.join(" and "), there.ifname);

    Refusal::new(
        Code::InUse,
        format!("this sandbox is on {} already, {how}; detach it first", network.name),
    )
}

/// The host has interfaces of its own called `eth0`, so its attachments are named otherwise.
async fn ifname(
    wanted: &AttachSpec,
    mut used: BTreeSet<String>,
    netns: &Netns,
) -> Result<String, Refusal> {
    used.extend(sandbox::interfaces(netns).await?);
    let stem = if wanted.runtime == Runtime::Host { "ovh" } else { "eth" };
    match &wanted.ifname {
        Some(ifname) if used.contains(ifname) => {
            let shown: String = ifname.chars().take(15).collect();
            Err(Refusal::new(
                Code::InUse,
                format!("interface {shown} exists in the sandbox; choose another --ifname"),
            ))
        }
        Some(ifname) => Ok(ifname.clone()),
        None => (0..=used.len())
            .map(|n| format!("{stem}{n}"))
            .find(|name| !used.contains(name))
            .ok_or_else(|| {
                Refusal::new(Code::Exhausted, "no interface name is free in the sandbox")
            }),
    }
}

fn answer(endpoints: &Endpoints, network: &Network, record: EndpointRecord) -> v1::AttachResponse {
    v1::AttachResponse {
        network_name: network.name.to_string(),
        ifname: record.ifname,
        nameservers: network.gateways().iter().map(ToString::to_string).collect(),
        mtu: endpoints.host.mtu(),
        endpoint: Some(record.endpoint.into()),
    }
}

#[cfg(test)]
#[path = "attach_tests.rs"]
mod tests;
