//! `overlayctl network`.

use std::net::Ipv4Addr;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use overlay_core::Name;
use overlay_proto::{Code, Refusal, v1};

use super::Context;
use crate::args::label;
use crate::failure::{Failure, Outcome};
use crate::view::{Endpoints, Inspection, NetworkView, Networks, Removed};

const CREATE_EXAMPLE: &str = "\
Examples:
  overlayctl network create my-network
  overlayctl network create db --subnet 10.9.0.0/16 --subnet fd00:9::/64 --label team=store";
const LS_EXAMPLE: &str = "Example:\n  overlayctl network ls --json | jq -r '.[].name'";
const INSPECT_EXAMPLE: &str = "Example:\n  overlayctl network inspect my-network";
const RM_EXAMPLE: &str = "Example:\n  overlayctl network rm my-network";

/// Make, list and remove networks; every host sees the same ones
#[derive(Debug, Subcommand)]
pub(crate) enum Network {
    Create(Create),
    Ls(Ls),
    Inspect(Inspect),
    Rm(Rm),
}

/// Make a network
#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
pub(crate) struct Create {
    /// Its name: one DNS label
    name: Name,
    /// Its prefix, once for IPv4 and once for IPv6; without one, control chooses from its pool
    #[arg(long = "subnet", value_name = "CIDR")]
    subnets: Vec<IpNet>,
    /// How packets are carried
    #[arg(long, value_enum, default_value = "l3")]
    mode: Mode,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The IPv4 gateway, if not the first address of the prefix
    #[arg(long, value_name = "IP")]
    gateway: Option<Ipv4Addr>,
    /// The part of the prefix that addresses are given out of
    #[arg(long, value_name = "CIDR")]
    ip_range: Option<ipnet::Ipv4Net>,
    /// Container engines give its containers no way out
    #[arg(long)]
    internal: bool,
}

/// How a network carries packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// routed; no broadcast, no multicast
    L3,
    /// one Ethernet segment
    L2,
}

impl Mode {
    /// Returns the number on the wire; what the server does not know, it refuses.
    fn wire(self) -> i32 {
        match self {
            Self::L3 => v1::NetworkMode::L3.into(),
            Self::L2 => 2,
        }
    }
}

/// List the networks
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
pub(crate) struct Ls {}

/// Show a network, its members and its endpoints
#[derive(Debug, Args)]
#[command(visible_alias = "show", after_help = INSPECT_EXAMPLE)]
pub(crate) struct Inspect {
    /// Its name or id
    name: String,
}

/// Remove networks; refused while they have endpoints
#[derive(Debug, Args)]
#[command(after_help = RM_EXAMPLE)]
pub(crate) struct Rm {
    /// Their names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Also when endpoints are on it
    #[arg(long)]
    force: bool,
}

impl Network {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(create) => create.run(context).await,
            Self::Ls(_) => {
                let networks = context.agent().await?.list_networks(v1::ListNetworksRequest {}).await?;
                context.output.show(&Networks::from(networks))
            }
            Self::Inspect(inspect) => inspect.run(context).await,
            Self::Rm(rm) => rm.run(context).await,
        }
    }
}

impl Create {
    async fn run(self, context: &Context) -> Outcome {
        let request = self.request()?;
        let response = context.agent().await?.create_network(request).await?;
        let state = v1::NetworkState { network: response.network, ..v1::NetworkState::default() };

        context.output.show(&NetworkView::from(state))
    }

    fn request(self) -> Outcome<v1::CreateNetworkRequest> {
        let (v4, v6): (Vec<_>, Vec<_>) = self.subnets.iter().partition(|subnet| matches!(subnet, IpNet::V4(_)));
        if v4.len() > 1 || v6.len() > 1 {
            let text = "a network has one IPv4 prefix and at most one IPv6 prefix: give --subnet once for each";
            return Err(Failure::Usage(text.to_owned()));
        }
        let text = |subnet: Option<&IpNet>| subnet.map(ToString::to_string).unwrap_or_default();

        Ok(v1::CreateNetworkRequest {
            name: self.name.into(),
            prefix: text(v4.first()),
            prefix6: text(v6.first()),
            mode: self.mode.wire(),
            labels: self.labels.into_iter().collect(),
            settings: Some(v1::NetworkSettings {
                gateway: self.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
                range: self.ip_range.map(|range| range.to_string()).unwrap_or_default(),
                internal: self.internal,
                ..v1::NetworkSettings::default()
            }),
            id: String::new(),
        })
    }
}

impl Inspect {
    async fn run(self, context: &Context) -> Outcome {
        let mut agent = context.agent().await?;
        let networks = Networks::from(agent.list_networks(v1::ListNetworksRequest {}).await?);
        let network = networks.find(&self.name).ok_or_else(|| missing(&self.name))?;
        let request = v1::ListEndpointsRequest { network: network.id.clone() };
        let endpoints = Endpoints::from(agent.list_endpoints(request).await?);

        context.output.show(&Inspection { network, endpoints })
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(Code::NotFound, format!("there is no network {name:?}: `overlayctl network ls` lists them"))
}

impl Rm {
    async fn run(self, context: &Context) -> Outcome {
        let mut agent = context.agent().await?;
        for name in &self.names {
            let request = v1::RemoveNetworkRequest { network: name.clone(), force: self.force };
            agent.remove_network(request).await?;
        }

        context.output.show(&Removed { removed: self.names })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(subnets: &[&str]) -> Create {
        Create {
            name: "web".parse().expect("a name"),
            subnets: subnets.iter().map(|s| s.parse().expect("a prefix")).collect(),
            mode: Mode::L2,
            labels: vec![("a".into(), "b".into())],
            gateway: None,
            ip_range: None,
            internal: false,
        }
    }

    #[test]
    fn subnets_find_their_family() {
        let request = create(&["fd00::/64", "10.9.0.0/16"]).request().expect("one a family");

        assert_eq!((request.prefix.as_str(), request.prefix6.as_str()), ("10.9.0.0/16", "fd00::/64"));
        assert_eq!(request.mode, 2);
    }

    #[test]
    fn two_subnets_of_one_family_are_wrong_usage() {
        let failure = create(&["10.8.0.0/16", "10.9.0.0/16"]).request().expect_err("two of IPv4");

        assert_eq!(failure.exit_code(), 2);
    }
}
