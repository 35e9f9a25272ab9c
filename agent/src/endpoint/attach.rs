//! `overlayctl run` and `attach`: finds network and sandbox, reserves, waits for the kernel,
//! answers.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use overlay_core::message::excerpt;
use overlay_core::{EndpointId, Name, Network, Runtime, View};
use overlay_proto::{Code, v1};
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::lifecycle::Endpoints;
use super::request::{AttachSpec, find_network};
use super::reservation::{Addresses, Reservation, ReservationError};
use super::sandbox::{self, SandboxError};
use super::start_wait::StartFailure;
use crate::kernel::Netns;
use crate::kernel::host::HostNetwork;
use crate::membership::connection;
use crate::membership::control_error::ControlError;
use crate::membership::network_membership::MembershipError;
use crate::state::{EndpointRecord, SandboxRecord, StoreFailure};

/// How long a network made a moment ago elsewhere may take to become known here.
const NEWS: Duration = Duration::from_secs(2);

/// Why nothing was attached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AttachError {
    /// The network is not known here, nor to control.
    #[error("network {network:?} is not known here; `overlayctl network ls` lists all")]
    UnknownNetwork {
        /// Its name or id.
        network: String,
    },
    /// The network is not known here, and control cannot be asked.
    #[error("network {network:?} is not known here, and {away}")]
    UnknownWhileAway {
        /// Its name or id.
        network: String,
        /// Why control cannot be asked.
        away: ControlError,
    },
    /// The host reaches something else by the network's prefix.
    #[error(
        "the host uses {used} ({holder}) itself, which overlaps the prefix of {network}; \
         attach it to another network"
    )]
    HostUses {
        /// The host's prefix.
        used: IpNet,
        /// What it is used by.
        holder: String,
        /// The network.
        network: Name,
    },
    /// The sandbox is on the network in another way.
    #[error(
        "this sandbox is on {network} already, as {name} with {} on {ifname}; detach it first",
        listed(.addresses)
    )]
    Occupied {
        /// The network.
        network: Name,
        /// The endpoint that it has.
        name: Name,
        /// The endpoint's addresses.
        addresses: Vec<IpAddr>,
        /// The endpoint's interface.
        ifname: String,
    },
    /// The sandbox has an interface of the name.
    #[error("interface {ifname} exists in the sandbox; choose another --ifname")]
    IfnameTaken {
        /// The name, as far as an interface can have it.
        ifname: String,
    },
    /// The sandbox has interfaces of every name.
    #[error("no interface name is free in the sandbox")]
    NoIfname,
    /// The sandbox does not serve.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    /// Nothing was reserved.
    #[error(transparent)]
    Reservation(#[from] ReservationError),
    /// It did not come up.
    #[error(transparent)]
    Start(#[from] StartFailure),
    /// Nobody waits for it any more.
    #[error("the caller stopped waiting")]
    GivenUp,
    /// The network cannot be entered.
    #[error(transparent)]
    Membership(#[from] MembershipError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] StoreFailure),
    /// The task panicked.
    #[error(transparent)]
    Task(#[from] JoinError),
}

impl AttachError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::UnknownNetwork { .. } => Code::NotFound,
            Self::UnknownWhileAway { .. } => Code::ControlAway,
            Self::HostUses { .. } => Code::AddressTaken,
            Self::Occupied { .. } | Self::IfnameTaken { .. } => Code::InUse,
            Self::NoIfname => Code::Exhausted,
            Self::Sandbox(error) => error.code(),
            Self::Reservation(error) => error.code(),
            Self::Start(failure) => failure.code(),
            Self::Membership(error) => error.code(),
            Self::Journal(failure) => failure.code(),
            Self::GivenUp | Self::Task(_) => Code::Fault,
        }
    }
}

