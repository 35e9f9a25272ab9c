//! Networks.

use std::collections::BTreeMap;

use overlay_core::Lease;
use overlay_proto::v1;
use serde::Serialize;

use super::{EndpointList, pairs, sample, sorted};
use crate::output::{Cell, Column, HIDDEN, Page, Report, list, table, wrapped};

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NetworkView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) prefix6: Option<String>,
    pub(crate) mode: &'static str,
    pub(crate) labels: BTreeMap<String, String>,
    /// Names of the nodes that are members; none: this node may not see them.
    pub(crate) members: Option<Vec<String>>,
    /// How many, over all hosts; none: this node may not see them.
    pub(crate) endpoints: Option<u32>,
    /// The IPv4 gateway, if it is not the first address.
    pub(crate) gateway: Option<String>,
    pub(crate) gateway6: Option<String>,
    /// The part of the prefix that addresses are given out of, if it is not all of it.
    pub(crate) ip_range: Option<String>,
    /// Which nodes may enter it, by their labels; none: every node.
    pub(crate) nodes: Option<String>,
    /// How long its nodes trust each other without hearing control; none: for ever.
    pub(crate) lease: Option<String>,
    /// The node that made it; none: an admin of control's, or it is not known.
    pub(crate) creator: Option<String>,
    /// The networks that it is linked with.
    pub(crate) links: Vec<LinkView>,
    /// Containers have no way out.
    pub(crate) internal: bool,
    /// Addresses that are never given out, by name.
    pub(crate) reserved: BTreeMap<String, String>,
    /// What container engines were told with `-o`.
    pub(crate) options: BTreeMap<String, String>,
    /// Where it is not the same as elsewhere.
    pub(crate) differs: Vec<DifferenceView>,
}

/// A network that another one is linked with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LinkView {
    /// Its name.
    pub(crate) network: String,
    pub(crate) prefix: String,
    pub(crate) prefix6: Option<String>,
    /// `policy`: only what rules allow passes; none: what the networks' defaults let pass.
    pub(crate) only: Option<&'static str>,
    /// How many hosts carry packets between the two.
    pub(crate) gateways: usize,
}

impl From<v1::NetworkLink> for LinkView {
    fn from(link: v1::NetworkLink) -> Self {
        let is_closed = link.access() == v1::LinkAccess::PolicyOnly;

        Self {
            gateways: link.gateways.len(),
            only: is_closed.then_some("policy"),
            network: link.name,
            prefix: link.prefix,
            prefix6: Some(link.prefix6).filter(|prefix| !prefix.is_empty()),
        }
    }
}

impl LinkView {
    fn cell(&self) -> String {
        let only = self.only.map(|only| format!(", only {only}")).unwrap_or_default();
        let hosts = if self.gateways == 1 { "gateway" } else { "gateways" };

        format!("{} ({} {hosts}{only})", self.network, self.gateways)
    }
}

/// A host on which a network is not the same as elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct DifferenceView {
    pub(crate) node: String,
    pub(crate) reason: String,
}

/// Writes a lease as it is given.
fn lease(secs: u32) -> String {
    Lease::try_from(secs).map_or_else(|_| format!("{secs}s"), |lease| lease.to_string())
}

impl From<v1::NetworkState> for NetworkView {
    fn from(state: v1::NetworkState) -> Self {
        let network = state.network.unwrap_or_default();
        let settings = network.settings.unwrap_or_default();
        let some = |text: String| Some(text).filter(|text| !text.is_empty());

        Self {
            id: network.id,
            name: network.name,
            prefix: network.prefix,
            prefix6: some(network.prefix6),
            mode: match v1::NetworkMode::try_from(network.mode) {
                Ok(v1::NetworkMode::L3) => "l3",
                Ok(v1::NetworkMode::Unspecified) | Err(_) => "unknown",
            },
            labels: network.labels,
            members: (!state.hidden).then(|| sorted(state.members)),
            endpoints: (!state.hidden).then_some(state.endpoints),
            gateway: some(settings.gateway),
            gateway6: some(settings.gateway6),
            ip_range: some(settings.range),
            nodes: some(settings.nodes),
            lease: (settings.lease_seconds > 0).then(|| lease(settings.lease_seconds)),
            creator: network.creator.map(|creator| creator.node_name),
            links: network.links.into_iter().map(Into::into).collect(),
            internal: settings.internal,
            reserved: settings.reserved,
            options: settings.options,
            differs: state
                .differences
                .into_iter()
                .map(|d| DifferenceView { node: d.node, reason: d.reason })
                .collect(),
        }
    }
}

impl NetworkView {
    /// One line for each host on which it differs.
    fn differences(&self) -> impl Iterator<Item = String> {
        self.differs
            .iter()
            .map(|there| format!("{} differs on {}: {}", self.name, there.node, there.reason))
    }

