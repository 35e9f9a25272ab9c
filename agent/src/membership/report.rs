//! What this node tells control of itself when control's history began anew. Pure.

use std::collections::BTreeMap;

use overlay_core::{Endpoint, EndpointId, NodeId, View};
use overlay_proto::{convert, v1};

use crate::state::EndpointRecord;

/// Puts together what this node holds, as its last view of the lost history and its journal say:
/// its memberships with their blocks and its endpoints, those that control knew and the journal may
/// lack among them. Of removed nodes it tells by their revocations, when it watches.
pub(crate) fn report(
    view: &View,
    node: NodeId,
    journal: &BTreeMap<EndpointId, EndpointRecord>,
    lost: impl IntoIterator<Item = EndpointId>,
) -> v1::ReportRequest {
    let (lineage, _) = convert::stamp_fields(view.stamp);
    let mut endpoints: BTreeMap<_, &Endpoint> =
        journal.values().map(|record| (record.endpoint.id, &record.endpoint)).collect();
    for id in lost {
        let known = view.endpoints.values().find(|row| row.id == id && row.node == node);
        endpoints.extend(known.map(|row| (id, row)));
    }
    let reported = |endpoint: &Endpoint| v1::ReportedEndpoint {
        network: endpoint.network.to_string(),
        endpoint: endpoint.id.to_string(),
        addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
    };

    v1::ReportRequest {
        lineage,
        revision: view.revision.0,
        members: view.memberships_of(node).cloned().map(Into::into).collect(),
        endpoints: endpoints.into_values().map(reported).collect(),
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::Stamp;

    use super::super::unpublished::testing::{ME, endpoint, journal, view};
    use super::*;

    #[test]
    fn a_report_has_what_runs_here_and_what_the_journal_may_lack() {
        let mut known = view(&[1, 2]);
        known.stamp = Some(Stamp { lineage: [3; 16].into(), mark: None });

        let told = report(&known, ME, &journal(&[2, 3]), [endpoint(1, ME).id]);

        let ids: Vec<_> = told.endpoints.iter().map(|row| row.endpoint.as_str()).collect();
        assert_eq!(ids, ["000000000001", "000000000002", "000000000003"]);
        assert_eq!((told.lineage.as_str(), told.revision), ("03".repeat(16).as_str(), 1));
        assert_eq!(told.members.len(), 1);
    }
}
