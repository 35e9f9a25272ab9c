//! Audit records: who changed what, from where, before and after, in a chain of hashes.
//!
//! A record is kept as the bytes that it was written with, which are JSON on one line. Each holds
//! the hash of the one before, so whoever has noted the last hash, the head, can tell later whether
//! what was there then is there unaltered. Control writes records; whoever reads them checks them
//! with [`Verifier`].

mod chain;
mod record;

pub use chain::{ChainError, Head, InvalidHead, RecordHash, Verifier};
pub use record::{AuditRecord, AuditRow, Omitted, Who};
