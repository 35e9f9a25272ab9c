//! The wire protocol: generated messages and services, their conversion to core types, join lines
//! and TLS.
//!
//! Generated types appear only in [`convert`] and in the thin service files of control and agent;
//! everything behind them uses core types, which are checked.
#![forbid(unsafe_code)]

pub mod audit;
pub mod catch_panic;
pub mod channel;
mod code;
pub mod convert;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod identity;
pub mod join_line;
pub mod refusal;
pub mod revocation;
pub mod tls;

#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::clone_on_ref_ptr,
    clippy::too_many_lines,
    clippy::use_self,
    reason = "generated; the .proto files hold the documentation"
)]
mod generated {
    tonic::include_proto!("overlay.v1");
}

/// The generated messages, clients and servers of package `overlay.v1`.
pub mod v1 {
    pub use crate::generated::*;
}

pub use code::Code;
pub use join_line::JoinLine;
pub use refusal::Refusal;
pub use revocation::SignedRevocation;
