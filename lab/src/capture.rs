//! A capture of the frames on a lab's switch.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::command::{HostCommand, Running};
use crate::wait::wait_until;

/// What the tool prints once it misses no frame any more.
pub(crate) const READY: &str = "capturing";
/// How long a capture may take to start, or to examine the frames that are still queued.
const PATIENCE: Duration = Duration::from_secs(30);

/// A capture that runs until it is stopped or dropped.
#[derive(Debug)]
pub struct Capture {
    running: Running,
}

/// The result of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// Frames seen; a frame that segmentation offload has not cut yet counts once.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that contained the marker.
    pub marked: u64,
    /// Frames that contained the marker and the text that makes an exception.
    pub excepted: u64,
    /// Frames that contained a fragment of an IP packet.
    pub fragments: u64,
    /// Frames that came too fast to be examined. A proof needs 0 of them.
    pub missed: u64,
    /// Frames that were too long to be examined completely. A proof needs 0 of them.
    pub truncated: u64,
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

impl CaptureReport {
    /// Returns whether every single frame was examined completely.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missed == 0 && self.truncated == 0
    }
}

impl fmt::Display for CaptureReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, bytes, marked, excepted: _, fragments, missed, truncated } = self;
        write!(formatter, "{frames} frames, {bytes} bytes, {marked} with the marker")?;
        if *fragments > 0 {
            write!(formatter, ", {fragments} fragments")?;
        }
        if !self.is_complete() {
            write!(formatter, " ({missed} missed, {truncated} not looked at whole)")?;
        }

        Ok(())
    }
}
