//! `overlayctl network`.

use std::net::Ipv4Addr;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use ipnet::IpNet;
use overlay_core::{Lease, Name, Selector};
use overlay_proto::{Code, Refusal, v1};

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{ListArgs, ShowArgs};
use crate::values::{ipv4, label, nodes, subnet, subnet4};
use crate::view::{EndpointList, Inspection, LinkedNetwork, NetworkView, Networks};

const NETWORK_EXAMPLE: &str = "\
Examples:
  overlayctl network create my-network
  overlayctl network                                  the same as `network ls`
  overlayctl network inspect my-network
  overlayctl network set my-network --nodes 'role in (web,db)'
  overlayctl network link front back
  overlayctl network rm my-network";
const CREATE_EXAMPLE: &str = "\
Examples:
  overlayctl network create my-network
  overlayctl network create db --subnet 10.9.0.0/16 --subnet fd00:9::/64
  overlayctl network create vault --nodes 'role=db,site in (a,b)'
  overlayctl network create till --lease 15m";
const SET_EXAMPLE: &str = "\
Nodes have the labels of the token that they joined by: see `overlayctl node ls`. Those that do not \
match any more are put out at once: their endpoints on the network end. With a lease, a node that has not heard \
control for so long carries no packet of the network, for a peer may have been removed meanwhile.

Examples:
  overlayctl network set vault --nodes 'role=db'
  overlayctl network set vault --nodes ''                 every node
  overlayctl network set vault --lease 1h
  overlayctl network set vault --no-lease";
const LINK_EXAMPLE: &str = "\
Containers of either network reach those of the other by `name.network`, through hosts that are in \
both. It is not transitive: with links a-b and b-c, a does not reach c. To link again changes what \
passes.

Examples:
  overlayctl network link front back
  overlayctl network link front back --only policy   what rules allow, no more";
const UNLINK_EXAMPLE: &str = "\
Connections between the two end at once.

Examples:
  overlayctl network unlink front back";
const LS_EXAMPLE: &str = "\
A dash (–) under MEMBERS and ENDPOINTS: this node is no member of the network, and may not see them.

Examples:
  overlayctl network ls
  overlayctl network ls -o wide
  overlayctl network ls --format 'table {{.Name}}\\t{{.Prefix}}'
  overlayctl network ls --json | jq -r '.[].name'";
const INSPECT_EXAMPLE: &str = "\
Examples:
  overlayctl network inspect my-network
  overlayctl network inspect front back --format '{{.Name}}: {{.Members}}'";
const RM_EXAMPLE: &str = "\
Each is tried, whatever becomes of the others.

Examples:
  overlayctl network rm my-network
  overlayctl network rm front back";

/// Make, list and remove networks; every host sees the same ones
#[derive(Debug, Args)]
#[command(visible_aliases = ["net", "networks"], args_conflicts_with_subcommands = true, after_help = NETWORK_EXAMPLE)]
pub(crate) struct NetworkArgs {
    #[command(subcommand)]
    command: Option<Network>,
    #[command(flatten)]
    list: ListArgs,
}

/// What can be done with networks.
#[derive(Debug, Subcommand)]
enum Network {
    Create(Create),
    Set(Set),
    Link(Link),
    Unlink(Unlink),
    Ls(Ls),
    Inspect(Inspect),
    Rm(Rm),
}

/// Make a network
#[derive(Debug, Args)]
#[command(after_help = CREATE_EXAMPLE)]
struct Create {
    /// Its name: one DNS label
    name: Name,
    /// Its prefix, once for IPv4 and once for IPv6; without one, control chooses from its pool
    #[arg(long = "subnet", value_name = "CIDR", value_parser = subnet)]
    subnets: Vec<IpNet>,
    /// How packets are carried
    #[arg(long, default_value = "l3", value_parser = mode)]
    mode: v1::NetworkMode,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    labels: Vec<(String, String)>,
    /// The IPv4 gateway, if not the first address of the prefix
    #[arg(long, value_name = "IP", value_parser = ipv4)]
    gateway: Option<Ipv4Addr>,
    /// The part of the prefix that addresses are given out of
    #[arg(long, value_name = "CIDR", value_parser = subnet4)]
    ip_range: Option<ipnet::Ipv4Net>,
    /// Container engines give its containers no way out
    #[arg(long)]
    internal: bool,
    /// Which nodes may enter and see it, by their labels: k=v, k!=v, k in (a,b), k notin (a,b), k,
    /// !k, with commas between
    #[arg(long, value_name = "SELECTOR", value_parser = nodes)]
    nodes: Option<Selector>,
    /// How long its nodes trust each other without hearing control, from 10s to 30d; for ever
    /// without it
    #[arg(long, value_name = "TIME")]
    lease: Option<Lease>,
}

