//! `overlayctl node`.

use clap::{Args, Subcommand};
use overlay_proto::{Code, Refusal, v1};

use super::Context;
use crate::failure::Outcome;
use crate::view::{Nodes, Removed};

const LS_EXAMPLE: &str = "Example:\n  overlayctl node ls";
const SHOW_EXAMPLE: &str = "Example:\n  overlayctl node show host-b --json";
const RM_EXAMPLE: &str = "\
Its certificate and keys are refused by all others from then on. A node that is only away needs no removal.

Example:
  overlayctl node rm host-b";

/// See the nodes, and expel one
#[derive(Debug, Subcommand)]
pub(crate) enum Node {
    Ls(Ls),
    Show(Show),
    Rm(Rm),
}

/// List the nodes
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
pub(crate) struct Ls {}

/// Show one node
#[derive(Debug, Args)]
#[command(visible_alias = "inspect", after_help = SHOW_EXAMPLE)]
pub(crate) struct Show {
    /// Its name or id
    name: String,
}

/// Expel nodes
#[derive(Debug, Args)]
#[command(after_help = RM_EXAMPLE)]
pub(crate) struct Rm {
    /// Their names or ids
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
}

impl Node {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let mut agent = context.agent().await?;
        match self {
            Self::Ls(_) => context.output.show(&Nodes::from(agent.list_nodes(v1::ListNodesRequest {}).await?)),
            Self::Show(Show { name }) => {
                let nodes = Nodes::from(agent.list_nodes(v1::ListNodesRequest {}).await?);
                let node = nodes.find(&name).ok_or_else(|| {
                    Refusal::new(Code::NotFound, format!("there is no node {name:?}: `overlayctl node ls` lists them"))
                })?;
                context.output.show(&node)
            }
            Self::Rm(Rm { names }) => {
                for node in &names {
                    agent.remove_node(v1::RemoveNodeRequest { node: node.clone() }).await?;
                }
                context.output.show(&Removed { removed: names })
            }
        }
    }
}