/// Writes addresses as a message names them.
fn listed(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// Attaches, or finds what the same request attached before. If the caller stops waiting, what was
/// begun is taken back.
pub(crate) async fn attach(
    endpoints: Arc<Endpoints>,
    wanted: AttachSpec,
) -> Result<v1::AttachResponse, AttachError> {
    let given_up = CancellationToken::new();
    // Dropped with the caller's interest; the task goes on until nothing is left half done.
    let _caller = given_up.clone().drop_guard();
    let task = tokio::spawn(async move { attach_whole(&endpoints, wanted, &given_up).await });

    task.await?
}

async fn attach_whole(
    endpoints: &Endpoints,
    wanted: AttachSpec,
    given_up: &CancellationToken,
) -> Result<v1::AttachResponse, AttachError> {
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
                return Err(AttachError::GivenUp);
            }
        }
    }
}

/// Takes an endpoint out of the journal without waiting for the kernel to follow.
async fn take_back(endpoints: &Endpoints, id: EndpointId) -> Result<(), StoreFailure> {
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
) -> Result<Reserved, AttachError> {
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
        group: wanted.group,
        labels: wanted.labels,
        runtime: wanted.runtime,
        sandbox: place,
        replaced: Vec::new(),
    };

    Ok(Reserved { record: endpoints.reserve(network, reservation).await?, is_new: true })
}

/// The host must not lose its way to what it reaches already.
async fn try_host(
    endpoints: &Endpoints,
    network: &Network,
    host: &Netns,
) -> Result<(), AttachError> {
    let on_it = |record: &EndpointRecord| {
        record.sandbox == SandboxRecord::Host && record.endpoint.network == network.id
    };
    if endpoints.journal.entries().values().any(on_it) {
        return Ok(());
    }
    let has = HostNetwork::list(host).await.map_err(SandboxError::Kernel)?;
    let Some((used, holder)) =
        network.prefixes(network.prefix).into_iter().find_map(|prefix| has.conflict(prefix))
    else {
        return Ok(());
    };
    let (holder, network) = (holder.to_owned(), network.name.clone());

    Err(AttachError::HostUses { used, holder, network })
}

/// Finds the network, waiting a moment for news of it.
async fn resolve(endpoints: &Endpoints, text: &str) -> Result<Network, AttachError> {
    let find = |view: &View| find_network(view, text).cloned();
    if let Some(network) = find(&endpoints.memberships.membership.borrow().view) {
        return Ok(network);
    }
    if let Err(away) = endpoints.control().connection.reach(connection::PATIENCE).await {
        return Err(AttachError::UnknownWhileAway { network: excerpt(text).to_owned(), away });
    }
    let mut membership = endpoints.memberships.membership.subscribe();
    let arrived = timeout(NEWS, membership.wait_for(|m| find(&m.view).is_some())).await;

    arrived
        .ok()
        .and_then(Result::ok)
        .and_then(|membership| find(&membership.view))
        .ok_or_else(|| AttachError::UnknownNetwork { network: excerpt(text).to_owned() })
}

fn occupied(there: &EndpointRecord, network: &Network) -> AttachError {
    AttachError::Occupied {
        network: network.name.clone(),
        name: there.endpoint.name.clone(),
        addresses: there.endpoint.addresses.clone(),
        ifname: there.ifname.clone(),
    }
}

/// The host has interfaces of its own called `eth0`, so its attachments are named otherwise.
async fn ifname(
    wanted: &AttachSpec,
    mut used: BTreeSet<String>,
    netns: &Netns,
) -> Result<String, AttachError> {
    used.extend(sandbox::interfaces(netns).await?);
    let stem = if wanted.runtime == Runtime::Host { "ovh" } else { "eth" };
    match &wanted.ifname {
        Some(ifname) if used.contains(ifname) => {
            Err(AttachError::IfnameTaken { ifname: ifname.chars().take(15).collect() })
        }
        Some(ifname) => Ok(ifname.clone()),
        None => (0..=used.len())
            .map(|n| format!("{stem}{n}"))
            .find(|name| !used.contains(name))
            .ok_or(AttachError::NoIfname),
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
