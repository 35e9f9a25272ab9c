//! The audit log: each change is kept with who made it, from where, and what was before and after.
//!
//! The writer makes one record of each command that changes something and stores it in the
//! transaction of that change ([`entry`], [`rows`]). Who called is known from the connection
//! ([`origin`]). A caller that changes more than its share gets sums instead of single records
//! ([`pace`]), and so does whoever is refused ([`refusals`]). The chain itself is the store's
//! ([`crate::store`]), its format [`overlay_proto::audit`].

mod bounded;
pub(crate) mod entry;
mod layer;
pub(crate) mod origin;
pub(crate) mod pace;
pub(crate) mod refusals;
mod rows;

pub(crate) use entry::AuditedCommand;
pub(crate) use layer::AuditLayer;
pub(crate) use origin::CallOrigin;
pub(crate) use pace::{AuditPace, Sum};
pub(crate) use refusals::Refusals;
