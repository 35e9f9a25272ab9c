//! nftables: a table as a value (`ruleset`), how it is written to the kernel (`encoding`), and
//! the socket that owns it there ([`OwnedTable`]). Which transaction leads from one to the next is
//! planned in [`super::plan`].
//!
//! What is in a table is decided by whoever wants one: `dns/redirect.rs`.

pub(crate) mod encoding;
mod owned_table;
pub mod ruleset;

pub use owned_table::OwnedTable;
