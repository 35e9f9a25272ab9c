//! `overlayctl control`.

use clap::{Args, Subcommand};
use overlay_proto::v1;

use super::Context;
use crate::failure::Outcome;
use crate::output::ListArgs;
use crate::view::{ControlAddressList, ControlSet};

const CONTROL_EXAMPLE: &str = "\
Examples:
  overlayctl control ls
  overlayctl control set 192.0.2.9";
const LS_EXAMPLE: &str = "\
Nodes learn control's addresses from control itself, follow it over the tunnel to its host when that moves, and fall back \
on the join line.

Example:
  overlayctl control ls";
const SET_EXAMPLE: &str = "\
For a node that cannot find control any more, as after both moved while it was off. Control must answer at one of the \
addresses and prove that it is this cluster's. Works on this node alone; the others are told by control once they reach it.

Examples:
  overlayctl control set 192.0.2.9
  overlayctl control set control.example:7443 [2001:db8::9]:7443";

/// See where this node looks for control, and tell it where control is
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, after_help = CONTROL_EXAMPLE)]
pub(crate) struct ControlArgs {
    #[command(subcommand)]
    command: Option<Control>,
    #[command(flatten)]
    list: ListArgs,
}

/// What can be done with control's addresses.
#[derive(Debug, Subcommand)]
enum Control {
    Ls(Ls),
    Set(Set),
}

/// List control's addresses, in the order in which they are tried
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = LS_EXAMPLE)]
struct Ls {
    #[command(flatten)]
    list: ListArgs,
}

/// Tell this node where control is
#[derive(Debug, Args)]
#[command(after_help = SET_EXAMPLE)]
struct Set {
    /// Where control listens; without a port, the known one
    #[arg(required = true, value_name = "ADDRESS[:PORT]")]
    addresses: Vec<String>,
    /// Also when control does not answer there
    #[arg(long)]
    force: bool,
}

impl ControlArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        match self.command {
            Some(Control::Ls(Ls { list })) => ls(&list, context).await,
            None => ls(&self.list, context).await,
            Some(Control::Set(Set { addresses, force })) => {
                let request = v1::SetControlRequest { addresses, force };
                let done = context.agent().await?.set_control(request).await?;

                context.output.show(&ControlSet { answered: done.answered })
            }
        }
    }
}

async fn ls(list: &ListArgs, context: &Context) -> Outcome {
    let ask = async || {
        let listed = context.agent().await?.list_control(v1::ListControlRequest {}).await?;
        Ok(ControlAddressList::from(listed))
    };

    context.list(list, ask).await
}
