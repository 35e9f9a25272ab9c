//! Control as its clients meet it: a real server, real TLS.

mod harness;
mod nodes;
