//! `overlayctl status`.

use clap::Args;

use super::Context;
use crate::failure::Outcome;
use crate::view::StatusView;

const EXAMPLE: &str = "\
Examples:
  overlayctl status
  overlayctl status --json | jq '.problems'";

/// Tell what works on this node and what does not, with the reason and since when
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(&self, context: &Context) -> Outcome {
        context.output.show(&StatusView::from(context.status().await?))
    }
}
