//! Peers: the other nodes, as the data path of this one sees them.

use overlay_proto::v1;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::sample;
use crate::output::{Cell, Column, Page, Report, bytes, table, wrapped};
use crate::time;

/// One peer on one pair of lanes of one network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct PeerView {
    pub(crate) node: String,
    pub(crate) node_id: String,
    pub(crate) network: String,
    /// This node's.
    pub(crate) local_lane: u32,
    /// The peer's.
    pub(crate) lane: u32,
    pub(crate) underlay_addr: Option<String>,
    pub(crate) state: &'static str,
    pub(crate) reason: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) handshake_age_seconds: Option<u64>,
    /// Since anything authentic came from it.
    pub(crate) heard_seconds: Option<u64>,
    pub(crate) rtt_micros: Option<u64>,
    /// How many of a thousand datagrams are lost: of those that it sends, and of those sent to it.
    pub(crate) loss_in_permille: Option<u32>,
    pub(crate) loss_out_permille: Option<u32>,
    /// The peer is behind NAT.
    pub(crate) nat: bool,
    /// Where it sees this node.
    pub(crate) seen_at: Option<String>,
    pub(crate) rx_bytes: u64,
    pub(crate) tx_bytes: u64,
    pub(crate) mtu: u32,
    pub(crate) mtu_source: &'static str,
    pub(crate) backend: String,
    /// Of the peer's lane in this network, as WireGuard writes keys.
    pub(crate) public_key: String,
    #[serde(skip)]
    since_unix: u64,
}

impl From<v1::PeerStatus> for PeerView {
    fn from(peer: v1::PeerStatus) -> Self {
        let up = peer.state() == v1::PeerState::Up;
        let some = |text: String| Some(text).filter(|text| !text.is_empty());

        Self {
            state: state(peer.state()),
            mtu_source: mtu_source(peer.mtu_source()),
            handshake_age_seconds: Some(peer.handshake_age_seconds).filter(|age| up || *age > 0),
            node: peer.node_name,
            node_id: peer.node,
            network: peer.network,
            local_lane: peer.local_lane,
            lane: peer.lane,
            underlay_addr: some(peer.underlay_addr),
            reason: some(peer.reason),
            since: time::utc(peer.since_unix),
            heard_seconds: peer.heard_seconds,
            rtt_micros: peer.rtt_micros,
            loss_in_permille: peer.loss_in_permille,
            loss_out_permille: peer.loss_out_permille,
            nat: peer.nat,
            seen_at: some(peer.seen_at),
            rx_bytes: peer.rx_bytes,
            tx_bytes: peer.tx_bytes,
            mtu: peer.mtu,
            backend: peer.backend,
            public_key: peer.public_key,
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

/// Says how an MTU is known: the host's link allows it and the path carries it, the path carries no
/// more, or nobody knows.
fn mtu_source(source: v1::MtuSource) -> &'static str {
    match source {
        v1::MtuSource::Link => "link",
        v1::MtuSource::Probed => "probed",
        v1::MtuSource::Assumed => "assumed",
        v1::MtuSource::Unprobed | v1::MtuSource::Unspecified => "unprobed",
    }
}

/// A listing of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Peers {
    /// One for each pair of lanes.
    rows: Vec<PeerView>,
    detail: Detail,
}

/// What a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// One line for each node and network.
    Nodes,
    /// One line for each pair of lanes.
    Lanes,
}

impl Peers {
    /// Reads and sorts the peers.
    pub(crate) fn new(response: v1::PeersResponse, detail: Detail) -> Self {
        let mut rows: Vec<PeerView> = response.peers.into_iter().map(Into::into).collect();
        let key =
            |row: &PeerView| (row.node.clone(), row.network.clone(), row.local_lane, row.lane);
        rows.sort_by_key(key);

        Self { rows, detail }
    }

    fn lines(&self) -> Vec<(String, PeerView)> {
        match self.detail {
            Detail::Lanes => self.rows.iter().map(|row| (row.pair(), row.clone())).collect(),
            Detail::Nodes => self.nodes().map(|rows| (lanes(rows), summary(rows))).collect(),
        }
    }

