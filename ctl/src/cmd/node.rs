//! `overlayctl node`.

use std::net::SocketAddr;

use clap::{Args, Subcommand};
use overlay_proto::{Code, Refusal, v1};

use super::Context;
use crate::confirm::confirm;
use crate::failure::Outcome;
use crate::output::{ListArgs, ShowArgs};
use crate::view::Nodes;

const NODE_EXAMPLE: &str = "\
Examples:
  overlayctl node                                     the same as `node ls`
  overlayctl node show host-b";
const LS_EXAMPLE: &str = "\
Examples:
  overlayctl node ls
  overlayctl node ls --watch
  overlayctl node ls --format 'table {{.Name}}\\t{{.Online}}\\t{{.Underlay}}'";
const SHOW_EXAMPLE: &str = "\
Examples:
  overlayctl node show host-b --json
  overlayctl node show host-b host-c --format '{{.Name}} {{.Version}}'";
const RM_EXAMPLE: &str = "\
Its certificate and keys are refused by all others from then on. A node that is only away needs no removal. The last \
admin, and the node that control runs on, are asked about first; without a terminal only --force removes them.

Example:
  overlayctl node rm host-b";

/// See the nodes, and expel one
#[derive(Debug, Args)]
#[command(visible_alias = "nodes", args_conflicts_with_subcommands = true, after_help = NODE_EXAMPLE)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    command: Option<Node>,
    #[command(flatten)]
    list: ListArgs,
}

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
enum Node {
    Ls(Ls),
    Show(Show),
    Rm(Rm),
}

/// List the nodes
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
struct Ls {
    #[command(flatten)]
    list: ListArgs,
}

/// Show nodes
#[derive(Debug, Args)]
#[command(visible_alias = "inspect", after_help = SHOW_EXAMPLE)]
struct Show {
    /// Their names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    show: ShowArgs,
}

/// Expel nodes
#[derive(Debug, Args)]
#[command(visible_alias = "remove", after_help = RM_EXAMPLE)]
struct Rm {
    /// Their names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Without questions
    #[arg(long)]
    force: bool,
}

impl NodeArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command.unwrap_or(Node::Ls(Ls { list: self.list })) {
            Node::Ls(Ls { list }) => context.list(&list, async || nodes(context).await).await,
            Node::Show(Show { names, show }) => {
                let nodes = nodes(context).await?;
                let find = async |name: &str| {
                    nodes.find(name).map(|node| vec![node]).ok_or_else(|| missing(name))
                };
                context.show_each(show, &names, find).await
            }
            Node::Rm(Rm { names, force }) => {
                if !force && let Some(loss) = loss(&names, context).await? {
                    confirm(&context.output, force, &loss, "Remove it?")?;
                }
                let mut agent = context.agent().await?;
                let remove = async |name: &str| {
                    agent
                        .remove_node(v1::RemoveNodeRequest { node: name.to_owned() })
                        .await
                        .map(drop)
                };
                context.remove_each(names, remove).await
            }
        }
    }
}

async fn nodes(context: &Context) -> Result<Nodes, Refusal> {
    Ok(Nodes::from(context.agent().await?.list_nodes(v1::ListNodesRequest {}).await?))
}

fn missing(name: &str) -> Refusal {
    Refusal::new(
        Code::NotFound,
        format!("there is no node {name:?}: `overlayctl node ls` lists them"),
    )
}

/// Says what the cluster cannot do any more without these nodes.
async fn loss(names: &[String], context: &Context) -> Result<Option<String>, Refusal> {
    let status = context.status().await?;
    let control = status.control.unwrap_or_default().address;
    let control = control.parse::<SocketAddr>().ok().map(|address| address.ip());

    Ok(nodes(context).await?.loss(names, control, &status.node))
}
