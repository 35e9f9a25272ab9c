//! The cluster's certificate authority: control's own certificate and those of the nodes.

mod authority;
mod error;
mod files;
mod request;
pub(crate) mod server_cert;
pub(crate) mod verifier;

pub(crate) use authority::Authority;
pub(crate) use error::PkiError;
pub(crate) use files::AuthorityPem;
pub(crate) use request::{InvalidRequest, NodeRequest};
