//! What a service wrote last, which says why it ended.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use overlay_proto::Refusal;

use crate::failure::Failure;
use crate::state::Service;

/// Lines of a log that are shown with a failure.
pub(super) const LAST_LINES: usize = 8;

/// Makes a failure of a service's start out of what it wrote last.
pub(super) fn startup(service: Service, refusal: Refusal, mut log: Vec<String>) -> Failure {
    let prefix = format!("{}: ", service.program());
    let Some(last) = log.iter().rposition(|line| line.starts_with(&prefix)) else {
        return Failure::Startup(refusal, log);
    };
    let details = log.split_off(last + 1);
    let reason = log.pop().unwrap_or_default();
    let text =
        format!("{} did not start: {}", service.program(), reason.trim_start_matches(&prefix));

    Failure::Startup(Refusal::new(refusal.code, text), details)
}

/// Reads the last lines of a log from an offset on.
pub(super) fn last_lines(log: &Path, begins: u64) -> Vec<String> {
    let mut bytes = Vec::new();
    let read = File::open(log).and_then(|mut file| {
        file.seek(SeekFrom::Start(begins))?;
        file.read_to_end(&mut bytes)
    });
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();

    lines[lines.len().saturating_sub(LAST_LINES)..].to_vec()
}
