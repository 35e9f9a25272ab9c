//! Which address a container gets that comes back while control is away.
//!
//! Other hosts go on with what they know until control tells them otherwise. Docker does not say
//! who an address is for, so the old one is given again only where a single endpoint of this node
//! is missing from the network: then it leads to the one that comes back. Where several are
//! missing, old rows lead to nobody rather than to somebody else.

use std::net::IpAddr;

use overlay_core::{Endpoint, NetworkId, NodeId, Runtime, View};

use crate::endpoint::lifecycle::Endpoints;
use crate::endpoint::sandbox;
use crate::state::journal::Entries;
use crate::state::{EndpointRecord, StoreFailure};

/// Returns the addresses that the one container had which other hosts still know and which is not
/// there any more; nothing while control would tell them.
pub(super) async fn addresses(
    endpoints: &Endpoints,
    network: NetworkId,
) -> Result<Vec<IpAddr>, StoreFailure> {
    if endpoints.control().connection.is_connected() {
        return Ok(Vec::new());
    }
    // The first container after a boot may start before garbage collection has run.
    let is_bygone = |record: &&EndpointRecord| {
        record.sandbox.managed().is_some_and(sandbox::is_of_earlier_boot)
    };
    let bygone = endpoints
        .journal
        .entries()
        .values()
        .filter(is_bygone)
        .map(|record| record.endpoint.id)
        .collect();
    endpoints.journal.remove(bygone).await?;
    let view = endpoints.view();

    let missing = only_missing(&view, &endpoints.journal.entries(), endpoints.node(), network);

    Ok(missing.map(|endpoint| endpoint.addresses.clone()).unwrap_or_default())
}

fn only_missing<'a>(
    view: &'a View,
    entries: &Entries,
    node: NodeId,
    network: NetworkId,
) -> Option<&'a Endpoint> {
    let mut missing = view.endpoints_of(network).filter(|endpoint| {
        endpoint.node == node
            && endpoint.runtime == Runtime::Docker
            && !endpoint.is_stopped()
            && !entries.contains_key(&endpoint.id)
    });

    missing.next().filter(|_| missing.next().is_none())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;

    use overlay_core::{Change, EndpointId, Revision};

    use super::*;
    use crate::docker::testing;
    use crate::state::SandboxRecord;

    const ME: NodeId = NodeId::FIRST;

    fn endpoint(n: u8, node: NodeId, runtime: Runtime) -> Endpoint {
        Endpoint {
            id: EndpointId::from_random(n.into()),
            network: NetworkId::FIRST,
            node,
            name: format!("e{n}").parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: vec![[10, 1, 0, n].into()],
            labels: BTreeMap::new(),
            runtime,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        }
    }

    fn missing(shown: &[Endpoint], here: &[Endpoint]) -> Option<EndpointId> {
        let view = View::from_rows(Revision(1), shown.iter().cloned().map(Change::Endpoint));
        let record = |endpoint: &Endpoint| EndpointRecord {
            endpoint: endpoint.clone(),
            sandbox: SandboxRecord::Managed(testing::sandbox("e", None)),
            ifname: "ovc0".into(),
            owner: None,
        };
        let entries: Entries = Arc::new(here.iter().map(|one| (one.id, record(one))).collect());

        only_missing(&view, &entries, ME, NetworkId::FIRST).map(|endpoint| endpoint.id)
    }

    #[test]
    fn the_only_container_that_is_missing_gets_its_address_again() {
        let [one, two] = [2, 3].map(|n| endpoint(n, ME, Runtime::Docker));
        let foreign = endpoint(4, NodeId::LAST, Runtime::Docker);
        let process = endpoint(5, ME, Runtime::Attach);

        assert_eq!(missing(&[one.clone(), foreign.clone()], &[]), Some(one.id));
        assert_eq!(missing(&[one.clone(), two.clone()], std::slice::from_ref(&two)), Some(one.id));
        assert_eq!(
            missing(&[one.clone(), process], &[]),
            Some(one.id),
            "only Docker's come back by themselves"
        );
        assert_eq!(missing(&[one.clone(), two], &[]), None, "who comes back is not known");
        assert_eq!(missing(&[one.clone(), foreign], &[one]), None, "nobody is missing");
    }
}
