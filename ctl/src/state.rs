//! The directory that holds what `init` and `join` started: one folder for each service, its log
//! and its pid.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use overlay_proto::{Code, Refusal};
use serde::{Deserialize, Serialize};

use crate::failure::{Outcome, storage};

/// Where a host keeps its state unless told otherwise.
pub(crate) const DEFAULT_STATE: &str = "/var/lib/overlay";

/// What may run on a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Service {
    /// The control service.
    Control,
    /// The agent.
    Agent,
}

impl Service {
    /// Returns the program's name, which is also the unit's.
    pub(crate) const fn program(self) -> &'static str {
        match self {
            Self::Control => "overlay-control",
            Self::Agent => "overlayd",
        }
    }

    /// Returns the word for people.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Agent => "the agent",
        }
    }

    const fn folder(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Agent => "agent",
        }
    }
}

/// A host's state directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateDir {
    root: PathBuf,
}

impl StateDir {
    /// Names a state directory; a relative one is taken from where we are.
    pub(crate) fn new(path: &Path) -> Outcome<Self> {
        let root = std::path::absolute(path).map_err(|error| storage(path.display(), &error))?;

        Ok(Self { root })
    }

    /// Finds the state directory that an agent's own directory belongs to; none when it was started
    /// in another way.
    pub(crate) fn of_agent(agent: &Path) -> Option<Self> {
        let root = agent.parent()?.to_owned();

        (agent.file_name()? == Service::Agent.folder()).then_some(Self { root })
    }

    /// Makes the directory, for root's eyes only.
    pub(crate) fn make(&self) -> Outcome {
        if self.root.exists() && !self.root.is_dir() {
            let text = format!(
                "{} is not a directory: give a --state that is one, or can be made",
                self.root.display()
            );
            return Err(Refusal::new(Code::InvalidInput, text).into());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.root)
            .map_err(|error| storage(self.root.display(), &error).into())
    }

    /// Refuses a directory that only root may look into: nothing can be said of what is set up
    /// there.
    pub(crate) fn check_readable(&self) -> Outcome {
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                let text = format!("only root may read {}: try with sudo", self.root.display());
                Err(Refusal::new(Code::NotAllowed, text).into())
            }
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns the directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the service's own directory.
    pub(crate) fn of(&self, service: Service) -> PathBuf {
        self.root.join(service.folder())
    }

    /// Tells whether the service has ever been set up here.
    pub(crate) fn has(&self, service: Service) -> bool {
        self.of(service).is_dir()
    }

    /// Lists the services that have been set up here, in the order of their start.
    pub(crate) fn services(&self) -> impl Iterator<Item = Service> {
        [Service::Control, Service::Agent].into_iter().filter(|service| self.has(*service))
    }

    /// Returns the file that the service's output goes to.
    pub(crate) fn log(&self, service: Service) -> PathBuf {
        self.root.join(format!("{}.log", service.program()))
    }

    /// Returns where the service's process is noted.
    pub(crate) fn pid_file(&self, service: Service) -> PathBuf {
        self.root.join(format!("{}.pid", service.program()))
    }

    /// Returns where the service says that it is ready.
    pub(crate) fn notify_socket(&self, service: Service) -> PathBuf {
        self.root.join(format!("{}.notify", service.program()))
    }

    /// Returns a file of the door before the agent, by what it ends on.
    pub(crate) fn door_file(&self, extension: &str) -> PathBuf {
        self.root.join(format!("overlay-door.{extension}"))
    }

    /// Returns where it is said that somebody sets up here.
    pub(crate) fn setup_file(&self) -> PathBuf {
        self.root.join("setup.json")
    }

    /// Returns where the services' options are kept.
    pub(crate) fn options_file(&self) -> PathBuf {
        self.root.join("options.json")
    }

    /// Removes everything of a service; lists what was removed.
    pub(crate) fn remove_service(&self, service: Service) -> Outcome<Vec<PathBuf>> {
        let mut removed = Vec::new();
        let doors = match service {
            Service::Agent => ["log", "pid"].map(|extension| self.door_file(extension)).to_vec(),
            Service::Control => Vec::new(),
        };
        let own = [
            self.of(service),
            self.log(service),
            self.pid_file(service),
            self.notify_socket(service),
        ];
        for path in own.iter().chain(&doors) {
            remove_path(path, &mut removed)?;
        }

        Ok(removed)
    }

    /// Removes what is ours in the directory, and the directory when nothing else is in it; lists
    /// what was removed.
    pub(crate) fn remove(&self) -> Outcome<Vec<PathBuf>> {
        let mut removed = self.remove_service(Service::Agent)?;
        removed.extend(self.remove_service(Service::Control)?);
        for path in [self.options_file(), self.setup_file()] {
            remove_path(&path, &mut removed)?;
        }
        if self.remove_root() {
            removed.push(self.root.clone());
        }

        Ok(removed)
    }

    /// Removes the directory; what others put there stays, and the directory with it.
    pub(crate) fn remove_root(&self) -> bool {
        fs::remove_dir(&self.root).is_ok()
    }
}

fn remove_path(path: &Path, removed: &mut Vec<PathBuf>) -> Outcome {
    let done = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match done {
        Ok(()) => removed.push(path.to_owned()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(storage(path.display(), &error).into()),
    }

    Ok(())
}

/// Writes a file of mode 0600 whole or not at all.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut next = path.as_os_str().to_owned();
    next.push(".new");
    let mut file = private(OpenOptions::new().write(true).truncate(true), Path::new(&next))?;
    file.write_all(bytes)?;
    file.sync_all()?;

    fs::rename(next, path)
}

/// Opens a log for appending, mode 0600.
pub(crate) fn open_log(path: &Path) -> io::Result<File> {
    private(OpenOptions::new().append(true), path)
}

fn private(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.create(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn removal_takes_ours_and_leaves_what_others_put_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = StateDir::new(&dir.path().join("state")).expect("a path");
        state.make().expect("made");
        fs::create_dir(state.of(Service::Agent)).expect("a folder");
        let pid_file = state.pid_file(Service::Agent);
        write(&pid_file, b"{}").expect("written");
        let mode = fs::metadata(&pid_file).expect("a file").permissions().mode() & 0o777;
        let foreign = state.root().join("notes.txt");
        fs::write(&foreign, "mine").expect("written");

        state.remove().expect("removed");

        assert_eq!(mode, 0o600);
        assert!(foreign.exists() && !state.has(Service::Agent) && !pid_file.exists());
        fs::remove_file(foreign).expect("removed");
        assert_eq!(state.remove().expect("removed"), [state.root().to_owned()]);
        assert_eq!(state.remove().expect("nothing is left"), Vec::<PathBuf>::new());
    }

    #[test]
    fn an_agent_started_by_hand_has_no_state_directory_of_ours() {
        assert_eq!(StateDir::of_agent(Path::new("/var/lib/x")), None);
        let found = StateDir::of_agent(Path::new("/var/lib/overlay/agent")).expect("ours");
        assert_eq!(found.root(), Path::new("/var/lib/overlay"));
    }
}
