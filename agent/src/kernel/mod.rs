//! The kernel's part of a network: a namespace of its own on each node, brought to a wanted value
//! and kept there.
//!
//! ```text
//!  NamespaceDesired ──tables()──► Desired ─┐
//!                                          ├─ plan() ──► [Step] ──► netlink, /proc/sys
//!  the kernel ────────read back─► Actual ──┘
//! ```
//!
//! This folder holds the agent's privileged code. Which networks and endpoints there are is decided
//! elsewhere, and packets are moved elsewhere. How a process with no memory knows what is ours:
//! pins are named `ovn-<network>`, interfaces `ov<endpoint>`, `ovl<network>` and `ovt`, routes and
//! rules carry [`tables::ROUTE_PROTOCOL`]; an nftables table belongs to the socket that made it,
//! but that of a policy, which is known by its name in a namespace of ours.

pub mod code_pages;
pub mod container_interface;
mod converge;
pub mod error;
#[cfg(test)]
mod fake;
mod gso;
pub mod heap;
pub mod host;
mod lock;
mod mounts;
pub mod namespace;
pub mod namespace_desired;
mod netlink;
pub mod netns;
mod netns_threads;
pub mod nft;
pub(crate) mod passing;
pub mod plan;
#[cfg(test)]
mod plan_tests;
mod process_exits;
pub mod reconcile_report;
pub mod reservation;
mod route_steps;
pub mod sandbox;
mod settle;
mod sysctl;
pub mod tables;
#[cfg(test)]
pub(crate) mod tests;
pub mod tun;

pub use container_interface::ContainerInterface;
pub use error::KernelError;
pub use mounts::MountEvents;
pub use namespace::NetworkNamespace;
pub use namespace_desired::{
    InterfaceDesired, JoinDesired, NamespaceDesired, TunDesired, VethDesired,
};
pub use netlink::{ChangeScope, Changes, NamespaceEvents, OwnPort, Subscription};
pub use netns::{Netns, Pins};
pub use process_exits::ProcessExits;
pub use reconcile_report::ReconcileReport;
pub use sandbox::{Drift, InterfaceOwner, SandboxDesired};
pub use tables::{Step, Strays};
pub use tun::{NetworkInterface, Offload, Tun};
