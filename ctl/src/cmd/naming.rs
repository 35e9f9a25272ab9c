//! How an endpoint is known to the others: what `run` and `attach` share.

use std::net::Ipv4Addr;

use clap::Args;
use overlay_core::Alias;

use crate::values::{ipv4, label};

/// How an endpoint is known to the others.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct NamingArgs {
    /// A fixed IPv4 address of the network; without it, the next free one
    #[arg(long, value_name = "ADDRESS", value_parser = ipv4)]
    pub(crate) ip: Option<Ipv4Addr>,
    /// One more name; may be repeated
    #[arg(long = "alias", value_name = "NAME")]
    pub(crate) aliases: Vec<Alias>,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "K=V", value_parser = label)]
    pub(crate) labels: Vec<(String, String)>,
}
