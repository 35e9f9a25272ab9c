//! On the real kernel, in namespaces of our own that no path outside a temporary folder names. They
//! need root and are skipped loudly without it.

mod heal;
mod joins;
mod life;
mod policy;
mod policy_cost;
mod questions;
mod reservations;
pub(crate) mod rig;
mod sandboxes;
mod traffic;