    fn prefixes(&self) -> impl Iterator<Item = &String> {
        [&self.prefix].into_iter().chain(&self.prefix6)
    }

    fn member_cell(&self) -> Cell {
        self.members.as_ref().map_or_else(|| HIDDEN.into(), Cell::list)
    }

    fn endpoint_count(&self) -> String {
        self.endpoints.map_or_else(|| HIDDEN.to_owned(), |count| count.to_string())
    }
}

/// A network whose links were changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct LinkedNetwork(NetworkView);

impl From<NetworkView> for LinkedNetwork {
    fn from(network: NetworkView) -> Self {
        Self(network)
    }
}

impl Report for LinkedNetwork {
    fn text(&self, _: Page) -> String {
        let Self(network) = self;
        let links: Vec<_> = network.links.iter().map(LinkView::cell).collect();
        if links.is_empty() {
            return format!("{} is linked with no network", network.name);
        }

        format!("{} is linked with {}", network.name, list(&links))
    }

    fn names(&self) -> Option<Vec<String>> {
        self.0.names()
    }

    fn ids(&self) -> Option<Vec<String>> {
        self.0.ids()
    }

    fn sample() -> Option<serde_json::Value> {
        NetworkView::sample()
    }
}

impl Report for NetworkView {
    fn text(&self, _: Page) -> String {
        format!("{}  {}", self.name, list(self.prefixes()))
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(vec![self.name.clone()])
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(vec![self.id.clone()])
    }
}

/// A listing of networks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Networks(Vec<NetworkView>);

impl From<v1::ListNetworksResponse> for Networks {
    fn from(response: v1::ListNetworksResponse) -> Self {
        let mut rows: Vec<NetworkView> = response.networks.into_iter().map(Into::into).collect();
        rows.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));

        Self(rows)
    }
}

impl Networks {
    /// Finds a network by its name or its id.
    pub(crate) fn find(&self, name: &str) -> Option<NetworkView> {
        self.0
            .iter()
            .find(|network| network.name.eq_ignore_ascii_case(name) || network.id == name)
            .cloned()
    }
}

/// How it is written that every node may enter.
const EVERY_NODE: &str = "all";

/// Name, prefix and the number of endpoints always stay.
const COLUMNS: [Column; 10] = [
    Column::name("NAME"),
    Column::left("ID").wide(),
    Column::left("PREFIX"),
    Column::left("MODE").leaves(2),
    Column::left("MEMBERS").leaves(3),
    Column::right("ENDPOINTS"),
    Column::left("NODES").wide(),
    Column::left("CREATOR").wide(),
    Column::left("LINKS").wide(),
    Column::left("LABELS").leaves(1),
];

impl Report for Networks {
    fn text(&self, page: Page) -> String {
        let row = |n: &NetworkView| {
            vec![
                n.name.clone().into(),
                n.id.clone().into(),
                Cell::list(n.prefixes()),
                n.mode.into(),
                n.member_cell(),
                n.endpoint_count().into(),
                n.nodes.clone().unwrap_or_else(|| EVERY_NODE.to_owned()).into(),
                Cell::list(&n.creator),
                Cell::list(n.links.iter().map(|link| &link.network)),
                Cell::labels(&n.labels),
            ]
        };
        let table = table(page, &COLUMNS, &self.0.iter().map(row).collect::<Vec<_>>());

        let differences =
            self.0.iter().flat_map(NetworkView::differences).map(|line| wrapped(page, &line));

        std::iter::once(table).chain(differences).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|network| network.name.clone()).collect())
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(self.0.iter().map(|network| network.id.clone()).collect())
    }

    fn sample() -> Option<serde_json::Value> {
        sample(NetworkView::from(v1::NetworkState::default()))
    }
}

/// A network with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Inspection {
    #[serde(flatten)]
    network: NetworkView,
    /// None: this node may not see them.
    #[serde(rename = "endpoint_list")]
    endpoints: Option<EndpointList>,
}

impl Inspection {
    /// Puts a network and its endpoints together.
    pub(crate) fn new(network: NetworkView, endpoints: EndpointList) -> Self {
        let endpoints = network.endpoints.map(|_| endpoints);

        Self { network, endpoints }
    }
}

