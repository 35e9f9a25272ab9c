//! The agent's state: what works, what does not, why, and since when.

use std::collections::BTreeMap;

use overlay_proto::v1;
use serde::Serialize;

use super::{pairs, role};
use crate::output::{Cell, Column, Page, Report, bytes, table};
use crate::time;

/// The agent's state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct StatusView {
    pub(crate) phase: &'static str,
    /// No problem is known.
    pub(crate) healthy: bool,
    pub(crate) cluster: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) node_id: Option<String>,
    pub(crate) role: &'static str,
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) started: Option<String>,
    pub(crate) state_dir: String,
    pub(crate) revision: u64,
    pub(crate) certificate_expires: Option<String>,
    pub(crate) control: ControlView,
    pub(crate) lanes: Vec<LaneView>,
    pub(crate) networks: Vec<MembershipView>,
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) problems: Vec<ProblemView>,
    /// The counters of packets that did not arrive.
    #[serde(skip)]
    refusals: BTreeMap<String, u64>,
    #[serde(skip)]
    started_unix: u64,
    #[serde(skip)]
    certificate_expires_unix: u64,
}

/// The connection to control.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ControlView {
    pub(crate) connected: bool,
    pub(crate) address: Option<String>,
    pub(crate) since: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) unpublished: u32,
    #[serde(skip)]
    since_unix: u64,
}

/// One lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LaneView {
    pub(crate) lane: u32,
    pub(crate) port: u32,
    pub(crate) offload: String,
}

/// One network that this node is a member of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct MembershipView {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) prefix: String,
    pub(crate) prefix6: Option<String>,
    pub(crate) node_address: String,
    pub(crate) blocks: Vec<String>,
    pub(crate) endpoints: u32,
    pub(crate) addresses_free: u32,
    pub(crate) mtu: u32,
    pub(crate) drift_healed: u32,
}

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct ProblemView {
    pub(crate) code: String,
    pub(crate) text: String,
    pub(crate) since: Option<String>,
    #[serde(skip)]
    since_unix: u64,
}

impl From<v1::StatusResponse> for StatusView {
    fn from(status: v1::StatusResponse) -> Self {
        let is_refusal = |counter: &&v1::Counter| {
            counter.kind() == v1::CounterKind::Refusal && counter.value > 0
        };
        let refusals =
            status.counters.iter().filter(is_refusal).map(|c| (c.name.clone(), c.value)).collect();

        Self {
            refusals,
            phase: phase(status.phase()),
            healthy: status.problems.is_empty(),
            cluster: some(status.cluster),
            node: some(status.node_name),
            node_id: some(status.node),
            role: role(status.role),
            version: status.version,
            pid: status.pid,
            started: time::utc(status.started_unix),
            state_dir: status.state_dir,
            revision: status.revision,
            certificate_expires: time::utc(status.certificate_expires_unix),
            control: status.control.unwrap_or_default().into(),
            lanes: status.lanes.into_iter().map(Into::into).collect(),
            networks: status.networks.into_iter().map(Into::into).collect(),
            counters: status.counters.into_iter().map(|c| (c.name, c.value)).collect(),
            problems: status.problems.into_iter().map(Into::into).collect(),
            started_unix: status.started_unix,
            certificate_expires_unix: status.certificate_expires_unix,
        }
    }
}

impl From<v1::ControlStatus> for ControlView {
    fn from(control: v1::ControlStatus) -> Self {
        Self {
            connected: control.connected,
            address: some(control.address),
            since: time::utc(control.since_unix),
            reason: some(control.reason),
            unpublished: control.unpublished,
            since_unix: control.since_unix,
        }
    }
}

impl From<v1::LaneStatus> for LaneView {
    fn from(lane: v1::LaneStatus) -> Self {
        Self { lane: lane.lane, port: lane.port, offload: lane.offload }
    }
}

