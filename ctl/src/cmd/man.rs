//! `overlayctl man`: the manual pages, for those who make packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, CommandFactory};
use overlay_proto::{Code, Refusal};

use crate::args::Cli;
use crate::failure::{Outcome, storage};

const EXAMPLE: &str = "Example:\n  overlayctl man /usr/local/share/man/man1 && man overlayctl-network-create";

/// Write a manual page for each command into a directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ManArgs {
    /// The directory; made where it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl ManArgs {
    pub(crate) fn run(&self) -> Outcome {
        let failed = |error: std::io::Error| storage(self.dir.display(), &error);
        if self.dir.exists() && !self.dir.is_dir() {
            let text = format!("{} is not a directory", self.dir.display());
            return Err(Refusal::new(Code::InvalidInput, text).into());
        }
        fs::create_dir_all(&self.dir).map_err(failed)?;

        Ok(clap_mangen::generate_to(Cli::command(), &self.dir).map_err(failed)?)
    }
}
