//! Endpoints that ended because this node may not enter their network any more. What they belong to
//! runs on without the network, so it is told until it has ended, or the network is open again.

use std::collections::BTreeMap;

use overlay_core::{NetworkId, View};

use super::sandbox;
use crate::problem::Problems;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;
use crate::state::EndpointRecord;

/// The endpoints of which a message tells the names; of more, it tells the number.
const NAMED: usize = 4;

/// What lost its network, by network.
#[derive(Debug, Default)]
pub(super) struct CutOff(BTreeMap<NetworkId, Vec<EndpointRecord>>);

impl CutOff {
    /// Takes note of endpoints that were removed, if this node was put out of their network, and
    /// of what people call those networks.
    pub(super) fn note(
        &mut self,
        put_out: &BTreeMap<NetworkId, String>,
        removed: Vec<EndpointRecord>,
        problems: &Problems,
    ) {
        let is_out = |record: &EndpointRecord| put_out.contains_key(&record.endpoint.network);
        for record in removed.into_iter().filter(is_out) {
            self.0.entry(record.endpoint.network).or_default().push(record);
        }
        for (network, records) in &self.0 {
            if let Some(title) = put_out.get(network) {
                problems.raise(
                    ProblemKey::CutOff(*network),
                    ProblemCode::CutOff,
                    text(title, records),
                );
            }
        }
    }

    /// Takes back what was said of networks that are open again, and of those whose endpoints'
    /// processes and namespaces have all ended.
    pub(super) fn review(&mut self, view: &View, problems: &Problems) {
        self.0.retain(|network, records| {
            records.retain(|record| sandbox::lost(record).is_none());
            let stands = !records.is_empty() && !view.networks.contains_key(network);
            if !stands {
                problems.clear(&ProblemKey::CutOff(*network));
            }

            stands
        });
    }
}

fn text(title: &str, records: &[EndpointRecord]) -> String {
    let names: Vec<_> = records.iter().map(|record| record.endpoint.name.as_str()).collect();
    let more = match names.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };

    format!(
        "this node may not enter network {title} any more, and {}{more} lost it: stop them, or let \
         this node in (`overlayctl network set {title} --nodes SELECTOR` on an admin node) and \
         start them again",
        names[..names.len().min(NAMED)].join(", ")
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use overlay_core::{
        Change, Endpoint, EndpointId, Network, NetworkMode, NetworkSettings, NodeId, Revision,
        Runtime,
    };

    use super::*;
    use crate::state::SandboxRecord;

    const BLUE: NetworkId = NetworkId::FIRST;

    fn record(n: u64, sandbox: SandboxRecord) -> EndpointRecord {
        EndpointRecord {
            endpoint: Endpoint {
                id: EndpointId::from_random(n),
                network: BLUE,
                node: NodeId::FIRST,
                name: format!("web{n}").parse().expect("a name"),
                aliases: BTreeSet::new(),
                addresses: Vec::new(),
                labels: BTreeMap::new(),
                runtime: Runtime::Host,
                group: None,
                container: None,
                taken: BTreeSet::new(),
            },
            sandbox,
            ifname: "ovh0".into(),
            owner: None,
        }
    }

    fn gone() -> SandboxRecord {
        SandboxRecord::Netns {
            path: "/nowhere/at/all".into(),
            device: 0,
            inode: 0,
            boot: String::new(),
        }
    }

    fn put_out() -> BTreeMap<NetworkId, String> {
        BTreeMap::from([(BLUE, "blue".to_owned())])
    }

    fn blue() -> Change {
        Change::Network(Network {
            id: BLUE,
            name: "blue".parse().expect("a name"),
            prefix: "10.1.0.0/16".parse().expect("a prefix"),
            prefix6: None,
            mode: NetworkMode::L3,
            labels: BTreeMap::new(),
            settings: NetworkSettings::default(),
            creator: None,
        })
    }

    #[test]
    fn what_lost_its_network_is_told_until_the_network_is_open_again() {
        let (mut cut_off, problems) = (CutOff::default(), Problems::default());
        let records = (1..7).map(|n| record(n, SandboxRecord::Host)).collect();

        cut_off.note(&put_out(), records, &problems);
        cut_off.review(&View::default(), &problems);

        let told = problems.list();
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].code.as_str(), "cut-off");
        let text = &told[0].text;
        assert!(text.contains("network blue any more, and web1, web2, web3, web4 and 2 more"));
        assert!(text.contains("overlayctl network set blue --nodes"), "{text}");
        cut_off.review(&View::from_rows(Revision(1), [blue()]), &problems);
        assert!(problems.list().is_empty());
    }

    #[test]
    fn what_has_ended_is_not_told_any_more() {
        let (mut cut_off, problems) = (CutOff::default(), Problems::default());

        cut_off.note(&put_out(), vec![record(1, gone())], &problems);
        cut_off.review(&View::default(), &problems);

        assert!(problems.list().is_empty());
    }

    #[test]
    fn the_end_of_a_removed_network_is_no_problem() {
        let (mut cut_off, problems) = (CutOff::default(), Problems::default());

        cut_off.note(&BTreeMap::new(), vec![record(1, SandboxRecord::Host)], &problems);

        assert!(problems.list().is_empty());
    }
}
