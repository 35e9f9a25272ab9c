//! Nodes.

use std::collections::BTreeMap;

use overlay_proto::v1;
use serde::Serialize;

use super::{pairs, role, sample, sorted};
use crate::output::{Cell, Column, Page, Report, table};
use crate::time;

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NodeView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) role: &'static str,
    pub(crate) online: bool,
    /// When control last had a connection of it; none: not since control started.
    pub(crate) seen: Option<String>,
    pub(crate) underlay: Vec<String>,
    pub(crate) lane_ports: Vec<u32>,
    pub(crate) networks: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) version: String,
    pub(crate) revision: u64,
    #[serde(skip)]
    seen_unix: u64,
}

impl From<v1::NodeState> for NodeView {
    fn from(state: v1::NodeState) -> Self {
        let node = state.node.unwrap_or_default();

        Self {
            id: node.id,
            name: node.name,
            role: role(node.role),
            online: state.online,
            seen: time::utc(state.seen_unix),
            underlay: node.underlay,
            lane_ports: node.lane_ports,
            networks: sorted(state.networks),
            labels: node.labels,
            version: state.version,
            revision: state.revision,
            seen_unix: state.seen_unix,
        }
    }
}

impl NodeView {
    fn state(&self, now: u64) -> String {
        match (self.online, self.seen_unix) {
            (true, _) => "online".to_owned(),
            (false, 0) => "not seen".to_owned(),
            (false, seen) => format!("away, seen {} ago", time::lasting(now, seen)),
        }
    }
}

impl Report for NodeView {
    fn text(&self, page: Page) -> String {
        let rows = [
            ("name", self.name.clone().into()),
            ("id", self.id.clone().into()),
            ("role", self.role.into()),
            ("state", self.state(page.now).into()),
            ("underlay addresses", Cell::list(&self.underlay)),
            ("lane ports", Cell::list(&self.lane_ports)),
            ("networks", Cell::list(&self.networks)),
            ("labels", Cell::labels(&self.labels)),
            ("version", self.version.clone().into()),
            ("revision", self.revision.to_string().into()),
        ];

        pairs(page, &rows)
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.name.clone()])
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(vec![self.id.clone()])
    }

    fn sample() -> Option<serde_json::Value> {
        sample(Self::from(v1::NodeState::default()))
    }
}

/// A listing of nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Nodes(Vec<NodeView>);

impl From<v1::ListNodesResponse> for Nodes {
    fn from(response: v1::ListNodesResponse) -> Self {
        let mut rows: Vec<NodeView> = response.nodes.into_iter().map(Into::into).collect();
        rows.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));

        Self(rows)
    }
}

impl Nodes {
    /// Finds a node by its name or its id.
    pub(crate) fn find(&self, name: &str) -> Option<NodeView> {
        self.0.iter().find(|node| node.name.eq_ignore_ascii_case(name) || node.id == name).cloned()
    }

    /// Lists the names of all nodes but one.
    pub(crate) fn names_without(&self, id: &str) -> Vec<String> {
        self.0.iter().filter(|node| node.id != id).map(|node| node.name.clone()).collect()
    }
}

/// Name and state always stay.
const COLUMNS: [Column; 9] = [
    Column::name("NAME"),
    Column::left("ID").wide(),
    Column::left("ROLE").leaves(4),
    Column::left("STATE"),
    Column::left("UNDERLAY").leaves(5),
    Column::left("NETWORKS").leaves(3),
    Column::left("VERSION").leaves(2),
    Column::right("REVISION").wide(),
    Column::left("LABELS").leaves(1),
];

impl Report for Nodes {
    fn text(&self, page: Page) -> String {
        let row = |n: &NodeView| {
            vec![
                n.name.clone().into(),
                n.id.clone().into(),
                n.role.into(),
                n.state(page.now).into(),
                Cell::list(&n.underlay),
                Cell::list(&n.networks),
                n.version.clone().into(),
                n.revision.to_string().into(),
                Cell::labels(&n.labels),
            ]
        };

        table(page, &COLUMNS, &self.0.iter().map(row).collect::<Vec<_>>())
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|node| node.name.clone()).collect())
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|node| node.id.clone()).collect())
    }

    fn sample() -> Option<serde_json::Value> {
        NodeView::sample()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(name: &str, online: bool, seen: u64) -> v1::NodeState {
        v1::NodeState {
            node: Some(v1::Node {
                id: format!("id-{name}"),
                name: name.into(),
                role: v1::Role::Node.into(),
                labels: BTreeMap::new(),
                underlay: vec!["192.0.2.1".into()],
                lane_ports: vec![51820],
            }),
            online,
            seen_unix: seen,
            revision: 7,
            version: "0.1.0".into(),
            networks: vec!["web".into()],
        }
    }

    #[test]
    fn nodes_tell_whether_they_are_there_and_since_when_not() {
        let nodes = Nodes::from(v1::ListNodesResponse { nodes: vec![state("b", false, 40), state("a", true, 100)] });

        assert_eq!(
            nodes.text(Page { now: 100, width: None, wide: false }),
            "NAME  ROLE  STATE                 UNDERLAY   NETWORKS  VERSION  LABELS\n\
             a     node  online                192.0.2.1  web       0.1.0    -\n\
             b     node  away, seen 1 min ago  192.0.2.1  web       0.1.0    -"
        );
        assert_eq!(nodes.names_without("id-a"), ["b"]);
        assert!(nodes.find("B").is_some());
    }
}
