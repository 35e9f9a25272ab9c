//! The signals that ask a program to end.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static STOPPED: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: i32) {
    STOPPED.store(true, Ordering::Relaxed);
}

/// Makes SIGINT and SIGTERM set a flag instead of ending the program, so that it can report its
/// results.
///
/// # Errors
///
/// If the kernel refuses.
#[expect(unsafe_code, reason = "a signal handler is installed")]
pub fn stop_on_signal() -> Result<()> {
    let action = SigAction::new(SigHandler::Handler(stop), SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores to an atomic, which is allowed at any point of the
        // program.
        unsafe { sigaction(signal, &action) }.context("cannot handle signals")?;
    }

    Ok(())
}

/// Returns whether SIGINT or SIGTERM was received.
pub fn is_stopped() -> bool {
    STOPPED.load(Ordering::Relaxed)
}
