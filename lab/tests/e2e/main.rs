//! The whole product on hosts made of namespaces: what users do, and what goes wrong around them.

mod checks;
mod documents;
mod main_job;
mod misuse;

use overlay_lab::{Cluster, Lab};

/// Hosts, or `None`, loudly, where the system allows no namespaces.
fn lab(hosts: usize) -> Option<Lab> {
    match Lab::new(hosts) {
        Ok(lab) => Some(lab),
        Err(error) if error.to_string().contains("allows no namespaces") => {
            skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// Hosts with Overlay on them, or `None`, loudly, where the system allows no namespaces.
fn cluster(nodes: usize) -> Option<Cluster> {
    Some(Cluster::on(lab(nodes)?).unwrap_or_else(|error| panic!("{error:#}")))
}

#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
