//! The lanes on real devices: two hosts made of namespaces, joined by a veth pair, with one network
//! between them.
//!
//! Needs root. Leaves nothing behind.
#![expect(clippy::print_stdout, reason = "tests say what they measured and what they skipped")]

mod faults;
mod flows;
mod restart;
#[path = "../support/mod.rs"]
mod support;
mod world;
