//! Integration tests for the public [`sanstun::Tunnel`] API.
//!
//! Tests connect two tunnels using a virtual clock (see [`harness`]) and check
//! their behaviour against the [WireGuard whitepaper](https://www.wireguard.com/papers/wireguard.pdf):
//!
//! - §5.3: cookies and DoS mitigation (`cookies`)
//! - §5.4: protocol messages (`handshake`, `data`, `deferred`)
//! - §5.4.6, §6.4: nonce-based replay protection (`replay`)
//! - §6.1-§6.5: timers, keepalives and passive stealth (`timers`)
//!
//! [`sans_io`] covers time handling, `poll_timeout` and handshake scheduling.

mod cookies;
mod data;
mod deferred;
mod handshake;
mod harness;
mod replay;
mod sans_io;
mod timers;
