//! What becomes a record: commands, and what else is worth one.

use std::collections::BTreeMap;

use overlay_core::{NodeId, Revision};
use overlay_proto::audit::{AuditRecord, RecordHash, Who};
use serde_json::Value;

use super::CallOrigin;
use super::rows::rows;
use crate::registry::{Actor, ClusterState, Operation, Record};
use crate::store::AuditExtent;

macro_rules! commands {
    ($($name:ident = $word:literal,)*) => {
        /// The commands of the registry, without what they are given.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum AuditedCommand {
            $(
                #[doc = concat!("`", $word, "`")]
                $name,
            )*
        }

        impl AuditedCommand {
            /// Every command.
            #[cfg(test)]
            pub(crate) const ALL: &[Self] = &[$(Self::$name,)*];

            /// Returns the word that records have for it; scripts may rely on it.
            pub(crate) const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

commands! {
    Join = "join",
    Announce = "announce",
    Leave = "leave",
    RemoveNode = "remove-node",
    Revoke = "revoke",
    BeginAnew = "begin-anew",
    Report = "report",
    MergeRemoved = "merge-removed",
    CreateNetwork = "create-network",
    SetNetwork = "set-network",
    LinkNetworks = "link-networks",
    UnlinkNetworks = "unlink-networks",
    RemoveNetwork = "remove-network",
    EnterNetwork = "enter-network",
    ExitNetwork = "exit-network",
    PutEndpoints = "put-endpoints",
    RemoveEndpoints = "remove-endpoints",
    CreateToken = "create-token",
    RevokeToken = "revoke-token",
    ApplyPolicy = "apply-policy",
    RollBackPolicy = "roll-back-policy",
}

impl AuditedCommand {
    /// Returns which command an operation is.
    pub(crate) fn of(operation: &Operation) -> Self {
        match operation {
            Operation::Join(_) => Self::Join,
            Operation::Announce(_) => Self::Announce,
            Operation::Leave => Self::Leave,
            Operation::RemoveNode(_) => Self::RemoveNode,
            Operation::Revoke(_) => Self::Revoke,
            Operation::BeginAnew(_) => Self::BeginAnew,
            Operation::Report(_) => Self::Report,
            Operation::MergeRemoved(_) => Self::MergeRemoved,
            Operation::CreateNetwork(_) => Self::CreateNetwork,
            Operation::SetNetwork { .. } => Self::SetNetwork,
            Operation::LinkNetworks { .. } => Self::LinkNetworks,
            Operation::UnlinkNetworks { .. } => Self::UnlinkNetworks,
            Operation::RemoveNetwork { .. } => Self::RemoveNetwork,
            Operation::EnterNetwork { .. } => Self::EnterNetwork,
            Operation::ExitNetwork(_) => Self::ExitNetwork,
            Operation::PutEndpoints(_) => Self::PutEndpoints,
            Operation::RemoveEndpoints(_) => Self::RemoveEndpoints,
            Operation::CreateToken(_) => Self::CreateToken,
            Operation::RevokeToken(_) => Self::RevokeToken,
            Operation::ApplyPolicy(_) => Self::ApplyPolicy,
            Operation::RollBackPolicy { .. } => Self::RollBackPolicy,
        }
    }

    /// Returns whether agents do it by themselves, as containers and addresses come and go.
    pub(crate) fn is_routine(self) -> bool {
        match self {
            Self::Announce
            | Self::Report
            | Self::EnterNetwork
            | Self::ExitNetwork
            | Self::PutEndpoints
            | Self::RemoveEndpoints => true,
            Self::Join
            | Self::Leave
            | Self::RemoveNode
            | Self::Revoke
            | Self::BeginAnew
            | Self::MergeRemoved
            | Self::CreateNetwork
            | Self::SetNetwork
            | Self::LinkNetworks
            | Self::UnlinkNetworks
            | Self::RemoveNetwork
            | Self::CreateToken
            | Self::RevokeToken
            | Self::ApplyPolicy
            | Self::RollBackPolicy => false,
        }
    }
}

/// Returns who gives a command.
pub(crate) fn who(
    state: &ClusterState,
    actor: Actor,
    operation: &Operation,
    origin: &CallOrigin,
) -> Who {
    match (operation, actor) {
        (Operation::Join(join), _) => Who::Token { id: join.token.clone() },
        (_, Actor::Node(node)) => node_of(state, node, origin),
        (_, Actor::Operator) => Who::Operator,
    }
}

/// Describes a node, also one that was removed.
pub(crate) fn node_of(state: &ClusterState, id: NodeId, origin: &CallOrigin) -> Who {
    let row = state.view().nodes.get(&id);
    let gone = || state.revoked().get(&id).map(|gone| gone.name.to_string());
    let name = row.map(|row| row.name.to_string()).or_else(gone).unwrap_or_default();

    Who::Node {
        id: id.to_string(),
        name,
        role: row.map_or("removed", |row| row.role.as_str()).to_owned(),
        certificate: origin.certificate.map_or_else(String::new, |it| it.to_string()),
    }
}

/// Makes the record of a command that leads from `before` to `revision` by `records`.
pub(crate) fn of_command(
    before: &ClusterState,
    who: Who,
    command: AuditedCommand,
    records: &[Record],
    origin: &CallOrigin,
    now: u64,
) -> AuditRecord {
    let (rows, omitted) = rows(before, records);

    AuditRecord {
        rows,
        omitted,
        from: origin.address,
        ..bare(command.word(), who, before.view().revision.next(), now)
    }
}

/// Makes the first record of a log.
pub(crate) fn begin(why: &'static str, revision: Revision, now: u64) -> AuditRecord {
    note("begin", Who::Control, revision, now, [("why", why.into())])
}

/// Makes the record that a log needs before anything else is written, if it needs one: a store of a
/// version without a log has none, and one that such a version wrote to lacks some.
pub(crate) fn opening(
    extent: Option<AuditExtent>,
    revision: Revision,
    now: u64,
) -> Option<AuditRecord> {
    match extent {
        None => Some(begin("a version without an audit log wrote what is there", revision, now)),
        Some(extent) if extent.revision == revision => None,
        Some(extent) => {
            let why = "changes were made of which there are no records";
            let revisions = serde_json::json!([extent.revision.0, revision.0]);
            let details = [("why", why.into()), ("revisions", revisions)];
            Some(note("gap", Who::Control, revision, now, details))
        }
    }
}

/// Makes a record of something that is not about rows.
pub(crate) fn note(
    what: &str,
    who: Who,
    revision: Revision,
    now: u64,
    details: impl IntoIterator<Item = (&'static str, Value)>,
) -> AuditRecord {
    let details = details.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();

    AuditRecord { details, ..bare(what, who, revision, now) }
}

fn bare(what: &str, who: Who, revision: Revision, now: u64) -> AuditRecord {
    AuditRecord {
        number: 0,
        at: now,
        revision: revision.0,
        who,
        from: None,
        what: what.to_owned(),
        rows: Vec::new(),
        omitted: None,
        details: BTreeMap::new(),
        previous: RecordHash::default(),
    }
}

#[cfg(test)]
#[path = "entry_tests.rs"]
mod tests;