    /// Splits the rows by peer and network.
    fn nodes(&self) -> impl Iterator<Item = &[PeerView]> {
        self.rows.chunk_by(|a, b| (&a.node_id, &a.network) == (&b.node_id, &b.network))
    }

    fn distinct(&self, field: impl Fn(&PeerView) -> &String) -> Vec<String> {
        let mut names: Vec<_> = self.rows.iter().map(|row| field(row).clone()).collect();
        names.sort();
        names.dedup();

        names
    }
}

/// Fields that all lanes of a peer in a network share.
const SHARED: [&str; 4] = ["node", "node_id", "network", "backend"];
/// Fields that only a lane has.
const OF_A_LANE: [&str; 3] = ["lane", "local_lane", "public_key"];

impl Serialize for Peers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.detail {
            Detail::Lanes => self.rows.serialize(serializer),
            Detail::Nodes => serializer.collect_seq(self.nodes().map(node)),
        }
    }
}

/// Writes a peer in a network, with its lanes inside.
fn node(rows: &[PeerView]) -> Value {
    let mut peer = without(&summary(rows), &OF_A_LANE);
    peer["lanes"] = rows.iter().map(|row| without(row, &SHARED)).collect();

    peer
}

fn without(row: &PeerView, fields: &[&str]) -> Value {
    let mut value = json!(row);
    if let Value::Object(all) = &mut value {
        all.retain(|field, _| !fields.contains(&field.as_str()));
    }

    value
}

/// Says how many of the lanes are up.
fn lanes(rows: &[PeerView]) -> String {
    format!("{} of {}", rows.iter().filter(|row| row.state == "up").count(), rows.len())
}

/// Makes one line of a node's lanes: what does not work comes first, what is merely unused last.
fn summary(rows: &[PeerView]) -> PeerView {
    let rank = |row: &&PeerView| match row.state {
        "unreachable" => 0,
        "up" => 1,
        "handshaking" => 2,
        _ => 3,
    };
    let mut line =
        rows.iter().min_by_key(rank).cloned().unwrap_or_else(|| v1::PeerStatus::default().into());
    line.handshake_age_seconds = rows.iter().filter_map(|row| row.handshake_age_seconds).min();
    // The lanes that nothing was sent on know nothing; of the others the narrowest says what a
    // container may meet.
    let known = rows.iter().filter(|row| row.mtu_source != "unprobed").min_by_key(|row| row.mtu);
    (line.mtu, line.mtu_source) =
        known.map_or((line.mtu, line.mtu_source), |row| (row.mtu, row.mtu_source));
    line.heard_seconds = rows.iter().filter_map(|row| row.heard_seconds).min();
    line.rtt_micros = rows.iter().filter_map(|row| row.rtt_micros).min();
    line.loss_in_permille = rows.iter().filter_map(|row| row.loss_in_permille).max();
    line.loss_out_permille = rows.iter().filter_map(|row| row.loss_out_permille).max();
    line.nat = rows.iter().any(|row| row.nat);
    line.rx_bytes = rows.iter().map(|row| row.rx_bytes).sum();
    line.tx_bytes = rows.iter().map(|row| row.tx_bytes).sum();

    line
}

/// Node, network and state always stay; the address is left out last.
const COLUMNS: [Column; 15] = [
    Column::name("NODE"),
    Column::left("ID").wide(),
    Column::name("NETWORK"),
    Column::left("LANES UP").leaves(2),
    Column::left("UNDERLAY").leaves(7),
    Column::left("STATE"),
    Column::left("FOR").leaves(6),
    Column::left("HANDSHAKE").leaves(4),
    Column::right("RTT").leaves(3),
    Column::right("LOSS").leaves(4),
    Column::right("RX").leaves(5),
    Column::right("TX").leaves(5),
    Column::right("MTU").leaves(3),
    Column::left("BACKEND").leaves(1),
    Column::prose("REASON"),
];

