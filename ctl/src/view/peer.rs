//! Peers: the other nodes, as the data path of this one sees them.

use overlay_proto::v1;
use serde::Serialize;

use crate::output::{Page, Report, bytes, table};
use crate::time;

/// One peer on one lane of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PeerView {
    pub(crate) node: String,
    pub(crate) node_id: String,
    pub(crate) network: String,
    pub(crate) lane: u32,
    pub(crate) underlay_addr: Option<String>,
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) handshake_age_seconds: Option<u64>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) mtu: u32,
    pub(crate) backend: String,
    #[serde(skip)]
    since_unix: u64,
}

impl From<v1::PeerStatus> for PeerView {
    fn from(peer: v1::PeerStatus) -> Self {
        let up = peer.state() == v1::PeerState::Up;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());

        Self {
            state: state(peer.state()),
            handshake_age_seconds: Some(peer.handshake_age_seconds).filter(|age| up || *age > 0),
            node: peer.node_name,
            node_id: peer.node,
            network: peer.network,
            lane: peer.lane,
            underlay_addr: some(peer.underlay_addr),
            reason: some(peer.reason),
            since: time::utc(peer.since_unix),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            mtu: peer.mtu,
            backend: peer.backend,
            since_unix: peer.since_unix,
        }
    }
}

fn state(state: v1::PeerState) -> &'static str {
    match state {
        v1::PeerState::Idle => "idle",
        v1::PeerState::Handshaking => "handshaking",
        v1::PeerState::Up => "up",
        v1::PeerState::Unreachable => "unreachable",
        v1::PeerState::Unspecified => "unknown",
    }
}

/// A listing of peers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Peers(Vec<PeerView>);

impl From<v1::PeersResponse> for Peers {
    fn from(response: v1::PeersResponse) -> Self {
        let mut rows: Vec<PeerView> = response.peers.into_iter().map(Into::into).collect();
        rows.sort_by(|a, b| (&a.node, &a.network, a.lane).cmp(&(&b.node, &b.network, b.lane)));

        Self(rows)
    }
}

impl Report for Peers {
    fn text(&self, page: Page) -> String {
        if self.0.is_empty() {
            return "no peers: no other node is a member of this node's networks".to_owned();
        }
        let dash = || "-".to_owned();
        let row = |p: &PeerView| {
            vec![
                p.node.clone(),
                p.network.clone(),
                p.lane.to_string(),
                p.underlay_addr.clone().unwrap_or_else(dash),
                p.state.to_owned(),
                time::lasting(page.now, p.since_unix),
                p.handshake_age_seconds.map_or_else(dash, |age| format!("{} ago", time::words(age))),
                bytes(p.rx_bytes),
                bytes(p.tx_bytes),
                p.mtu.to_string(),
                p.backend.clone(),
                p.reason.clone().unwrap_or_else(dash),
            ]
        };
        let head = [
            "NODE",
            "NETWORK",
            "LANE",
            "UNDERLAY",
            "STATE",
            "FOR",
            "HANDSHAKE",
            "RX",
            "TX",
            "MTU",
            "BACKEND",
            "REASON",
        ];

        table(page, &head, &[2, 7, 8, 9], self.0.iter().map(row).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> v1::PeersResponse {
        let up = v1::PeerStatus {
            node: "0b".into(),
            node_name: "b".into(),
            network: "web".into(),
            lane: 0,
            underlay_addr: "192.0.2.2:51820".into(),
            state: v1::PeerState::Up.into(),
            since_unix: 40,
            handshake_age_seconds: 7,
            rx_bytes: 2048,
            tx_bytes: 10,
            mtu: 1408,
            backend: "userspace".into(),
            ..v1::PeerStatus::default()
        };
        let lost = v1::PeerStatus {
            node_name: "c".into(),
            state: v1::PeerState::Unreachable.into(),
            reason: "5 handshakes went unanswered".into(),
            underlay_addr: String::new(),
            handshake_age_seconds: 0,
            ..up.clone()
        };

        v1::PeersResponse { peers: vec![lost, up] }
    }

    #[test]
    fn peers_tell_what_works_and_why_not() {
        let text = Peers::from(response()).text(Page { now: 100, width: None });

        let lines: Vec<_> = text.lines().map(|line| line.split("  ").filter(|w| !w.is_empty()).count()).collect();
        assert_eq!(lines, [12, 12, 12], "{text}");
        assert!(text.contains("192.0.2.2:51820  up           1 min  7 s ago"), "{text}");
        assert!(text.contains("unreachable  1 min  -"), "{text}");
        assert!(text.ends_with("5 handshakes went unanswered"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_null_and_not_zero() {
        let json = serde_json::to_value(Peers::from(response())).expect("JSON");

        assert_eq!(json[0]["handshake_age_seconds"], 7);
        assert_eq!(json[0]["reason"], serde_json::Value::Null);
        assert_eq!(json[1]["handshake_age_seconds"], serde_json::Value::Null);
        assert_eq!(json[1]["since"], "1970-01-01T00:00:40Z");
    }
}
