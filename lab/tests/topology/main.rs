//! Labs themselves: hosts that reach each other, commands on them, and nothing left of them,
//! however they end.

mod cleanup;
mod commands;
mod network;
#[path = "../support/mod.rs"]
mod support;
mod tools;
mod up;

use support::{lab, skip};
