//! Puts the reports of all lanes together. Pure.

use super::{BackendReport, PeerReport, SocketReport, counters};
use crate::path::{LaneReport, Offload};

/// Says how the lanes are doing, whose TUNs take and give these super-packets.
pub(super) fn summarize(lanes: Vec<LaneReport>, interfaces: Offload) -> BackendReport {
    let socket = |report: &LaneReport| SocketReport {
        key: report.lane,
        port: report.port,
        interfaces,
        segments: report.segments,
    };
    let peers = |report: LaneReport| {
        let of = move |status| PeerReport { key: report.lane, status };
        report.peers.into_iter().map(of)
    };

    BackendReport {
        sockets: lanes.iter().map(socket).collect(),
        counters: counters::sum(&lanes),
        refused: lanes.iter().filter_map(|report| report.refused).min(),
        peers: lanes.into_iter().flat_map(peers).collect(),
    }
}