impl From<v1::NetworkStatus> for MembershipView {
    fn from(network: v1::NetworkStatus) -> Self {
        Self {
            name: network.name,
            id: network.id,
            prefix: network.prefix,
            prefix6: some(network.prefix6),
            node_address: network.node_address,
            blocks: network.blocks,
            endpoints: network.endpoints,
            addresses_free: network.addresses_free,
            mtu: network.mtu,
            drift_healed: network.drift_healed,
        }
    }
}

impl From<v1::Problem> for ProblemView {
    fn from(problem: v1::Problem) -> Self {
        Self {
            code: problem.code,
            text: problem.text,
            since: time::utc(problem.since_unix),
            since_unix: problem.since_unix,
        }
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

fn phase(phase: v1::NodePhase) -> &'static str {
    match phase {
        v1::NodePhase::Unjoined => "unjoined",
        v1::NodePhase::Joining => "joining",
        v1::NodePhase::Joined => "joined",
        v1::NodePhase::Expelled => "expelled",
        v1::NodePhase::Unspecified => "unknown",
    }
}

impl Report for StatusView {
    fn text(&self, page: Page) -> String {
        let parts = [
            Some(self.head(page)),
            self.network_table(page),
            self.refused_lines(),
            Some(self.problem_table(page)),
        ];

        parts.into_iter().flatten().collect::<Vec<_>>().join("\n\n")
    }

    fn names(&self) -> Option<Vec<String>> {
        Some(self.node.iter().cloned().collect())
    }

    fn ids(&self) -> Option<Vec<String>> {
        Some(self.node_id.iter().cloned().collect())
    }
}

/// Network, node address and what is free always stay.
const NETWORK_COLUMNS: [Column; 9] = [
    Column::name("NETWORK"),
    Column::left("ID").wide(),
    Column::left("PREFIX").leaves(4),
    Column::left("NODE ADDRESS"),
    Column::left("BLOCKS").leaves(2),
    Column::right("ENDPOINTS").leaves(5),
    Column::right("FREE"),
    Column::right("MTU").leaves(1),
    Column::right("HEALED").leaves(3),
];
const PROBLEM_COLUMNS: [Column; 3] =
    [Column::left("PROBLEM"), Column::left("FOR"), Column::prose("WHAT")];

impl StatusView {
    fn head(&self, page: Page) -> String {
        let mut rows = vec![("node", self.node_line())];
        if self.phase == "joined" {
            rows.push(("control", self.control.line(page.now)));
            rows.push(("certificate", self.certificate_line(page.now)));
            rows.push(("revision", self.revision.to_string()));
        }
        rows.push(("agent", self.agent_line(page.now)));
        rows.push(("lanes", self.lane_line()));
        if self.phase == "joined" {
            rows.push(("traffic", self.traffic_line()));
        }

        pairs(page, &rows)
    }

    fn node_line(&self) -> String {
        let name = self.node.as_deref().unwrap_or("-");
        let cluster = self.cluster.as_deref().unwrap_or("-");
        match self.phase {
            "joined" => {
                format!(
                    "{name} ({}), {} of cluster {cluster}",
                    self.node_id.as_deref().unwrap_or("-"),
                    self.role
                )
            }
            "joining" => "joining".to_owned(),
            "expelled" => format!(
                "{name} was removed from cluster {cluster}: `overlayctl leave`, then join again"
            ),
            _ => "not joined: `overlayctl init` or `overlayctl join`".to_owned(),
        }
    }

    fn certificate_line(&self, now: u64) -> String {
        match &self.certificate_expires {
            Some(at) if self.certificate_expires_unix > now => {
                format!(
                    "valid, renewed by itself; expires {} ({at})",
                    time::deadline(now, self.certificate_expires_unix)
                )
            }
            Some(at) => format!("{} ({at})", time::deadline(now, self.certificate_expires_unix)),
            None => "none".to_owned(),
        }
    }