impl Report for Peers {
    fn text(&self, page: Page) -> String {
        if self.rows.is_empty() {
            return "no peers: no other node is a member of this node's networks".to_owned();
        }
        let mut columns = COLUMNS;
        if self.detail == Detail::Lanes {
            columns[3] = Column::left("LANES");
        }
        let lines = self.lines();
        // On a terminal there is room for reasons below the table alone.
        let below = page.width.is_some() && !page.wide;
        let shown = if below { columns.len() - 1 } else { columns.len() };
        let reasons = lines.iter().filter(|_| below).filter_map(|(_, peer)| {
            let reason = peer.reason.as_ref()?;
            Some(wrapped(
                page,
                &format!("{} on {} is {}: {reason}", peer.node, peer.network, peer.state),
            ))
        });
        let reasons: Vec<_> = reasons.collect();
        let cells = |(lane, peer): (String, PeerView)| {
            peer.cells(lane, page).into_iter().take(shown).map(Into::into).collect::<Vec<Cell>>()
        };
        let table =
            table(page, &columns[..shown], &lines.into_iter().map(cells).collect::<Vec<_>>());

        std::iter::once(table).chain(reasons).collect::<Vec<_>>().join("\n")
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.distinct(|row| &row.node))
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(self.distinct(|row| &row.node_id))
    }

    fn sample() -> Option<Value> {
        let row = PeerView::from(v1::PeerStatus::default());
        let mut all = json!(row);
        all["lanes"] = sample(&[row])?;

        Some(all)
    }
}

impl PeerView {
    fn mtu_words(&self) -> String {
        match self.mtu_source {
            "assumed" => format!("{} assumed (peer does not answer probes)", self.mtu),
            "unprobed" => format!("{} link (not tried yet)", self.mtu),
            source => format!("{} {source}", self.mtu),
        }
    }

    /// Names the lanes at both ends.
    fn pair(&self) -> String {
        format!("{} to {}", self.local_lane, self.lane)
    }

    fn cells(self, lane: String, page: Page) -> Vec<String> {
        let dash = || "-".to_owned();
        let mtu = self.mtu_words();

        vec![
            self.node,
            self.node_id,
            self.network,
            lane,
            self.underlay_addr.unwrap_or_else(dash),
            self.state.to_owned(),
            time::lasting(page.now, self.since_unix),
            self.handshake_age_seconds.map_or_else(dash, |age| format!("{} ago", time::words(age))),
            self.rtt_micros.map_or_else(dash, rtt),
            loss(self.loss_in_permille, self.loss_out_permille),
            bytes(self.rx_bytes),
            bytes(self.tx_bytes),
            mtu,
            self.backend,
            self.reason.unwrap_or_else(dash),
        ]
    }
}

fn rtt(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros / 100 % 10)
}

