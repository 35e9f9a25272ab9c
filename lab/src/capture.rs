//! A capture of the frames on a lab's switch.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use overlay_traffic::capture::{CaptureReport, READY};

use crate::command::{HostCommand, Running};
use crate::wait_until;

/// How long a capture may take to start, or to examine the frames that are still queued.
const PATIENCE: Duration = Duration::from_secs(30);

/// A capture that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Capture {
    running: Running,
}

impl Capture {
    pub(crate) fn start(
        tool: HostCommand,
        marker: Option<&str>,
        file: Option<&Path>,
    ) -> Result<Self> {
        let mut tool = tool.arg("--json");
        if let Some(marker) = marker {
            tool = tool.args(["--marker", marker]);
        }
        if let Some(file) = file {
            tool = tool.arg("--write").arg(file);
        }
        let mut running = tool.spawn()?;

        wait_until(PATIENCE, "the capture has started", || {
            running.stderr().contains(READY) || !running.is_running()
        })?;
        if !running.is_running() {
            anyhow::bail!("the capture did not start: {}", running.stderr());
        }
        Ok(Self { running })
    }

    /// Ends the capture and returns its result.
    ///
    /// # Errors
    ///
    /// If the capture has died.
    pub fn stop(self) -> Result<CaptureReport> {
        self.running.signal(Signal::SIGTERM)?;
        let output = self.running.wait(PATIENCE)?;

        serde_json::from_str(&output.stdout)
            .with_context(|| format!("the capture failed: {}", output.stderr))
    }
}
