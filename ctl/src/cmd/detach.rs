//! `overlayctl detach`.

use std::path::PathBuf;

use clap::Args;
use overlay_core::Name;
use overlay_proto::v1;
use serde::Serialize;

use super::Context;
use crate::failure::{Failure, Outcome};
use crate::output::{Page, Report};

const EXAMPLE: &str = "\
Examples:
  overlayctl detach --network my-network --name web
  overlayctl detach 5d3c0f8a2b11    by the id that `endpoint ls -q` shows";

const USAGE: &str = "\
overlayctl detach [OPTIONS] <ENDPOINT>
       overlayctl detach [OPTIONS] --network <NETWORK> --name <NAME>";

/// Take a namespace or this host off a network
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE, override_usage = USAGE)]
pub(crate) struct DetachArgs {
    /// The endpoint's id: 12 hex digits
    #[arg(conflicts_with_all = ["network", "name"])]
    endpoint: Option<String>,
    /// The network (name or id)
    #[arg(long, requires = "name")]
    network: Option<String>,
    /// The endpoint's name
    #[arg(long, requires = "network")]
    name: Option<Name>,
    /// Not needed: taken so that a detach reads like its attach
    #[arg(long, value_name = "PATH", hide = true)]
    netns: Option<PathBuf>,
    /// Not needed: taken so that a detach reads like its attach
    #[arg(long, hide = true)]
    host: bool,
}

/// How many endpoints were detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Detached {
    detached: u32,
}

impl Report for Detached {
    fn text(&self, _: Page) -> String {
        match self.detached {
            0 => "nothing was attached".to_owned(),
            1 => "detached".to_owned(),
            more => format!("detached {more} endpoints"),
        }
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
}

impl DetachArgs {
    pub(crate) async fn run(self, context: &Context) -> Outcome {
        if self.endpoint.is_none() && self.name.is_none() {
            let text = "say which endpoint: its id, or --network and --name as it was attached";
            return Err(Failure::Usage(text.to_owned()));
        }
        let request = v1::DetachRequest {
            endpoint: self.endpoint.unwrap_or_default(),
            network: self.network.unwrap_or_default(),
            name: self.name.map(Into::into).unwrap_or_default(),
        };
        let detached = context.agent().await?.detach(request).await?.detached;

        context.output.show(&Detached { detached })
    }
}