    fn agent_line(&self, now: u64) -> String {
        let up = time::lasting(now, self.started_unix);

        format!("{}, pid {}, running for {up}, state in {}", self.version, self.pid, self.state_dir)
    }

    fn lane_line(&self) -> String {
        if self.lanes.is_empty() {
            return "none".to_owned();
        }
        let offload = |lane: &LaneView| {
            if lane.offload.is_empty() { "no offload".to_owned() } else { lane.offload.clone() }
        };
        let lanes: Vec<_> = self
            .lanes
            .iter()
            .map(|lane| format!("udp/{} ({})", lane.port, offload(lane)))
            .collect();

        lanes.join(", ")
    }

    fn network_table(&self, page: Page) -> Option<String> {
        let row = |n: &MembershipView| {
            vec![
                n.name.clone().into(),
                n.id.clone().into(),
                Cell::list([&n.prefix].into_iter().chain(&n.prefix6)),
                n.node_address.clone().into(),
                Cell::list(&n.blocks),
                n.endpoints.to_string().into(),
                n.addresses_free.to_string().into(),
                n.mtu.to_string().into(),
                n.drift_healed.to_string().into(),
            ]
        };
        let rows: Vec<_> = self.networks.iter().map(row).collect();

        (!rows.is_empty()).then(|| table(page, &NETWORK_COLUMNS, &rows))
    }

    fn traffic_line(&self) -> String {
        let count = |name: &str| self.counters.get(name).copied().unwrap_or(0);
        let way = |packets: &str, volume: &str| {
            format!("{} packets ({})", count(packets), bytes(count(volume)))
        };

        format!(
            "{} out, {} in",
            way("forwarded", "forwarded_bytes"),
            way("delivered", "delivered_bytes")
        )
    }

    /// Lists packets that went no further, by reason; nothing when there are none.
    fn refused_lines(&self) -> Option<String> {
        let width = self.refusals.keys().map(String::len).max()?;
        let lines: Vec<_> =
            self.refusals.iter().map(|(name, value)| format!("  {name:width$}  {value}")).collect();

        Some(format!("packets refused, by reason\n{}", lines.join("\n")))
    }

