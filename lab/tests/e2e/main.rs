//! The whole product on hosts made of namespaces: what users do, and what goes wrong around them.

mod admission;
mod audit;
mod bench;
mod checks;
mod documents;
mod door;
mod links;
mod main_job;
mod misuse;
mod names;
mod policy;
mod policy_files;
mod policy_shadow;
mod setup;
#[path = "../support/mod.rs"]
mod support;

use overlay_lab::Cluster;

use support::{lab, skip};

/// Makes hosts with Overlay on them, or returns `None` with a message if the system allows no
/// namespaces.
fn cluster(nodes: usize) -> Option<Cluster> {
    Some(Cluster::on(lab(nodes)?).unwrap_or_else(|error| panic!("{error:#}")))
}
