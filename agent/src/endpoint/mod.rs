//! The endpoints of this node: journalled before the kernel is touched, taken out of the journal
//! before it is cleaned.

pub(crate) mod attach;
mod cut_off;
pub(crate) mod detach;
pub(crate) mod gc;
pub(crate) mod lifecycle;
pub(crate) mod request;
pub(crate) mod reservation;
pub(crate) mod routes;
pub(crate) mod sandbox;
pub(crate) mod start_wait;