    fn problem_table(&self, page: Page) -> String {
        if self.problems.is_empty() {
            return "no problems".to_owned();
        }
        let row = |p: &ProblemView| {
            vec![
                p.code.clone().into(),
                time::lasting(page.now, p.since_unix).into(),
                p.text.clone().into(),
            ]
        };

        table(page, &PROBLEM_COLUMNS, &self.problems.iter().map(row).collect::<Vec<_>>())
    }
}

impl ControlView {
    fn line(&self, now: u64) -> String {
        let lasting = time::lasting(now, self.since_unix);
        let mut line = if self.connected {
            format!("connected to {} for {lasting}", self.address.as_deref().unwrap_or("-"))
        } else {
            let reason = self.reason.as_deref().unwrap_or("no reason is known");
            format!("away for {lasting}: {reason}; traffic goes on")
        };
        if self.unpublished > 0 {
            line.push_str(&format!("; {} changes wait for it", self.unpublished));
        }

        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(name: &str, value: u64, kind: v1::CounterKind) -> v1::Counter {
        v1::Counter { name: name.into(), value, kind: kind.into() }
    }

    fn status() -> v1::StatusResponse {
        v1::StatusResponse {
            version: "0.1.0".into(),
            phase: v1::NodePhase::Joined.into(),
            cluster: "c1".into(),
            node: "0a".into(),
            node_name: "a".into(),
            role: v1::Role::Admin.into(),
            pid: 42,
            started_unix: 1_000,
            state_dir: "/var/lib/overlay/agent".into(),
            control: Some(v1::ControlStatus {
                connected: true,
                address: "192.0.2.1:7443".into(),
                since_unix: 1_000,
                reason: String::new(),
                unpublished: 0,
            }),
            lanes: vec![v1::LaneStatus { lane: 0, port: 51820, offload: "tso+gro".into() }],
            networks: vec![v1::NetworkStatus {
                name: "web".into(),
                id: "01".into(),
                prefix: "10.9.0.0/16".into(),
                prefix6: String::new(),
                node_address: "10.9.0.1".into(),
                blocks: vec!["10.9.0.0/26".into()],
                endpoints: 1,
                addresses_free: 61,
                mtu: 1408,
                drift_healed: 0,
            }],
            counters: vec![
                counter("no_route", 3, v1::CounterKind::Refusal),
                counter("forwarded", 9, v1::CounterKind::Traffic),
                counter("forwarded_bytes", 2048, v1::CounterKind::Traffic),
                counter("malformed", 0, v1::CounterKind::Refusal),
                counter("wrong_mac", 4, v1::CounterKind::Noise),
                counter("udp_singly", 5, v1::CounterKind::Noise),
            ],
            problems: Vec::new(),
            certificate_expires_unix: 90_000,
            revision: 7,
        }
    }

    #[test]
    fn a_sound_node_is_told_in_a_few_lines() {
        let text = StatusView::from(status()).text(Page { now: 4_600, width: None, wide: false });

        assert_eq!(
            text,
            "node         a (0a), admin of cluster c1\n\
             control      connected to 192.0.2.1:7443 for 1 h\n\
             certificate  valid, renewed by itself; expires in 23 h 43 min (1970-01-02T01:00:00Z)\n\
             revision     7\n\
             agent        0.1.0, pid 42, running for 1 h, state in /var/lib/overlay/agent\n\
             lanes        udp/51820 (tso+gro)\n\
             traffic      9 packets (2.0 KiB) out, 0 packets (0 B) in\n\
             \n\
             NETWORK  PREFIX       NODE ADDRESS  BLOCKS       ENDPOINTS  FREE   MTU  HEALED\n\
             web      10.9.0.0/16  10.9.0.1      10.9.0.0/26          1    61  1408       0\n\
             \n\
             packets refused, by reason\n  no_route  3\n\
             \n\
             no problems"
        );
    }

    #[test]
    fn what_does_not_work_comes_with_reason_and_time() {
        let mut status = status();
        status.control = Some(v1::ControlStatus {
            connected: false,
            address: "192.0.2.1:7443".into(),
            since_unix: 4_000,
            reason: "connection refused".into(),
            unpublished: 2,
        });
        status.problems = vec![v1::Problem {
            code: "control-away".into(),
            text: "control is away".into(),
            since_unix: 4_000,
        }];

        let text = StatusView::from(status).text(Page { now: 4_060, width: None, wide: false });

        assert!(text.contains("away for 1 min: connection refused"), "{text}");
        assert!(text.contains("2 changes wait for it"), "{text}");
        assert!(
            text.ends_with("PROBLEM       FOR    WHAT\ncontrol-away  1 min  control is away"),
            "{text}"
        );
    }

    #[test]
    fn an_unjoined_agent_says_what_to_do() {
        let status = v1::StatusResponse {
            phase: v1::NodePhase::Unjoined.into(),
            ..v1::StatusResponse::default()
        };

        let text = StatusView::from(status).text(Page { now: 0, width: None, wide: false });

        assert!(text.starts_with("node   not joined: `overlayctl init`"), "{text}");
    }

    #[test]
    fn scripts_get_stable_fields() {
        let json = serde_json::to_value(StatusView::from(status())).expect("JSON");

        assert_eq!(json["phase"], "joined");
        assert_eq!(json["control"]["connected"], true);
        assert_eq!(json["control"]["reason"], serde_json::Value::Null);
        assert_eq!(json["counters"]["no_route"], 3);
        assert_eq!(json["certificate_expires"], "1970-01-02T01:00:00Z");
        assert!(json.get("started_unix").is_none());
    }
}
