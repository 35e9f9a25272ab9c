//! Endpoints.

use std::collections::BTreeMap;

use overlay_proto::v1;
use serde::Serialize;

use super::{pairs, runtime, sample};
use crate::output::{Cell, Column, Page, Report, table};

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct EndpointView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) network: String,
    pub(crate) network_id: String,
    pub(crate) node: String,
    pub(crate) node_id: String,
    /// None while its container is stopped.
    pub(crate) addresses: Vec<String>,
    pub(crate) aliases: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) runtime: &'static str,
    /// Why it does not work; known on its own node alone.
    pub(crate) problem: Option<String>,
}

impl EndpointView {
    /// Reads an endpoint whose network and node names are known.
    pub(crate) fn new(endpoint: v1::Endpoint, network: String, node: String) -> Self {
        Self {
            id: endpoint.id,
            name: endpoint.name,
            network,
            network_id: endpoint.network,
            node,
            node_id: endpoint.node,
            addresses: endpoint.addresses,
            aliases: endpoint.aliases,
            labels: endpoint.labels,
            runtime: runtime(endpoint.runtime),
            problem: None,
        }
    }
}

impl From<v1::EndpointState> for EndpointView {
    fn from(state: v1::EndpointState) -> Self {
        let problem = Some(state.problem).filter(|problem| !problem.is_empty());

        Self {
            problem,
            ..Self::new(state.endpoint.unwrap_or_default(), state.network_name, state.node_name)
        }
    }
}

/// A listing of endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct EndpointList(Vec<EndpointView>);

impl From<v1::ListEndpointsResponse> for EndpointList {
    fn from(response: v1::ListEndpointsResponse) -> Self {
        let mut rows: Vec<EndpointView> = response.endpoints.into_iter().map(Into::into).collect();
        rows.sort_by(|a, b| (&a.network, &a.name, &a.id).cmp(&(&b.network, &b.name, &b.id)));

        Self(rows)
    }
}

impl EndpointList {
    /// Finds endpoints by name, name and network, alias, address or id.
    pub(crate) fn find(&self, text: &str) -> Vec<EndpointView> {
        self.0.iter().filter(|endpoint| endpoint.is_called(text)).cloned().collect()
    }

    /// Tells whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl EndpointView {
    /// Returns its addresses; it has none while its container is stopped and keeps its names.
    fn addresses_cell(&self) -> Cell {
        if self.addresses.is_empty() { "stopped".into() } else { Cell::list(&self.addresses) }
    }

    fn is_called(&self, text: &str) -> bool {
        let (name, network) = text.rsplit_once('.').unwrap_or((text, ""));
        let is_name = |text: &str| {
            std::iter::once(&self.name)
                .chain(&self.aliases)
                .any(|name| name.eq_ignore_ascii_case(text))
        };

        self.id == text
            || self.addresses.iter().any(|address| address == text)
            || is_name(text)
            || (is_name(name) && self.network.eq_ignore_ascii_case(network))
    }
}

impl Report for EndpointView {
    fn text(&self, page: Page) -> String {
        let mut rows = vec![
            ("name", self.name.clone().into()),
            ("id", self.id.clone().into()),
            ("network", format!("{} ({})", self.network, self.network_id).into()),
            ("addresses", self.addresses_cell()),
            ("node", format!("{} ({})", self.node, self.node_id).into()),
            ("runtime", self.runtime.into()),
            ("aliases", Cell::list(&self.aliases)),
            ("labels", Cell::labels(&self.labels)),
        ];
        rows.extend(self.problem.clone().map(|problem| ("problem", problem.into())));

        pairs(page, &rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.name.clone()])
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(vec![self.id.clone()])
    }

    fn sample() -> Option<serde_json::Value> {
        sample(Self::from(v1::EndpointState::default()))
    }
}

