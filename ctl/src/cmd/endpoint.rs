//! `overlayctl endpoint`, and `overlayctl ps`.

use clap::{Args, Subcommand};
use overlay_proto::{Code, Refusal, v1};

use super::Context;
use crate::failure::Outcome;
use crate::output::{ListArgs, ShowArgs};
use crate::view::EndpointList;

const EXAMPLE: &str = "\
Examples:
  overlayctl endpoint                  the same as `endpoint ls` and `ps`
  overlayctl endpoint show service2";
const LS_EXAMPLE: &str = "\
Examples:
  overlayctl endpoint ls
  overlayctl endpoint ls --network my-network --json
  overlayctl endpoint ls --format '{{.Name}} {{join .Addresses \" \"}}'";
const PS_EXAMPLE: &str = "\
The same as `overlayctl endpoint ls`.

Examples:
  overlayctl ps
  overlayctl ps --network my-network --watch";
const SHOW_EXAMPLE: &str = "\
A name that is on several networks, or that several have, shows all that have it.

Examples:
  overlayctl endpoint show service2
  overlayctl endpoint show service2.my-network --json
  overlayctl endpoint show --network my-network service1 service2";

/// See what is on the networks
#[derive(Debug, Args)]
#[command(visible_aliases = ["endpoints", "ep"], args_conflicts_with_subcommands = true, after_help = EXAMPLE)]
pub(crate) struct EndpointArgs {
    #[command(subcommand)]
    command: Option<Endpoint>,
    #[command(flatten)]
    ls: LsArgs,
}

/// What can be done with endpoints.
#[derive(Debug, Subcommand)]
enum Endpoint {
    Ls(Ls),
    Show(Show),
}

/// List endpoints over all hosts: name, address, node, labels, runtime
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
struct Ls {
    #[command(flatten)]
    ls: LsArgs,
}

/// List endpoints over all hosts: name, address, node, labels, runtime
#[derive(Debug, Args)]
#[command(after_help = PS_EXAMPLE)]
pub(crate) struct PsArgs {
    #[command(flatten)]
    ls: LsArgs,
}

#[derive(Debug, Args)]
struct LsArgs {
    /// Only those of this network (name or id)
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// Show endpoints
#[derive(Debug, Args)]
#[command(visible_alias = "inspect", after_help = SHOW_EXAMPLE)]
struct Show {
    /// Their names, NAME.NETWORK, aliases, addresses or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Only there (name or id)
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
    #[command(flatten)]
    show: ShowArgs,
}

impl EndpointArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command.unwrap_or(Endpoint::Ls(Ls { ls: self.ls })) {
            Endpoint::Ls(Ls { ls }) => ls.run(context).await,
            Endpoint::Show(show) => show.run(context).await,
        }
    }
}

impl PsArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        self.ls.run(context).await
    }
}

impl LsArgs {
    async fn run(self, context: &Context) -> Outcome {
        let network = self.network.unwrap_or_default();

        context.list(&self.list, async || endpoints(context, &network).await).await
    }
}

impl Show {
    async fn run(self, context: &Context) -> Outcome {
        let all = endpoints(context, self.network.as_deref().unwrap_or_default()).await?;
        let find = async |name: &str| match all.find(name) {
            found if found.is_empty() => Err(missing(name)),
            found => Ok(found),
        };

        context.show_each(self.show, &self.names, find).await
    }
}

async fn endpoints(context: &Context, network: &str) -> Result<EndpointList, Refusal> {
    let request = v1::ListEndpointsRequest { network: network.to_owned() };

    Ok(EndpointList::from(context.agent().await?.list_endpoints(request).await?))
}

fn missing(name: &str) -> Refusal {
    let text = format!(
        "there is no endpoint {name:?} that this node may see: `overlayctl endpoint ls` lists them"
    );

    Refusal::new(Code::NotFound, text)
}
