//! What results look like: for scripts, stable JSON fields; for people, lines and tables.

mod audit;
mod control;
mod endpoint;
mod network;
mod node;
mod peer;
mod policy;
mod policy_counts;
mod policy_history;
mod status;
mod token;

pub(crate) use audit::{AuditDetails, AuditLog, AuditView, VerifiedAudit};
pub(crate) use control::{ControlAddressList, ControlSet};
pub(crate) use endpoint::{EndpointList, EndpointView};
pub(crate) use network::{Inspection, LinkedNetwork, NetworkView, Networks};
pub(crate) use node::Nodes;
pub(crate) use peer::{Detail, Peers};
pub(crate) use policy::{PolicyDifference, TestedPolicy};
pub(crate) use policy_counts::PolicyCounts;
pub(crate) use policy_history::{PolicyHistory, ReplacedPolicy, ShownPolicy};
pub(crate) use status::StatusView;
pub(crate) use token::{TokenView, Tokens};

use overlay_proto::v1;
use serde::Serialize;

use crate::output::{Cell, Column, Page, Report, table};

/// The outcome of a removal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Removed {
    pub(crate) removed: Vec<String>,
}

impl Report for Removed {
    fn text(&self, _: Page) -> String {
        self.removed.join("\n")
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.removed.clone())
    }
}

/// Writes two columns of words, without a heading.
fn pairs<T: Clone + Into<Cell>>(page: Page, rows: &[(&str, T)]) -> String {
    let cells: Vec<_> =
        rows.iter().map(|(key, value)| vec![(*key).into(), value.clone().into()]).collect();
    let text = table(page, &[Column::left(""), Column::prose("")], &cells);

    text.split_once('\n').map(|(_, rows)| rows.to_owned()).unwrap_or_default()
}

/// Sorts names, as people look for them.
fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();

    names
}

/// Returns a row of a listing in which every field is there.
fn sample<T: Serialize>(row: T) -> Option<serde_json::Value> {
    serde_json::to_value(row).ok()
}

fn role(raw: i32) -> &'static str {
    match v1::Role::try_from(raw) {
        Ok(v1::Role::Admin) => "admin",
        Ok(v1::Role::Node) => "node",
        Ok(v1::Role::Worker) => "worker",
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
