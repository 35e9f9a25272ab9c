//! Programs that send, receive and count packets, for hosts and containers on which nothing else is
//! installed. The lab's command line runs them; they know nothing of a lab.
//!
//! A module is a program, with its options and what it prints, but for those that several share:
//! how to find and reach the other end ([`connection`]), how to tell whoever waits that it is ready
//! ([`announcement`]), how to be stopped ([`signal`]), and how to wait ([`wait`]).

pub mod announcement;
pub mod capture;
mod checksum;
pub mod connection;
pub mod datagrams;
pub mod fetch;
pub mod flood;
pub mod flows;
pub mod forge;
pub mod hostile;
pub mod http_server;
pub mod icmp;
pub mod initiations;
pub mod ping;
pub mod questions;
mod search;
pub mod signal;
pub mod throughput;
pub mod wait;
