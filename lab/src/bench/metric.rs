//! The metrics that are measured, and how they are shown.

use serde::Serialize;

/// One column of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Metric {
    /// TCP over one stream, Gbit/s of payload.
    Tcp1,
    /// TCP over four streams, Gbit/s of payload.
    Tcp4,
    /// Processor seconds of both agents for each GB (10^9 bytes) that one TCP stream carried.
    Cost,
    /// Processor seconds of sender and receiver for each GB that one TCP stream carried.
    EndsCost,
    /// UDP datagrams of 64 bytes per second with less than 1 % loss, in thousands.
    Small,
    /// UDP datagrams of 1,372 bytes per second with less than 1 % loss, in thousands.
    Full,
    /// UDP sent in trains with less than 1 % loss, Gbit/s of payload.
    Trains,
    /// The median round trip on an idle path, µs.
    IdleMedian,
    /// The 99th percentile of the round trips on an idle path, µs.
    IdleTail,
    /// The median round trip next to a TCP stream, µs.
    LoadMedian,
    /// The 99th percentile of the round trips next to a TCP stream, µs.
    LoadTail,
    /// Resident memory of both agents, MiB.
    Memory,
}

impl Metric {
    /// All metrics, in the order of the table.
    pub(super) const ALL: [Self; 12] = [
        Self::Tcp1,
        Self::Tcp4,
        Self::Cost,
        Self::EndsCost,
        Self::Small,
        Self::Full,
        Self::Trains,
        Self::IdleMedian,
        Self::IdleTail,
        Self::LoadMedian,
        Self::LoadTail,
        Self::Memory,
    ];

    /// Returns the heading of the column.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Tcp1 => "TCP 1 Gbit/s",
            Self::Tcp4 => "TCP 4 Gbit/s",
            Self::Cost => "agents s/GB",
            Self::EndsCost => "ends s/GB",
            Self::Small => "64 B kpps",
            Self::Full => "1372 B kpps",
            Self::Trains => "UDP trains Gbit/s",
            Self::IdleMedian => "RTT p50 us",
            Self::IdleTail => "RTT p99 us",
            Self::LoadMedian => "loaded p50 us",
            Self::LoadTail => "loaded p99 us",
            Self::Memory => "memory MiB",
        }
    }

    /// Returns whether it describes the agents, which a bare link does not have.
    pub(super) fn is_of_agents(self) -> bool {
        matches!(self, Self::Cost | Self::Memory)
    }

    /// Formats a value with a sensible number of digits.
    pub(super) fn show(self, value: f64) -> String {
        match self {
            Self::Tcp1 | Self::Tcp4 | Self::Cost | Self::EndsCost | Self::Trains => {
                format!("{value:.2}")
            }
            Self::Small
            | Self::Full
            | Self::IdleMedian
            | Self::IdleTail
            | Self::LoadMedian
            | Self::LoadTail
            | Self::Memory => format!("{value:.0}"),
        }
    }
}
