//! What all tests on the real kernel begin with.

use std::future::Future;
use std::path::Path;

/// Runs a test that needs root, or says loudly that it did not.
pub(crate) fn as_root(test: impl Future<Output = ()>) {
    if !nix::unistd::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        println!("SKIPPED: needs root and /dev/net/tun");
        return;
    }

    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(test);
}
