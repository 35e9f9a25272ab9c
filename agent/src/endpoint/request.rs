//! A request to attach, checked field by field before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use ipnet::Ipv4Net;
use overlay_core::claims::{self, UnfitClaim};
use overlay_core::message::excerpt;
use overlay_core::{Alias, Name, Network, Runtime, View};
use overlay_proto::convert::{self, ConversionError, MAX_ALIASES};
use overlay_proto::{Code, v1};

use crate::state::EndpointRecord;

/// What a new endpoint is to be like.
#[derive(Debug, Clone)]
pub(crate) struct AttachSpec {
    /// The network, by name or id.
    pub(crate) network: String,
    /// Its name; made from its id when missing.
    pub(crate) name: Option<Name>,
    /// Further names.
    pub(crate) aliases: BTreeSet<Alias>,
    /// What it is a replica of.
    pub(crate) group: Option<String>,
    /// Its labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// A fixed address; the next free one when missing.
    pub(crate) address: Option<Ipv4Addr>,
    /// The interface's name; the next free one when missing.
    pub(crate) ifname: Option<String>,
    /// What requests it.
    pub(crate) runtime: Runtime,
    /// The path of the sandbox's namespace; empty for the host.
    pub(crate) netns: String,
    /// The process whose end removes it.
    pub(crate) owner: Option<u32>,
}

/// Why a request to attach is not one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvalidAttach {
    /// The host is attached by no path.
    #[error("netns must be empty when the host itself is attached")]
    NetnsOfHost,
    /// The path of the sandbox's namespace is missing.
    #[error("netns is missing")]
    NetnsMissing,
    /// It asks for what another interface makes.
    #[error("runtime must be run, attach or host")]
    Runtime,
    /// The process of a command is missing.
    #[error("owner_pid is missing; an endpoint of a command goes with its process")]
    OwnerMissing,
    /// It would be called what means something else.
    #[error(transparent)]
    Name(#[from] UnfitClaim),
    /// It has more aliases than an endpoint may have.
    #[error("there are more than 64 aliases")]
    TooManyAliases,
    /// A field is malformed or out of range.
    #[error(transparent)]
    Field(#[from] ConversionError),
}

impl InvalidAttach {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::NetnsOfHost
            | Self::NetnsMissing
            | Self::Runtime
            | Self::OwnerMissing
            | Self::Name(_)
            | Self::TooManyAliases => Code::InvalidInput,
            Self::Field(error) => error.code(),
        }
    }
}

impl TryFrom<v1::AttachRequest> for AttachSpec {
    type Error = InvalidAttach;

    fn try_from(request: v1::AttachRequest) -> Result<Self, InvalidAttach> {
        let runtime: Runtime = convert::wire_enum::<v1::Runtime>(request.runtime).try_into()?;
        match (runtime, request.netns.is_empty(), request.owner_pid) {
            (Runtime::Host, false, _) => {
                return Err(InvalidAttach::NetnsOfHost);
            }
            (Runtime::Host, true, _) | (Runtime::Run | Runtime::Attach, false, _) => {}
            (Runtime::Run | Runtime::Attach, true, _) => return Err(InvalidAttach::NetnsMissing),
            (Runtime::Docker | Runtime::Cni, _, _) => return Err(InvalidAttach::Runtime),
        }
        if runtime == Runtime::Run && request.owner_pid == 0 {
            return Err(InvalidAttach::OwnerMissing);
        }
        if request.aliases.len() > MAX_ALIASES {
            return Err(InvalidAttach::TooManyAliases);
        }
        let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let name: Option<Name> =
            optional(&request.name).map(|name| convert::field("name", &name)).transpose()?;
        let aliases = request.aliases.iter().map(|alias| convert::field("alias", alias));
        let aliases: BTreeSet<Alias> = aliases.collect::<Result<_, _>>()?;
        for name in name.iter().cloned().map(Alias::from).chain(aliases.iter().cloned()) {
            claims::check(&name, false)?;
        }

        Ok(Self {
            network: request.network,
            name,
            aliases,
            group: request.replica.then(|| REPLICAS.to_owned()),
            labels: convert::labels(request.labels)?,
            address: optional(&request.address)
                .map(|address| convert::field("address", &address))
                .transpose()?,
            ifname: optional(&request.ifname),
            runtime,
            netns: request.netns,
            owner: (request.owner_pid != 0).then_some(request.owner_pid),
        })
    }
}

/// The group of replicas that `overlayctl` makes: their name says of what.
const REPLICAS: &str = "run";

impl AttachSpec {
    /// Tells whether an endpoint of the same sandbox and network is what is wanted: what was not
    /// asked for is not compared.
    pub(crate) fn fits(&self, there: &EndpointRecord) -> bool {
        let addresses = &there.endpoint.addresses;

        self.name.as_ref().is_none_or(|name| *name == there.endpoint.name)
            && self.address.is_none_or(|address| addresses.contains(&IpAddr::V4(address)))
            && self.ifname.as_ref().is_none_or(|ifname| *ifname == there.ifname)
    }
}

/// Finds a network by name or id.
pub(crate) fn find_network<'a>(view: &'a View, text: &str) -> Option<&'a Network> {
    let by_name = text.parse::<Name>().ok().and_then(|name| view.network_named(&name));

    by_name.or_else(|| view.networks.get(&text.parse().ok()?))
}

/// No network has the name or id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no network {shown:?}: `overlayctl network ls` lists them")]
pub(crate) struct UnknownNetwork {
    /// The name or id, as far as it is shown.
    shown: String,
}

impl UnknownNetwork {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        Code::NotFound
    }
}

