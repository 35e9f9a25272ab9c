//! `overlayctl status`.

use std::cell::Cell;

use clap::Args;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::output::ListArgs;
use crate::view::StatusView;

const EXAMPLE: &str = "\
Examples:
  overlayctl status
  overlayctl status --watch
  overlayctl status --check || echo 'something is wrong'
  overlayctl status --json | jq '.problems'";

/// Tell what works on this node and what does not, with the reason and since when
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct StatusArgs {
    /// Exit with 1 when there is a problem; what is printed stays the same
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    list: ListArgs,
}

impl StatusArgs {
    pub(crate) async fn run(&self, context: &Context) -> Outcome {
        let healthy = Cell::new(true);
        let ask = async || {
            let view = StatusView::from(context.status().await?);
            healthy.set(view.healthy);

            Ok(view)
        };
        context.list(&self.list, ask).await?;

        if self.check && !healthy.get() { Err(Failure::Exit(1)) } else { Ok(()) }
    }
}
