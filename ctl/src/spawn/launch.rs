//! The command lines of the services.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;

use overlay_proto::Refusal;

use super::options::{AgentOptions, ControlOptions};
use super::{door, program};
use crate::failure::storage;
use crate::state::{Service, StateDir};

/// The command line of a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launch {
    /// The service.
    pub(super) service: Service,
    /// Program and arguments.
    pub(super) argv: Vec<OsString>,
    /// What it writes to.
    pub(super) state: PathBuf,
}

impl Launch {
    /// Makes control's command line.
    pub(crate) fn control(state: &StateDir, options: &ControlOptions) -> Result<Self, Refusal> {
        let folder = state.of(Service::Control);
        let mut argv =
            vec![program::find(Service::Control)?.into(), "serve".into(), "--state".into()];
        argv.push(folder.clone().into());
        if let Some(path) = &options.config {
            argv.extend(["--config".into(), path.into()]);
        }

        Ok(Self { service: Service::Control, argv, state: folder })
    }

    /// Makes the agent's command line.
    pub(crate) fn agent(
        state: &StateDir,
        socket: &Path,
        options: &AgentOptions,
    ) -> Result<Self, Refusal> {
        let socket =
            std::path::absolute(socket).map_err(|error| storage(socket.display(), &error))?;
        let folder = state.of(Service::Agent);
        let mut argv = vec![program::find(Service::Agent)?.into(), "--state".into()];
        argv.push(folder.clone().into());
        argv.extend(["--socket".into(), socket.into()]);
        if let Some(port) = options.port {
            argv.extend(["--port".into(), port.to_string().into()]);
        }
        if let Some(path) = &options.config {
            argv.extend(["--config".into(), path.into()]);
        }
        argv.extend(["--docker-plugin".into(), door::BEHIND.into()]);

        Ok(Self { service: Service::Agent, argv, state: folder })
    }

    /// Returns the program.
    pub(super) fn program(&self) -> &OsStr {
        self.argv.first().map_or(OsStr::new(""), |word| word)
    }

    /// Prepares the command.
    pub(super) fn command(&self) -> Command {
        let mut command = Command::new(self.program());
        command.args(self.argv.iter().skip(1)).current_dir("/");

        command
    }
}
