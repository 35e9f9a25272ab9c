//! The kernel's part of a network: a namespace of its own on each node, brought to a wanted value and kept there.
//!
//! ```text
//!  NamespaceDesired ──tables()──► Desired ─┐
//!                                          ├─ plan() ──► [Step] ──► netlink, /proc/sys
//!  the kernel ────────read back─► Actual ──┘
//! ```
//!
//! This folder holds the agent's privileged code. Which networks and endpoints there are is decided elsewhere, and packets
//! are moved elsewhere. How a process with no memory knows what is ours: pins are named `ovn-<network>`, interfaces
//! `ov<endpoint>` and `ovt`, routes and rules carry [`tables::ROUTE_PROTOCOL`].

pub mod desired;
mod entrance;
pub mod error;
mod exits;
#[cfg(test)]
mod fake;
mod gso;
pub mod heap;
pub mod host;
pub mod inside;
mod lock;
mod mounts;
pub mod namespace;
mod netlink;
pub mod netns;
pub mod nft;
pub mod plan;
#[cfg(test)]
mod plan_tests;
mod reconcile;
pub mod reservation;
pub mod sandbox;
mod settle;
mod sysctl;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod tun;

pub use desired::{NamespaceDesired, TunDesired, VethDesired};
pub use error::KernelError;
pub use exits::Exits;
pub use inside::Inside;
pub use mounts::MountEvents;
pub use namespace::{NetworkNamespace, Report};
pub use netlink::{Changes, Events, Place, Subscription};
pub use netns::{Netns, Pins};
pub use sandbox::{Drift, Keeper, SandboxDesired};
pub use tables::Step;
pub use tun::{Offload, Tun};