/// Finds a network by name or id, and refuses one that is not there.
pub(crate) fn require_network<'a>(
    view: &'a View,
    text: &str,
) -> Result<&'a Network, UnknownNetwork> {
    find_network(view, text).ok_or_else(|| UnknownNetwork { shown: excerpt(text).to_owned() })
}

/// Why an endpoint of a network may not have an address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UnusableAddress {
    /// It is outside of the network.
    #[error("address {address} is not in {prefix}, the prefix of {network}")]
    Outside {
        /// The address.
        address: Ipv4Addr,
        /// The network's prefix.
        prefix: Ipv4Net,
        /// The network.
        network: Name,
    },
    /// It is the network's gateway.
    #[error("address {address} is the gateway of {network}")]
    Gateway {
        /// The address.
        address: Ipv4Addr,
        /// The network.
        network: Name,
    },
    /// It is given to nobody.
    #[error("address {address} is the first or last of {prefix}, or reserved")]
    Reserved {
        /// The address.
        address: Ipv4Addr,
        /// The network's prefix.
        prefix: Ipv4Net,
    },
}

impl UnusableAddress {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        Code::InvalidInput
    }
}

/// Checks that a fixed address is one that an endpoint of the network may have.
pub(crate) fn try_fixed(network: &Network, address: Ipv4Addr) -> Result<Ipv4Addr, UnusableAddress> {
    let prefix = network.prefix;
    if !prefix.contains(&address) {
        return Err(UnusableAddress::Outside { address, prefix, network: network.name.clone() });
    }
    if address == network.gateway() {
        return Err(UnusableAddress::Gateway { address, network: network.name.clone() });
    }
    if network.is_reserved(address) {
        return Err(UnusableAddress::Reserved { address, prefix });
    }

    Ok(address)
}

#[cfg(test)]
mod tests {
    use overlay_core::{Endpoint, EndpointId, NetworkId, NetworkMode, NodeId};

    use super::*;
    use crate::state::SandboxRecord;

    fn request() -> v1::AttachRequest {
        v1::AttachRequest {
            network: "blue".into(),
            name: "web".into(),
            runtime: v1::Runtime::Attach.into(),
            netns: "/run/netns/x".into(),
            ..v1::AttachRequest::default()
        }
    }

    #[test]
    fn a_network_that_is_not_there_is_named() {
        let refusal = require_network(&View::default(), "blue").expect_err("there is none");

        assert_eq!(refusal.code(), Code::NotFound);
        assert!(refusal.to_string().contains("\"blue\""), "{refusal}");
    }

    #[test]
    fn a_whole_request_is_taken() {
        let wanted = AttachSpec::try_from(request()).expect("sound");

        assert_eq!(wanted.name, "web".parse().ok());
        assert_eq!(wanted.address, None);
    }

    #[test]
    fn a_repeated_request_with_another_address_is_not_the_same() {
        let there = EndpointRecord {
            endpoint: Endpoint {
                id: EndpointId::from_random(1),
                network: NetworkId::from_random(1),
                node: NodeId::from_random(1),
                name: "web".parse().expect("a name"),
                aliases: BTreeSet::new(),
                addresses: vec!["10.9.0.7".parse().expect("an address")],
                labels: BTreeMap::new(),
                runtime: Runtime::Attach,
                group: None,
                container: None,
                taken: BTreeSet::new(),
            },
            sandbox: SandboxRecord::Host,
            ifname: "eth0".to_owned(),
            owner: None,
        };
        let fits = |name: &str, address: &str, ifname: &str| {
            let words = (name.to_owned(), address.to_owned(), ifname.to_owned());
            let asked =
                v1::AttachRequest { name: words.0, address: words.1, ifname: words.2, ..request() };
            AttachSpec::try_from(asked).expect("sound").fits(&there)
        };

        assert!(fits("", "", "") && fits("web", "10.9.0.7", "eth0") && fits("", "10.9.0.7", ""));
        assert!(!fits("x", "", "") && !fits("web", "10.9.0.8", "") && !fits("", "", "eth1"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let broken = [
            v1::AttachRequest { netns: String::new(), ..request() },
            v1::AttachRequest { runtime: v1::Runtime::Host.into(), ..request() },
            v1::AttachRequest { runtime: v1::Runtime::Run.into(), ..request() },
            v1::AttachRequest { runtime: v1::Runtime::Docker.into(), ..request() },
            v1::AttachRequest { runtime: 99, ..request() },
            v1::AttachRequest { name: "../x".into(), ..request() },
            v1::AttachRequest { aliases: vec!["a b".into()], ..request() },
            v1::AttachRequest { address: "fd00::1".into(), ..request() },
            v1::AttachRequest { labels: [(String::new(), String::new())].into(), ..request() },
            v1::AttachRequest { name: "LocalHost".into(), ..request() },
            v1::AttachRequest { name: "0123456789ab".into(), ..request() },
            v1::AttachRequest { aliases: vec!["0123456789ab".into()], ..request() },
            v1::AttachRequest { aliases: vec!["a.localhost".into()], ..request() },
        ];

        for request in broken {
            assert!(AttachSpec::try_from(request.clone()).is_err(), "{request:?}");
        }
    }

    #[test]
    fn addresses_that_belong_to_the_network_itself_are_refused() {
        let network = Network {
            id: NetworkId::FIRST,
            name: "blue".parse().expect("a name"),
            prefix: "10.1.0.0/24".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
            creator: None,
        };

        for last in [0, 1, 255] {
            assert!(try_fixed(&network, Ipv4Addr::new(10, 1, 0, last)).is_err(), "{last}");
        }
        assert!(try_fixed(&network, Ipv4Addr::new(10, 2, 0, 9)).is_err());
        assert!(try_fixed(&network, Ipv4Addr::new(10, 1, 0, 9)).is_ok());
    }
}
