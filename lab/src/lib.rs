//! Hosts made of Linux namespaces, for users and for every end-to-end test.
//!
//! A [`Lab`] consists of an underlay switch (a bridge in an unnamed network namespace) and a number
//! of hosts. Each host is one process that holds network, mount, UTS, IPC and PID namespaces of its
//! own. So nothing of a lab appears in the machine's `ip netns`, links, nftables or mounts, and
//! killing that process kills everything in the host.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! let lab = overlay_lab::Lab::new(2)?;
//! let output = lab.host(0).command("overlay-lab").args(["ping", "host2"]).run()?;
//! assert!(output.stdout.contains("0 lost"));
//! # Ok(())
//! # }
//! ```

mod bench;
mod binary;
mod capture;
mod check;
pub mod cli;
mod cluster;
mod command;
mod competitor_tunnel;
mod daemon;
mod demo;
mod docker;
mod enter;
mod host;
mod host_init;
mod lab;
mod namespace;
mod netlink;
mod process;
mod rootfs;
mod snapshot;
mod state;
mod stock;
mod supervisor;
mod tool;
mod topology;

pub use binary::bin;
pub use capture::Capture;
pub use check::{CHECKS, Check, FIRST_HOUR};
pub use cluster::Cluster;
pub use command::{CommandOutput, HostCommand, Running};
pub use daemon::Daemon;
pub use docker::{DockerDaemon, IMAGE, Image, Release};
pub use host::Host;
pub use lab::{Builder, Lab};
pub use overlay_traffic::capture::CaptureReport;
pub use overlay_traffic::wait::wait_until;
pub use snapshot::Snapshot;
pub use stock::{Stock, StockTunnel};
pub use topology::{HostPlan, InvalidTopology, Topology, UnderlayKind};