/// How a network carries packets.
fn mode(text: &str) -> Result<v1::NetworkMode, String> {
    match text {
        "l3" => Ok(v1::NetworkMode::L3),
        "l2" => Err(
            "this version does not have l2 yet, the word is reserved; l3 is there, and is routed"
                .to_owned(),
        ),
        _ => Err("write it as l3".to_owned()),
    }
}

/// Change a network
#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLE)]
#[command(group(
    ArgGroup::new("change").args(["nodes", "lease", "no_lease"]).required(true).multiple(true)
))]
struct Set {
    /// Its name or id
    #[arg(value_name = "NAME")]
    network: String,
    /// Which nodes may enter and see it, by their labels; '' for every node
    #[arg(long, value_name = "SELECTOR", value_parser = nodes)]
    nodes: Option<Selector>,
    /// How long its nodes trust each other without hearing control, from 10s to 30d
    #[arg(long, value_name = "TIME", conflicts_with = "no_lease")]
    lease: Option<Lease>,
    /// Its nodes trust each other for ever
    #[arg(long)]
    no_lease: bool,
}

/// Let two networks reach each other
#[derive(Debug, Args)]
#[command(after_help = LINK_EXAMPLE)]
struct Link {
    /// The name or id of one
    #[arg(value_name = "A")]
    one: String,
    /// The name or id of the other
    #[arg(value_name = "B")]
    other: String,
    /// Between the two only what a rule of the policy allows passes; without it, the networks'
    /// defaults decide
    #[arg(long, value_name = "WHAT")]
    only: Option<Only>,
}

/// What passes between linked networks.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Only {
    /// What a rule of the policy allows
    Policy,
}

/// Keep two linked networks apart again
#[derive(Debug, Args)]
#[command(after_help = UNLINK_EXAMPLE)]
struct Unlink {
    /// The name or id of one
    #[arg(value_name = "A")]
    one: String,
    /// The name or id of the other
    #[arg(value_name = "B")]
    other: String,
}

/// List the networks
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
struct Ls {
    #[command(flatten)]
    list: ListArgs,
}

/// Show networks, with their members and endpoints
#[derive(Debug, Args)]
#[command(visible_alias = "show", after_help = INSPECT_EXAMPLE)]
struct Inspect {
    /// Their names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Remove networks; refused while they have endpoints
#[derive(Debug, Args)]
#[command(visible_alias = "remove", after_help = RM_EXAMPLE)]
struct Rm {
    /// Their names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Also when endpoints are on it
    #[arg(long)]
    force: bool,
}

impl NetworkArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command.unwrap_or(Network::Ls(Ls { list: self.list })) {
            Network::Create(create) => create.run(context).await,
            Network::Set(set) => set.run(context).await,
            Network::Link(link) => link.run(context).await,
            Network::Unlink(unlink) => unlink.run(context).await,
            Network::Ls(Ls { list }) => context.list(&list, async || networks(context).await).await,
            Network::Inspect(inspect) => inspect.run(context).await,
            Network::Rm(rm) => rm.run(context).await,
        }
    }
}

async fn networks(context: &Context) -> Result<Networks, Refusal> {
    Ok(Networks::from(context.agent().await?.list_networks(v1::ListNetworksRequest {}).await?))
}

impl Create {
    async fn run(self, context: &Context) -> Outcome {
        let request = self.request()?;
        let response = context.agent().await?.create_network(request).await?;
        let state = v1::NetworkState { network: response.network, ..v1::NetworkState::default() };

        context.output.show(&NetworkView::from(state))
    }

