//! `overlayctl peers`.

use clap::Args;
use overlay_proto::v1;

use super::Context;
use crate::failure::Outcome;
use crate::view::Peers as View;

const EXAMPLE: &str = "\
UNDERLAY is the address and UDP port at which the peer is reached; WireGuard calls it the peer's endpoint.
There is one line for each network and lane, because each has a key of its own.

Examples:
  overlayctl peers
  overlayctl peers --json | jq '.[] | select(.state != \"up\")'";

/// List the other nodes as the data path sees them: where, whether they answer, how much went through
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Peers {}

impl Peers {
    pub(crate) async fn run(&self, context: &Context) -> Outcome {
        let peers = context.agent().await?.peers(v1::PeersRequest {}).await?;

        context.output.show(&View::from(peers))
    }
}
