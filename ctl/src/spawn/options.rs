//! What the services are started with beyond their state directory; kept beside it, so that `start`
//! knows it, too.

use std::fs;
use std::io;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};

use clap::Args;
use overlay_proto::{Code, Refusal};
use serde::{Deserialize, Serialize};

use crate::failure::{Outcome, storage};
use crate::state::{self, StateDir};

/// Options of the agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct AgentOptions {
    /// The agent's first UDP port, which the other hosts must reach; without it, 51820
    #[arg(long, value_name = "N", value_parser = port)]
    pub(crate) port: Option<NonZeroU16>,
    /// The agent's configuration file; without it, /etc/overlay/overlayd.toml where that is
    #[arg(long = "agent-config", id = "agent-config", value_name = "FILE", value_parser = absolute)]
    pub(crate) config: Option<PathBuf>,
}

impl AgentOptions {
    /// Tells whether anything was asked for.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Options of control.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, Args)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ControlOptions {
    /// Control's configuration file; without it, /etc/overlay/control.toml where that is
    #[arg(long = "control-config", id = "control-config", value_name = "FILE", value_parser = absolute)]
    pub(crate) config: Option<PathBuf>,
}

/// Options of all services of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ServiceOptions {
    pub(crate) agent: AgentOptions,
    pub(crate) control: ControlOptions,
}

impl ServiceOptions {
    /// Reads what was kept; nothing was asked for where nothing is.
    pub(crate) fn load(state: &StateDir) -> Outcome<Self> {
        let path = state.options_file();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(storage(path.display(), &error).into()),
        };

        serde_json::from_slice(&text).map_err(|error| {
            let text = format!("{}: {error}; `overlayctl leave` and join again", path.display());
            Refusal::new(Code::Storage, text).into()
        })
    }

    /// Keeps them.
    pub(crate) fn save(&self, state: &StateDir) -> Outcome {
        let path = state.options_file();
        if *self == Self::default() && !path.exists() {
            return Ok(());
        }
        let text = serde_json::to_vec(self).map_err(|error| Refusal::new(Code::Fault, error))?;

        state::write(&path, &text).map_err(|error| storage(path.display(), &error).into())
    }

    /// Takes what the command line asks for in place of what was kept.
    pub(crate) fn with(mut self, agent: &AgentOptions, control: &ControlOptions) -> Self {
        self.agent.port = agent.port.or(self.agent.port);
        self.agent.config = agent.config.clone().or(self.agent.config);
        self.control.config = control.config.clone().or(self.control.config);

        self
    }
}

fn port(text: &str) -> Result<NonZeroU16, String> {
    text.parse().map_err(|_| "write a port from 1 to 65535, such as 51820".to_owned())
}

/// The services run elsewhere in the file system.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(Path::new(text)).map_err(|error| error.to_string())?;
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(path),
        Ok(_) => Err("this is not a file".to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err("there is no such file".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_once_is_known_the_next_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(dir.path()).expect("a path");
        let agent = AgentOptions { port: NonZeroU16::new(51_900), config: None };
        let none = ControlOptions::default();

        assert_eq!(ServiceOptions::load(&state).expect("nothing"), ServiceOptions::default());
        ServiceOptions::default().with(&agent, &none).save(&state).expect("saved");
        let known =
            ServiceOptions::load(&state).expect("loaded").with(&AgentOptions::default(), &none);

        assert_eq!(known.agent, agent);
        fs::write(state.options_file(), "{\"agent\":1}").expect("written");
        assert!(ServiceOptions::load(&state).is_err());
    }
}