/// Address and node always stay.
const COLUMNS: [Column; 8] = [
    Column::name("NAME"),
    Column::left("ID").wide(),
    Column::name("NETWORK"),
    Column::left("ADDRESS"),
    Column::name("NODE"),
    Column::left("RUNTIME").leaves(3),
    Column::left("ALIASES").leaves(2),
    Column::left("LABELS").leaves(1),
];
/// Shown where an endpoint does not work.
const PROBLEM: Column = Column::prose("PROBLEM");

impl Report for EndpointList {
    fn text(&self, page: Page) -> String {
        // A column is needed only where something is wrong.
        let has_problems = self.0.iter().any(|endpoint| endpoint.problem.is_some());
        let columns: Vec<_> = COLUMNS.into_iter().chain(has_problems.then_some(PROBLEM)).collect();
        let row = |e: &EndpointView| {
            let problem =
                has_problems.then(|| e.problem.clone().unwrap_or_else(|| "-".to_owned()).into());
            let cells = [
                e.name.clone().into(),
                e.id.clone().into(),
                e.network.clone().into(),
                e.addresses_cell(),
                e.node.clone().into(),
                e.runtime.into(),
                Cell::list(&e.aliases),
                Cell::labels(&e.labels),
            ];
            cells.into_iter().chain(problem).collect::<Vec<_>>()
        };

        table(page, &columns, &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|endpoint| endpoint.name.clone()).collect())
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|endpoint| endpoint.id.clone()).collect())
    }

    fn sample() -> Option<serde_json::Value> {
        EndpointView::sample()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_a_table_and_an_array() {
        let state = v1::EndpointState {
            endpoint: Some(v1::Endpoint {
                id: "e1".into(),
                network: "1".into(),
                node: "0a".into(),
                name: "service2".into(),
                aliases: vec!["web".into()],
                addresses: vec!["10.9.0.2".into(), "fd00::2".into()],
                labels: BTreeMap::from([("tier".into(), "front".into())]),
                runtime: v1::Runtime::Run.into(),
                ..v1::Endpoint::default()
            }),
            network_name: "my-network".into(),
            node_name: "b".into(),
            problem: String::new(),
        };

        let view = EndpointList::from(v1::ListEndpointsResponse { endpoints: vec![state] });

        assert_eq!(
            view.text(Page { now: 0, width: None, wide: false }),
            "NAME      NETWORK     ADDRESS           NODE  RUNTIME  ALIASES  LABELS\n\
             service2  my-network  10.9.0.2,fd00::2  b     run      web      tier=front"
        );
        assert_eq!(
            serde_json::to_value(&view).expect("JSON"),
            serde_json::json!([{
                "id": "e1", "name": "service2", "network": "my-network", "network_id": "1", "node": "b", "node_id": "0a",
                "addresses": ["10.9.0.2", "fd00::2"], "aliases": ["web"], "labels": {"tier": "front"}, "runtime": "run",
                "problem": null,
            }])
        );
    }

    #[test]
    fn an_endpoint_that_does_not_work_is_marked_with_the_reason() {
        let state = |name: &str, problem: &str| v1::EndpointState {
            endpoint: Some(v1::Endpoint { name: name.into(), ..v1::Endpoint::default() }),
            problem: problem.into(),
            ..v1::EndpointState::default()
        };
        let endpoints =
            vec![state("db", ""), state("web", "its interface is gone; run: docker restart web")];

        let view = EndpointList::from(v1::ListEndpointsResponse { endpoints });

        let text = view.text(Page { now: 0, width: None, wide: false });
        let problems: Vec<_> = text
            .lines()
            .filter_map(|line| line.split_once(" unknown"))
            .map(|(_, rest)| rest.trim())
            .collect();
        assert!(text.lines().next().is_some_and(|heads| heads.ends_with("PROBLEM")), "{text}");
        assert!(
            problems[0].ends_with('-') && problems[1].ends_with("docker restart web"),
            "{text}"
        );
        assert_eq!(
            serde_json::to_value(&view).expect("JSON")[1]["problem"],
            "its interface is gone; run: docker restart web"
        );
    }
}
