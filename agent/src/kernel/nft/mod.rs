//! nftables: a table as a value (`ruleset`), how it is written to the kernel (`encoding`), and
//! the socket that owns it there ([`OwnedTable`]). Which transaction leads from one to the next is
//! planned in [`super::plan`].
//!
//! What is in such a table is decided by whoever wants one: `dns/redirect.rs`.
//!
//! The table of a network's policy is another one: it outlives this process, and has sets, maps and
//! logs, so it is written as text (`filter_script`) for the program `nft` ([`FilterTable`]). Beside
//! it stand the tables of the guard (`guard`), which every network has: what containers may send at
//! all (`guard_script`, `guard_table`). How either is made anew under traffic is in `edition`.
//! Whether somebody else changed a table is asked without the program (`requests`), and what
//! becomes of a network where it cannot be put in place is decided in `enforcement`.

mod edition;
pub(crate) mod encoding;
mod enforcement;
mod filter_script;
mod filter_table;
mod flow_log;
mod guard;
mod guard_script;
mod guard_table;
mod owned_table;
mod program;
mod requests;
pub mod ruleset;

#[cfg(test)]
pub(crate) use enforcement::NotEnforcedCause;
pub(crate) use enforcement::{Enforced, Enforcement, FilterDesired, Guarded, NotEnforced};
#[cfg(test)]
pub(crate) use filter_script::LOG_GROUP;
pub use filter_table::{FilterCount, FilterCounts, FilterTable};
pub(crate) use flow_log::FlowLog;
pub(crate) use guard::Guard;
pub use guard::GuardReason;
pub use guard_table::GuardCounts;
pub(crate) use guard_table::GuardTable;
pub use owned_table::OwnedTable;
pub use program::NftError;
