//! Labs themselves: hosts that reach each other, commands in them, and nothing left of them, however they end.

mod cleanup;
mod commands;
mod network;
mod tools;
mod up;

use overlay_lab::Lab;

/// A lab, or `None`, loudly, where the system allows no namespaces.
fn lab(hosts: usize) -> Option<Lab> {
    match Lab::new(hosts) {
        Ok(lab) => Some(lab),
        Err(error) if error.to_string().contains("allows no namespaces") => {
            skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