    fn request(self) -> Outcome<v1::CreateNetworkRequest> {
        let (v4, v6): (Vec<_>, Vec<_>) =
            self.subnets.iter().partition(|subnet| matches!(subnet, IpNet::V4(_)));
        if v4.len() > 1 || v6.len() > 1 {
            let text = "a network has one IPv4 prefix and at most one IPv6 prefix: give --subnet once for each";
            return Err(Failure::Usage(text.to_owned()));
        }
        let text = |subnet: Option<&IpNet>| subnet.map(ToString::to_string).unwrap_or_default();

        Ok(v1::CreateNetworkRequest {
            name: self.name.into(),
            prefix: text(v4.first()),
            prefix6: text(v6.first()),
            mode: self.mode.into(),
            labels: self.labels.into_iter().collect(),
            settings: Some(v1::NetworkSettings {
                gateway: self.gateway.map(|gateway| gateway.to_string()).unwrap_or_default(),
                range: self.ip_range.map(|range| range.to_string()).unwrap_or_default(),
                internal: self.internal,
                nodes: self.nodes.unwrap_or_default().to_string(),
                lease_seconds: self.lease.map(u32::from).unwrap_or_default(),
                ..v1::NetworkSettings::default()
            }),
            id: String::new(),
        })
    }
}

impl Set {
    async fn run(self, context: &Context) -> Outcome {
        let lease = self.lease.map(u32::from).or_else(|| self.no_lease.then_some(0));
        let request = v1::SetNetworkRequest {
            network: self.network,
            nodes: self.nodes.map(|nodes| nodes.to_string()),
            lease_seconds: lease,
        };
        let response = context.agent().await?.set_network(request).await?;
        let state = v1::NetworkState { network: response.network, ..v1::NetworkState::default() };

        context.output.show(&NetworkView::from(state))
    }
}

impl Link {
    async fn run(self, context: &Context) -> Outcome {
        let access = match self.only {
            Some(Only::Policy) => v1::LinkAccess::PolicyOnly,
            None => v1::LinkAccess::Defaults,
        };
        let request =
            v1::LinkNetworksRequest { one: self.one, other: self.other, access: access.into() };
        let response = context.agent().await?.link_networks(request).await?;

        show_links(context, response)
    }
}

impl Unlink {
    async fn run(self, context: &Context) -> Outcome {
        let request = v1::UnlinkNetworksRequest { one: self.one, other: self.other };
        let response = context.agent().await?.unlink_networks(request).await?;

        show_links(context, response)
    }
}

fn show_links(context: &Context, response: v1::LinkNetworksResponse) -> Outcome {
    let state = v1::NetworkState { network: response.network, ..v1::NetworkState::default() };

    context.output.show(&LinkedNetwork::from(NetworkView::from(state)))
}

impl Inspect {
    async fn run(self, context: &Context) -> Outcome {
        let networks = networks(context).await?;
        let mut agent = context.agent().await?;
        let find = async |name: &str| {
            let network = networks.find(name).ok_or_else(|| missing(name))?;
            let request = v1::ListEndpointsRequest { network: network.id.clone() };
            let endpoints = EndpointList::from(agent.list_endpoints(request).await?);

            Ok(vec![Inspection::new(network, endpoints)])
        };

        context.show_each(self.show, &self.names, find).await
    }
}

fn missing(name: &str) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!("there is no network {name:?}: `overlayctl network ls` lists them"),
    )
}

impl Rm {
    async fn run(self, context: &Context) -> Outcome {
        let mut agent = context.agent().await?;
        let remove = async |name: &str| {
            let request = v1::RemoveNetworkRequest { network: name.to_owned(), force: self.force };
            agent.remove_network(request).await.map(drop)
        };

        context.remove_each(self.names, remove).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn create(subnets: &[&str]) -> Create {
        Create {
            name: "web".parse().expect("a name"),
            subnets: subnets.iter().map(|s| s.parse().expect("a prefix")).collect(),
            mode: v1::NetworkMode::L3,
            labels: vec![("a".into(), "b".into())],
            gateway: None,
            ip_range: None,
            internal: false,
            nodes: None,
            lease: None,
        }
    }

    #[test]
    fn subnets_find_their_family() {
        let request = create(&["fd00::/64", "10.9.0.0/16"]).request().expect("one a family");

        assert_eq!(
            (request.prefix.as_str(), request.prefix6.as_str()),
            ("10.9.0.0/16", "fd00::/64")
        );
        assert_eq!(request.mode(), v1::NetworkMode::L3);
    }

    #[test]
    fn two_subnets_of_one_family_are_wrong_usage() {
        let failure = create(&["10.8.0.0/16", "10.9.0.0/16"]).request().expect_err("two of IPv4");

        assert_eq!(failure.exit_code(), 2);
    }
}