impl Report for Inspection {
    fn text(&self, page: Page) -> String {
        let network = &self.network;
        let mut rows = vec![
            ("name", network.name.clone().into()),
            ("id", network.id.clone().into()),
            ("prefix", Cell::list(network.prefixes())),
            ("mode", network.mode.into()),
            ("internal", if network.internal { "yes" } else { "no" }.into()),
            ("members", network.member_cell()),
            ("labels", Cell::labels(&network.labels)),
            ("endpoints", network.endpoint_count().into()),
        ];
        let further = [
            ("gateway", Cell::list(network.gateway.iter().chain(&network.gateway6))),
            ("ip range", Cell::list(&network.ip_range)),
            ("nodes", Cell::list(&network.nodes)),
            ("lease", Cell::list(&network.lease)),
            ("creator", Cell::list(&network.creator)),
            ("links", Cell::list(network.links.iter().map(LinkView::cell))),
            ("reserved", Cell::labels(&network.reserved)),
            ("options", Cell::labels(&network.options)),
        ];
        rows.extend(further.into_iter().filter(|(_, value)| !value.is_empty()));
        let differences = network.differences().map(|line| wrapped(page, &line));
        let head =
            std::iter::once(pairs(page, &rows)).chain(differences).collect::<Vec<_>>().join("\n");

        match &self.endpoints {
            Some(endpoints) if !endpoints.is_empty() => {
                format!("{head}\n\n{}", endpoints.text(page))
            }
            Some(_) => head,
            None => format!(
                "{head}\n\nthis node is no member of {}, and may not see who is on it",
                network.name
            ),
        }
    }

    fn names(&self) -> Option<Vec<String>> {
        self.network.names()
    }

    fn ids(&self) -> Option<Vec<String>> {
        self.network.ids()
    }

    fn sample() -> Option<serde_json::Value> {
        let endpoints = EndpointList::from(v1::ListEndpointsResponse::default());

        sample(Self::new(NetworkView::from(v1::NetworkState::default()), endpoints))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> v1::ListNetworksResponse {
        let network = |name: &str, prefix6: &str| v1::NetworkState {
            network: Some(v1::Network {
                id: format!("id-{name}"),
                name: name.into(),
                prefix: "10.9.0.0/16".into(),
                prefix6: prefix6.into(),
                mode: v1::NetworkMode::L3.into(),
                labels: BTreeMap::new(),
                settings: None,
                creator: None,
                links: Vec::new(),
            }),
            members: vec!["b".into(), "a".into()],
            ..v1::NetworkState::default()
        };

        v1::ListNetworksResponse { networks: vec![network("web", "fd00::/64"), network("db", "")] }
    }

    #[test]
    fn networks_are_sorted_and_found() {
        let networks = Networks::from(response());

        assert_eq!(
            networks.text(Page { now: 0, width: None, wide: false }),
            "NAME  PREFIX                 MODE  MEMBERS  ENDPOINTS  LABELS\n\
             db    10.9.0.0/16            l3    a,b              0  -\n\
             web   10.9.0.0/16,fd00::/64  l3    a,b              0  -"
        );
        assert!(networks.find("id-db").is_some());
        assert!(networks.find("WEB").is_some());
        assert!(networks.find("x").is_none());
    }

    #[test]
    fn where_a_network_differs_is_said_below() {
        let mut response = response();
        let difference =
            v1::HostDifference { node: "b".into(), reason: "it has another prefix there".into() };
        response.networks[0].differences.push(difference);

        let text = Networks::from(response).text(Page { now: 0, width: None, wide: false });

        assert!(text.ends_with("-\nweb differs on b: it has another prefix there"), "{text}");
    }

    #[test]
    fn what_may_not_be_seen_is_a_dash_and_null() {
        let mut response = response();
        for network in &mut response.networks {
            network.hidden = true;
            network.members.clear();
        }
        let networks = Networks::from(response);
        let inspection = Inspection::new(
            networks.find("db").expect("it is there"),
            EndpointList::from(v1::ListEndpointsResponse::default()),
        );

        let page = Page { now: 0, width: None, wide: false };
        let (text, json) = (networks.text(page), serde_json::to_value(&inspection).expect("JSON"));

        assert!(text.contains("l3    –                –  -"), "{text}");
        for field in ["members", "endpoints", "endpoint_list"] {
            assert_eq!(json[field], serde_json::Value::Null, "{field}");
        }
        assert!(
            inspection
                .text(page)
                .ends_with("this node is no member of db, and may not see who is on it")
        );
    }

    #[test]
    fn an_inspection_is_one_object() {
        let network = Networks::from(response()).find("db").expect("it is there");
        let endpoints = EndpointList::from(v1::ListEndpointsResponse::default());

        let json = serde_json::to_value(Inspection::new(network, endpoints)).expect("JSON");

        assert_eq!(
            json,
            serde_json::json!({
                "id": "id-db", "name": "db", "prefix": "10.9.0.0/16", "prefix6": null, "mode": "l3", "labels": {},
                "members": ["a", "b"], "endpoints": 0, "differs": [],
                "gateway": null, "gateway6": null, "ip_range": null, "nodes": null, "lease": null, "creator": null, "links": [], "internal": false, "reserved": {}, "options": {},
                "endpoint_list": [],
            })
        );
    }
}
