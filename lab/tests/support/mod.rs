//! The start of every test that needs a lab.

use overlay_lab::Lab;

/// Makes hosts, or returns `None` with a message if the system allows no namespaces.
pub(crate) fn lab(hosts: usize) -> Option<Lab> {
    match Lab::new(hosts) {
        Ok(lab) => Some(lab),
        Err(error) if error.to_string().contains("allows no namespaces") => {
            skip(&error.to_string());
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// Says that a test does not run, and why.
#[expect(clippy::print_stderr, reason = "a test that does not run says so")]
pub(crate) fn skip(why: &str) {
    eprintln!("SKIPPED: {why}");
}
