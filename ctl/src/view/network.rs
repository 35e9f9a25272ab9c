//! Networks.

use std::collections::BTreeMap;

use overlay_proto::v1;
use serde::Serialize;

use super::{Endpoints, pairs};
use crate::output::{Page, Report, labels, list, table};

/// One network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct NetworkView {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) prefix: String,
    pub(crate) prefix6: Option<String>,
    pub(crate) mode: &'static str,
    pub(crate) labels: BTreeMap<String, String>,
    /// Names of the nodes that are members.
    pub(crate) members: Vec<String>,
    /// How many, over all hosts.
    pub(crate) endpoints: u32,
    /// Where it is not as elsewhere.
    pub(crate) differs: Vec<Difference>,
}

/// A host on which a network is not as elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    pub(crate) node: String,
    pub(crate) reason: String,
}

impl From<v1::NetworkState> for NetworkView {
    fn from(state: v1::NetworkState) -> Self {
        let network = state.network.unwrap_or_default();

        Self {
            id: network.id,
            name: network.name,
            prefix: network.prefix,
            prefix6: Some(network.prefix6).filter(|prefix| !prefix.is_empty()),
            mode: match v1::NetworkMode::try_from(network.mode) {
                Ok(v1::NetworkMode::L3) => "l3",
                Ok(v1::NetworkMode::Unspecified) | Err(_) => "unknown",
            },
            labels: network.labels,
            members: state.members,
            endpoints: state.endpoints,
            differs: state.differences.into_iter().map(|d| Difference { node: d.node, reason: d.reason }).collect(),
        }
    }
}

impl NetworkView {
    /// One line for each host on which it differs.
    fn differences(&self) -> impl Iterator<Item = String> {
        self.differs.iter().map(|there| format!("{} differs on {}: {}", self.name, there.node, there.reason))
    }

    fn prefixes(&self) -> String {
        list([&self.prefix].into_iter().chain(&self.prefix6))
    }
}

impl Report for NetworkView {
    fn text(&self, _: Page) -> String {
        format!("{}  {}", self.name, self.prefixes())
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
    pub(crate) fn find(self, name: &str) -> Option<NetworkView> {
        self.0.into_iter().find(|network| network.name.eq_ignore_ascii_case(name) || network.id == name)
    }
}

impl Report for Networks {
    fn text(&self, page: Page) -> String {
        let row = |n: &NetworkView| {
            vec![
                n.name.clone(),
                n.prefixes(),
                n.mode.to_owned(),
                list(&n.members),
                n.endpoints.to_string(),
                labels(&n.labels),
            ]
        };
        let head = ["NAME", "PREFIX", "MODE", "MEMBERS", "ENDPOINTS", "LABELS"];

        let table = table(page, &head, &[4], self.0.iter().map(row).collect());

        std::iter::once(table).chain(self.0.iter().flat_map(NetworkView::differences)).collect::<Vec<_>>().join("\n")
    }
}

/// A network with its endpoints.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Inspection {
    #[serde(flatten)]
    pub(crate) network: NetworkView,
    #[serde(rename = "endpoint_list")]
    pub(crate) endpoints: Endpoints,
}

impl Report for Inspection {
    fn text(&self, page: Page) -> String {
        let network = &self.network;
        let head = pairs(&[
            ("name", network.name.clone()),
            ("id", network.id.clone()),
            ("prefix", network.prefixes()),
            ("mode", network.mode.to_owned()),
            ("members", list(&network.members)),
            ("labels", labels(&network.labels)),
            ("endpoints", network.endpoints.to_string()),
        ]);

        let head = std::iter::once(head).chain(network.differences()).collect::<Vec<_>>().join("\n");

        if network.endpoints == 0 { head } else { format!("{head}\n\n{}", self.endpoints.text(page)) }
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
            }),
            members: vec!["a".into(), "b".into()],
            endpoints: 0,
            differences: Vec::new(),
        };

        v1::ListNetworksResponse { networks: vec![network("web", "fd00::/64"), network("db", "")] }
    }

    #[test]
    fn networks_are_sorted_and_found() {
        let networks = Networks::from(response());

        assert_eq!(
            networks.text(Page { now: 0, width: None }),
            "NAME  PREFIX                 MODE  MEMBERS  ENDPOINTS  LABELS\n\
             db    10.9.0.0/16            l3    a,b              0  -\n\
             web   10.9.0.0/16,fd00::/64  l3    a,b              0  -"
        );
        assert!(networks.clone().find("id-db").is_some());
        assert!(networks.clone().find("WEB").is_some());
        assert!(networks.find("x").is_none());
    }

    #[test]
    fn where_a_network_differs_is_said_below() {
        let mut response = response();
        let difference = v1::HostDifference { node: "b".into(), reason: "it has another prefix there".into() };
        response.networks[0].differences.push(difference);

        let text = Networks::from(response).text(Page { now: 0, width: None });

        assert!(text.ends_with("-\nweb differs on b: it has another prefix there"), "{text}");
    }

    #[test]
    fn an_inspection_is_one_object() {
        let network = Networks::from(response()).find("db").expect("it is there");
        let endpoints = Endpoints::from(v1::ListEndpointsResponse::default());

        let json = serde_json::to_value(Inspection { network, endpoints }).expect("JSON");

        assert_eq!(
            json,
            serde_json::json!({
                "id": "id-db", "name": "db", "prefix": "10.9.0.0/16", "prefix6": null, "mode": "l3", "labels": {},
                "members": ["a", "b"], "endpoints": 0, "differs": [],
                "endpoint_list": [],
            })
        );
    }
}
