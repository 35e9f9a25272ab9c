//! A request to attach, checked field by field before anything is touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use overlay_core::{Alias, Name, Network, Runtime, View};
use overlay_proto::convert::{self, MAX_ALIASES};
use overlay_proto::{Code, Refusal, v1};

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

impl TryFrom<v1::AttachRequest> for AttachSpec {
    type Error = Refusal;

    fn try_from(request: v1::AttachRequest) -> Result<Self, Refusal> {
        let refuse = |text: &str| Err(Refusal::new(Code::InvalidInput, text));
        let runtime: Runtime = convert::wire_enum::<v1::Runtime>(request.runtime).try_into()?;
        match (runtime, request.netns.is_empty(), request.owner_pid) {
            (Runtime::Host, false, _) => {
                return refuse("netns must be empty when the host itself is attached");
            }
            (Runtime::Host, true, _) | (Runtime::Run | Runtime::Attach, false, _) => {}
            (Runtime::Run | Runtime::Attach, true, _) => return refuse("netns is missing"),
            (Runtime::Docker | Runtime::Cni, _, _) => {
                return refuse("runtime must be run, attach or host");
            }
        }
        if runtime == Runtime::Run && request.owner_pid == 0 {
            return refuse("owner_pid is missing; an endpoint of a command goes with its process");
        }
        if request.aliases.len() > MAX_ALIASES {
            return refuse("there are more than 64 aliases");
        }
        let optional = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let aliases = request.aliases.iter().map(|alias| convert::field("alias", alias));

        Ok(Self {
            network: request.network,
            name: optional(&request.name).map(|name| convert::field("name", &name)).transpose()?,
            aliases: aliases.collect::<Result<_, _>>()?,
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

/// Finds a network by name or id, and refuses one that is not there.
pub(crate) fn require_network<'a>(view: &'a View, text: &str) -> Result<&'a Network, Refusal> {
    find_network(view, text).ok_or_else(|| {
        let shown: String = text.chars().take(80).collect();
        Refusal::new(
            Code::NotFound,
            format!("there is no network {shown:?}: `overlayctl network ls` lists them"),
        )
    })
}

/// Checks that a fixed address is one that an endpoint of the network may have.
pub(crate) fn try_fixed(network: &Network, address: Ipv4Addr) -> Result<Ipv4Addr, Refusal> {
    let prefix = network.prefix;
    let refuse =
        |why: String| Err(Refusal::new(Code::InvalidInput, format!("address {address} {why}")));
    if !prefix.contains(&address) {
        return refuse(format!("is not in {prefix}, the prefix of {}", network.name));
    }
    if address == network.gateway() {
        return refuse(format!("is the gateway of {}", network.name));
    }
    if network.is_reserved(address) {
        return refuse(format!("is the first or last of {prefix}, or reserved"));
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

        assert_eq!(refusal.code, Code::NotFound);
        assert!(refusal.message.contains("\"blue\""), "{refusal}");
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
        };

        for last in [0, 1, 255] {
            assert!(try_fixed(&network, Ipv4Addr::new(10, 1, 0, last)).is_err(), "{last}");
        }
        assert!(try_fixed(&network, Ipv4Addr::new(10, 2, 0, 9)).is_err());
        assert!(try_fixed(&network, Ipv4Addr::new(10, 1, 0, 9)).is_ok());
    }
}
