//! Control as its clients see it: a real server with real TLS.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![expect(clippy::print_stderr, reason = "figures are for who asks with --no-capture")]

mod admission;
mod audit;
mod durable;
mod eviction;
mod harness;
mod hostile;
mod joining;
mod large;
mod nodes;
mod policies;
mod restoring;
mod stranger;
mod watching;
