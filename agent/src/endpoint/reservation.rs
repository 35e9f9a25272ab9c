//! The one way to an endpoint, for every runtime: within the limit, with an id, a name and
//! addresses that nobody else has, claimed at control where that is needed, and in the journal
//! before the kernel is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use overlay_core::ipam::Exhausted;
use overlay_core::{Alias, Endpoint, EndpointId, Name, Network, NetworkId, Runtime, View};
use overlay_proto::Code;
use overlay_proto::convert::{self, ConversionError};

use super::lifecycle::Endpoints;
use super::request::{UnusableAddress, try_fixed};
use crate::membership::control_error::ControlError;
use crate::membership::network_membership::{self, MembershipError};
use crate::state::{EndpointRecord, ManagedSandbox, Owner, SandboxRecord, StoreFailure};

/// Endpoints on this node at the most; the kernel's own tables stay small with them.
pub(crate) const MAX_ENDPOINTS: usize = 10_000;

/// Which addresses an endpoint is to have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Addresses {
    /// The next free one, and what follows from it.
    Next,
    /// This one if it is free, and what follows from it.
    Fixed(Ipv4Addr),
    /// These: whoever has the runtime's address management gave them already.
    Given(Vec<IpAddr>),
}

/// What a runtime wants an endpoint to be.
#[derive(Debug, Clone)]
pub(crate) struct Reservation {
    /// Its id, as [`Endpoints::free_id`] gave it.
    pub(crate) id: EndpointId,
    /// Its name; made from its id when missing.
    pub(crate) name: Option<Name>,
    /// Further names.
    pub(crate) aliases: BTreeSet<Alias>,
    /// What it is a replica of.
    pub(crate) group: Option<String>,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Its addresses.
    pub(crate) addresses: Addresses,
    /// What asks for it.
    pub(crate) runtime: Runtime,
    /// Where it lives.
    pub(crate) sandbox: SandboxRecord,
    /// What its interface is called there.
    pub(crate) ifname: String,
    /// The process it goes with.
    pub(crate) owner: Option<Owner>,
    /// The endpoints that it takes the place of.
    pub(crate) replaced: Vec<EndpointId>,
}

/// Why nothing was reserved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReservationError {
    /// This node has too many endpoints.
    #[error("this node has {MAX_ENDPOINTS} endpoints, which is the limit")]
    TooMany,
    /// There is no address for it.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Its id makes no name.
    #[error(transparent)]
    Name(#[from] ConversionError),
    /// Control does not grant its addresses.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] StoreFailure),
}

impl ReservationError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::TooMany => Code::Exhausted,
            Self::Address(error) => error.code(),
            Self::Name(error) => error.code(),
            Self::Control(error) => error.code(),
            Self::Journal(failure) => failure.code(),
        }
    }
}

/// Why an address is not to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AddressError {
    /// Somebody has it.
    #[error("address {address} is taken in {network}; choose another --ip")]
    Taken {
        /// The address.
        address: Ipv4Addr,
        /// The network.
        network: Name,
    },
    /// Nobody may have it.
    #[error(transparent)]
    Unusable(#[from] UnusableAddress),
    /// None is free.
    #[error(transparent)]
    NoneFree(#[from] NoFreeAddress),
    /// None is free, and there are no more to be had.
    #[error("{none_free}, and {not_grown}")]
    NotGrown {
        /// Why none is free.
        none_free: NoFreeAddress,
        /// Why there are no more.
        not_grown: MembershipError,
    },
}

impl AddressError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Taken { .. } => Code::AddressTaken,
            Self::Unusable(error) => error.code(),
            Self::NoneFree(error) => error.code(),
            Self::NotGrown { not_grown, .. } => not_grown.code(),
        }
    }
}

/// Why this node has no free address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoFreeAddress {
    /// It is not in the network.
    #[error("not a member of {network}")]
    NotAMember {
        /// The network.
        network: Name,
    },
    /// All of its blocks are used up.
    #[error(transparent)]
    UsedUp(#[from] Exhausted),
}

impl NoFreeAddress {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::NotAMember { .. } => Code::WrongState,
            Self::UsedUp(_) => Code::Exhausted,
        }
    }
}

impl Endpoints {
    /// Returns `candidate` unless another endpoint has it, and a random id then.
    pub(crate) fn free_id(&self, candidate: EndpointId) -> EndpointId {
        let is_taken = self.journal.entries().contains_key(&candidate);

        if is_taken { EndpointId::from_random(rand::random()) } else { candidate }
    }

