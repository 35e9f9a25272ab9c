//! Nodes.

use std::collections::BTreeMap;
use std::net::IpAddr;

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
    /// Tells whether it has this name or id.
    fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name) || self.id == name
    }

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
        self.0.iter().find(|node| node.is(name)).cloned()
    }

    /// Lists the names of all nodes but one.
    pub(crate) fn names_without(&self, id: &str) -> Vec<String> {
        self.0.iter().filter(|node| node.id != id).map(|node| node.name.clone()).collect()
    }
}

impl Nodes {
    /// Says what is lost with the nodes of these names or ids: the last admin, or the host of
    /// control, which is reached at `control` by the node with the id `own`.
    pub(crate) fn loss(
        &self,
        names: &[String],
        control: Option<IpAddr>,
        own: &str,
    ) -> Option<String> {
        let goes = |node: &NodeView| names.iter().any(|name| node.is(name));
        let is_admin = |node: &&NodeView| node.role == "admin";
        let hosts_control = |node: &&NodeView| match control {
            Some(address) if address.is_loopback() => node.id == own,
            Some(address) => node.underlay.contains(&address.to_string()),
            None => false,
        };
        // Any node may announce the address of another: where an admin has it, it is the admin's.
        let has_admin = self.0.iter().any(|node| hosts_control(&node) && is_admin(&node));
        let is_its = |node: &&NodeView| hosts_control(node) && (!has_admin || is_admin(node));
        if let Some(host) = self.0.iter().find(|node| goes(node) && is_its(node)) {
            return Some(format!(
                "control runs on {}: without it nothing can be changed any more on any node",
                host.name
            ));
        }
        let last = self.0.iter().find(|node| goes(node) && is_admin(node))?;
        let another_stays = self.0.iter().filter(is_admin).any(|node| !goes(node));

        (!another_stays).then(|| {
            format!(
                "{} is the last admin: without it nobody can make tokens or remove nodes",
                last.name
            )
        })
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
        let nodes = Nodes::from(v1::ListNodesResponse {
            nodes: vec![state("b", false, 40), state("a", true, 100)],
        });

        assert_eq!(
            nodes.text(Page { now: 100, width: None, wide: false }),
            "NAME  ROLE  STATE                 UNDERLAY   NETWORKS  VERSION  LABELS\n\
             a     node  online                192.0.2.1  web       0.1.0    -\n\
             b     node  away, seen 1 min ago  192.0.2.1  web       0.1.0    -"
        );
        assert_eq!(nodes.names_without("id-a"), ["b"]);
        assert!(nodes.find("B").is_some());
    }

    #[test]
    fn the_last_admin_and_the_host_of_control_are_no_small_loss() {
        let node = |name: &str, role: v1::Role, ip: &str| {
            let mut state = state(name, true, 1);
            if let Some(node) = &mut state.node {
                node.role = role.into();
                node.underlay = vec![ip.into()];
            }
            state
        };
        let (admin, plain) = (v1::Role::Admin, v1::Role::Node);
        let rows = vec![
            node("a", admin, "192.0.2.1"),
            node("b", admin, "192.0.2.2"),
            node("c", plain, "192.0.2.3"),
            node("d", plain, "192.0.2.1"),
        ];
        let nodes = Nodes::from(v1::ListNodesResponse { nodes: rows });
        let loss = |names: &[&str], control: &str| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            nodes.loss(&names, control.parse().ok(), "id-b").unwrap_or_default()
        };

        assert_eq!(loss(&["c"], "192.0.2.1"), "");
        assert_eq!(loss(&["id-b"], "192.0.2.1"), "", "another admin stays");
        assert_eq!(loss(&["d"], "192.0.2.1"), "", "it announces the address of a");
        assert!(loss(&["a"], "192.0.2.1").starts_with("control runs on a"));
        assert!(loss(&["A", "id-b"], "192.0.2.9").starts_with("a is the last admin"), "both go");
        assert!(loss(&["c"], "192.0.2.3").starts_with("control runs on c"));
        assert!(loss(&["b"], "127.0.0.1").starts_with("control runs on b"), "it is on this node");
        assert_eq!(loss(&["nothing"], ""), "");
    }
}
