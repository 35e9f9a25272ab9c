//! `overlayctl peers`.

use clap::Args;
use overlay_proto::v1;

use super::Context;
use crate::failure::Outcome;
use crate::output::ListArgs;
use crate::view::{Detail, Peers as View};

const EXAMPLE: &str = "\
UNDERLAY is the address and UDP port at which the peer is reached; WireGuard calls it the peer's endpoint.

Each network and lane has a key, and so a tunnel, of its own: LANES UP counts those in use. JSON has all of them, below \
the peer and network that they belong to.

Examples:
  overlayctl peers
  overlayctl peers --watch
  overlayctl peers --format 'table {{.Node}}\\t{{.State}}\\t{{.UnderlayAddr}}'
  overlayctl peers --json | jq '.[] | select(.state != \"up\")'";

/// List the other nodes as the data path sees them: where, whether they answer, how much went
/// through
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct PeersArgs {
    /// One line for each pair of lanes, this node's and the peer's
    #[arg(long)]
    lanes: bool,
    #[command(flatten)]
    list: ListArgs,
}

impl PeersArgs {
    pub(crate) async fn run(&self, context: &Context) -> Outcome {
        let detail = if self.lanes { Detail::Lanes } else { Detail::Nodes };
        let peers = async || {
            Ok(View::new(context.agent().await?.peers(v1::PeersRequest {}).await?, detail))
        };

        context.list(&self.list, peers).await
    }
}