    /// Reserves what a runtime wants and journals it. The caller stays in the network meanwhile
    /// ([`crate::membership::network_membership::NetworkMemberships::stay`]).
    ///
    /// # Errors
    ///
    /// When this node has too many endpoints, an address is taken, control refuses the claim to
    /// one, or the journal cannot be written.
    pub(crate) async fn reserve(
        &self,
        network: &Network,
        wanted: Reservation,
    ) -> Result<EndpointRecord, ReservationError> {
        if self.journal.entries().len() >= MAX_ENDPOINTS {
            return Err(ReservationError::TooMany);
        }
        let addresses = match wanted.addresses {
            Addresses::Next => network.addresses(self.address(network, None).await?),
            Addresses::Fixed(address) => {
                network.addresses(self.address(network, Some(address)).await?)
            }
            Addresses::Given(addresses) => addresses,
        };
        let name = match wanted.name {
            Some(name) => name,
            None => convert::field("name", &wanted.id.to_string())?,
        };
        let endpoint = Endpoint {
            id: wanted.id,
            network: network.id,
            node: self.node(),
            name,
            aliases: wanted.aliases,
            addresses,
            labels: wanted.labels,
            runtime: wanted.runtime,
            group: wanted.group,
            container: wanted.sandbox.managed().and_then(ManagedSandbox::short_id),
            taken: BTreeSet::new(),
        };
        if self.needs_claim(network, &endpoint.addresses) {
            // Control grants no address twice, so it must first learn that the old holders are
            // gone.
            self.journal.remove(wanted.replaced.clone()).await?;
            self.publisher.published().await;
            self.publisher.put(std::slice::from_ref(&endpoint)).await?;
        }
        let (sandbox, ifname, owner) = (wanted.sandbox, wanted.ifname, wanted.owner);
        let record = EndpointRecord { endpoint, sandbox, ifname, owner };
        self.journal.replace(wanted.replaced, record.clone()).await?;
        let endpoint = &record.endpoint;
        tracing::info!(
            endpoint = %endpoint.id, name = %endpoint.name, network = %network.name, addresses = ?endpoint.addresses,
            runtime = ?endpoint.runtime, "Attached endpoint"
        );

        Ok(record)
    }

    /// Tells whether control must be asked for an endpoint's addresses before anybody has them.
    /// Where an engine on this host numbers its containers, no other node takes addresses outside
    /// of blocks.
    fn needs_claim(&self, network: &Network, addresses: &[IpAddr]) -> bool {
        let is_ours_to_give = |address: &IpAddr| match address {
            IpAddr::V4(v4) => self.in_blocks(network.id, *v4),
            IpAddr::V6(v6) => {
                network.address4(*v6).is_some_and(|v4| self.in_blocks(network.id, v4))
            }
        };
        let numbers_here = network.settings.numbered_by == Some(self.node());

        !numbers_here && !addresses.iter().all(is_ours_to_give)
    }

    /// Chooses an address, or checks the one that is wanted. The caller stays in the network until
    /// it is noted down ([`crate::membership::network_membership::NetworkMemberships::stay`]).
    pub(crate) async fn address(
        &self,
        network: &Network,
        wanted: Option<Ipv4Addr>,
    ) -> Result<Ipv4Addr, AddressError> {
        let view = self.view();
        let in_use = self.memberships.in_use(network, &view);
        if let Some(address) = wanted {
            let node_address =
                view.members_of(network.id).any(|m| m.node_address(network) == Some(address));
            if in_use.contains(&address) || node_address {
                return Err(AddressError::Taken { address, network: network.name.clone() });
            }

            return Ok(try_fixed(network, address)?);
        }

        match self.next_free(network, &view, &in_use) {
            Ok(address) => Ok(address),
            Err(none_free) => {
                let blocks =
                    view.member(network.id, self.node()).map_or(0, |member| member.blocks.len());
                // Control grants by what it knows to be in use.
                self.publisher.published().await;
                let grown = self.memberships.enter(network.id, blocks + 1).await;
                grown.map_err(|not_grown| AddressError::NotGrown { none_free, not_grown })?;
                Ok(self.next_free(network, &self.view(), &in_use)?)
            }
        }
    }

    /// Returns the next address of this node's blocks that is not in use.
    pub(crate) fn next_free(
        &self,
        network: &Network,
        view: &View,
        in_use: &BTreeSet<Ipv4Addr>,
    ) -> Result<Ipv4Addr, NoFreeAddress> {
        let member = view.member(network.id, self.node());
        let pool = member.and_then(|member| network_membership::pool(view, member));
        let pool =
            pool.ok_or_else(|| NoFreeAddress::NotAMember { network: network.name.clone() })?;

        Ok(pool.allocate(in_use, self.journal.last_address(network.id))?)
    }

    /// Tells whether an address is one that this node gives.
    pub(crate) fn in_blocks(&self, network: NetworkId, address: Ipv4Addr) -> bool {
        let view = self.view();
        let member = view.member(network, self.node());

        member
            .and_then(|member| network_membership::pool(&view, member))
            .is_some_and(|pool| pool.contains(address))
    }
}
