//! `overlayctl endpoint`.

use clap::{Args, Subcommand};
use overlay_proto::v1;

use super::Context;
use crate::failure::Outcome;
use crate::view::Endpoints;

const EXAMPLE: &str = "\
Examples:
  overlayctl endpoint ls
  overlayctl endpoint ls --network my-network --json";

/// See what is on the networks
#[derive(Debug, Subcommand)]
pub(crate) enum Endpoint {
    Ls(Ls),
}

/// List endpoints over all hosts: name, address, node, labels, runtime
#[derive(Debug, Args)]
#[command(visible_alias = "list", after_help = EXAMPLE)]
pub(crate) struct Ls {
    /// Only those of this network (name or id)
    #[arg(long, value_name = "NETWORK")]
    network: Option<String>,
}

impl Endpoint {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        let Self::Ls(Ls { network }) = self;
        let request = v1::ListEndpointsRequest { network: network.unwrap_or_default() };
        let endpoints = context.agent().await?.list_endpoints(request).await?;

        context.output.show(&Endpoints::from(endpoints))
    }
}
