//! What results look like: for scripts, stable JSON fields; for people, lines and tables.

mod endpoint;
mod network;
mod node;
mod peer;
mod status;
mod token;

pub(crate) use endpoint::{EndpointView, Endpoints};
pub(crate) use network::{Inspection, NetworkView, Networks};
pub(crate) use node::Nodes;
pub(crate) use peer::{Detail, Peers};
pub(crate) use status::StatusView;
pub(crate) use token::{TokenView, Tokens};

use overlay_proto::v1;
use serde::Serialize;

use crate::output::{Page, Report};

/// What a removal did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Removed {
    pub(crate) removed: Vec<String>,
}

impl Report for Removed {
    fn text(&self, _: Page) -> String {
        self.removed.join("\n")
    }
}

/// Writes two columns of words, the first one as wide as its longest.
fn pairs(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(key, _)| key.len()).max().unwrap_or(0);
    let lines: Vec<_> = rows.iter().map(|(key, value)| format!("{key:width$}  {value}")).collect();

    lines.join("\n")
}

fn role(raw: i32) -> &'static str {
    match v1::Role::try_from(raw) {
        Ok(v1::Role::Admin) => "admin",
        Ok(v1::Role::Node) => "node",
        Ok(v1::Role::Unspecified) | Err(_) => "unknown",
    }
}

fn runtime(raw: i32) -> &'static str {
    match v1::Runtime::try_from(raw) {
        Ok(v1::Runtime::Run) => "run",
        Ok(v1::Runtime::Attach) => "attach",
        Ok(v1::Runtime::Host) => "host",
        Ok(v1::Runtime::Docker) => "docker",
        Ok(v1::Runtime::Cni) => "cni",
        Ok(v1::Runtime::Unspecified) | Err(_) => "unknown",
    }
}
