//! `overlayctl man`: the manual pages, for those who make packages.

use std::fs;
use std::path::PathBuf;

use clap::{Args, Command};
use overlay_proto::{Code, Refusal};

use crate::failure::{Outcome, storage};

const EXAMPLE: &str =
    "Example:\n  overlayctl man /usr/local/share/man/man1 && man overlayctl-network-create";

/// Write a manual page for each command into a directory
#[derive(Debug, Args)]
#[command(after_help = EXAMPLE)]
pub(crate) struct ManArgs {
    /// The directory; made where it is missing
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

impl ManArgs {
    /// Writes the pages of `cli`, the whole command line.
    pub(crate) fn run(&self, cli: Command) -> Outcome {
        let failed = |error: std::io::Error| storage(self.dir.display(), &error);
        if self.dir.exists() && !self.dir.is_dir() {
            let text = format!("{} is not a directory", self.dir.display());
            return Err(Refusal::new(Code::InvalidInput, text).into());
        }
        fs::create_dir_all(&self.dir).map_err(failed)?;

        Ok(clap_mangen::generate_to(cli, &self.dir).map_err(failed)?)
    }
}