/// Writes what is lost from the peer and to it.
fn loss(incoming: Option<u32>, outgoing: Option<u32>) -> String {
    let percent = |permille: Option<u32>| {
        permille.map(|permille| format!("{}.{}", permille / 10, permille % 10))
    };
    match (percent(incoming), percent(outgoing)) {
        (None, None) => "-".to_owned(),
        (Some(one), Some(other)) if one == other => format!("{one} %"),
        (incoming, outgoing) => {
            let known = |percent: Option<String>| percent.unwrap_or_else(|| "-".to_owned());
            format!("{} % in, {} % out", known(incoming), known(outgoing))
        }
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
            mtu_source: v1::MtuSource::Link.into(),
            backend: "userspace".into(),
            public_key: "a key".into(),
            ..v1::PeerStatus::default()
        };
        let lost = v1::PeerStatus {
            node: "0c".into(),
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
        let text =
            Peers::new(response(), Detail::Nodes).text(Page { now: 100, width: None, wide: false });

        let lines: Vec<_> =
            text.lines().map(|line| line.split("  ").filter(|w| !w.is_empty()).count()).collect();
        assert_eq!(lines, [14, 14, 14], "{text}");
        assert!(text.contains("192.0.2.2:51820  up           1 min  7 s ago"), "{text}");
        assert!(text.contains("unreachable  1 min  -"), "{text}");
        assert!(text.ends_with("5 handshakes went unanswered"), "{text}");
    }

    #[test]
    fn the_lanes_of_a_node_are_one_line_unless_asked_for() {
        let peer = |lane, state: v1::PeerState| v1::PeerStatus {
            node: "0b".into(),
            node_name: "b".into(),
            network: "web".into(),
            lane,
            state: state.into(),
            rx_bytes: 1024,
            ..v1::PeerStatus::default()
        };
        let states = [v1::PeerState::Idle, v1::PeerState::Up, v1::PeerState::Unreachable];
        let response = v1::PeersResponse {
            peers: (0..3).zip(states).map(|(lane, state)| peer(lane, state)).collect(),
        };

        let page = Page { now: 0, width: None, wide: false };
        let nodes = Peers::new(response.clone(), Detail::Nodes).text(page);
        let lanes = Peers::new(response, Detail::Lanes).text(page);

        assert_eq!((nodes.lines().count(), lanes.lines().count()), (2, 4), "{nodes}\n{lanes}");
        assert!(
            nodes.contains("1 of 3") && nodes.contains("unreachable") && nodes.contains("3.0 KiB"),
            "{nodes}"
        );
    }

    #[test]
    fn the_mtu_is_shown_with_how_it_is_known() {
        use v1::MtuSource::{Assumed, Link, Probed, Unprobed};
        let shown = |known: &[(u32, v1::MtuSource)]| {
            let peer = |lane, (mtu, source): (u32, v1::MtuSource)| v1::PeerStatus {
                lane,
                mtu,
                mtu_source: source.into(),
                ..v1::PeerStatus::default()
            };
            let peers = (0..).zip(known).map(|(lane, known)| peer(lane, *known)).collect();
            let peers = Peers::new(v1::PeersResponse { peers }, Detail::Nodes);
            let json = serde_json::to_value(&peers).expect("JSON");
            assert_eq!(json[0]["lanes"][0]["mtu"], known[0].0);
            peers.lines()[0].1.mtu_words()
        };

        assert_eq!(shown(&[(1408, Link)]), "1408 link");
        assert_eq!(shown(&[(1408, Unprobed), (1232, Probed), (1408, Link)]), "1232 probed");
        assert_eq!(shown(&[(1408, Assumed)]), "1408 assumed (peer does not answer probes)");
        assert_eq!(shown(&[(1408, Unprobed)]), "1408 link (not tried yet)");
    }

    #[test]
    fn what_is_not_known_is_null_and_not_zero() {
        let json = serde_json::to_value(Peers::new(response(), Detail::Nodes)).expect("JSON");

        assert_eq!(json[0]["handshake_age_seconds"], 7);
        assert_eq!(json[0]["reason"], Value::Null);
        assert_eq!(json[1]["handshake_age_seconds"], Value::Null);
        assert_eq!(json[1]["since"], "1970-01-01T00:00:40Z");
    }

    #[test]
    fn loss_and_round_trip_are_told_where_they_are_known() {
        assert_eq!((rtt(1_250), rtt(40)), ("1.2 ms".to_owned(), "0.0 ms".to_owned()));
        assert_eq!(loss(None, None), "-");
        assert_eq!(loss(Some(0), Some(0)), "0.0 %");
        assert_eq!(loss(Some(104), Some(0)), "10.4 % in, 0.0 % out");
        assert_eq!(loss(Some(1), None), "0.1 % in, - % out");
    }

    #[test]
    fn a_peer_is_one_object_with_its_lanes_inside() {
        let lane = |lane, network: &str| v1::PeerStatus {
            lane,
            network: network.into(),
            ..response().peers.remove(1)
        };
        let peers = vec![lane(1, "web"), lane(0, "web"), lane(0, "db")];

        let json = serde_json::to_value(Peers::new(
            v1::PeersResponse { peers: peers.clone() },
            Detail::Nodes,
        ));
        let flat = serde_json::to_value(Peers::new(v1::PeersResponse { peers }, Detail::Lanes))
            .expect("JSON");

        let json = json.expect("JSON");
        let lanes: Vec<_> = json
            .as_array()
            .expect("a list")
            .iter()
            .map(|peer| (&peer["network"], peer["lanes"].as_array().map(Vec::len)))
            .collect();
        assert_eq!(lanes, [(&json!("db"), Some(1)), (&json!("web"), Some(2))]);
        assert_eq!(json[1]["rx_bytes"], 4096, "of both lanes");
        assert_eq!((&json[1]["lane"], &json[1]["lanes"][1]["lane"]), (&Value::Null, &json!(1)));
        assert_eq!(json[1]["lanes"][0]["network"], Value::Null, "said once, outside");
        assert_eq!(flat.as_array().map(Vec::len), Some(3));
    }
}
