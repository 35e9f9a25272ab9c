//! The record of a lab that is up: a file that says which processes hold it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::host::Host;
use crate::lab::Lab;
use crate::process::ProcessIdentity;
use crate::topology::Topology;

const FILE: &str = "lab.json";
/// How long the processes of a lab may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The record of a lab that is up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LabRecord {
    /// The lab's name.
    pub(crate) name: String,
    topology: Topology,
    #[serde(alias = "keeper")]
    supervisor: ProcessIdentity,
    #[serde(alias = "holders")]
    inits: Vec<ProcessIdentity>,
}

/// One host, as `ls` shows it.
#[derive(Debug, Serialize)]
pub(crate) struct Listed {
    lab: String,
    host: String,
    ipv4: std::net::Ipv4Addr,
    ipv6: Option<std::net::Ipv6Addr>,
    pid: i32,
    up: bool,
}

impl LabRecord {
    /// Describes a lab that was just made.
    pub(crate) fn of(name: &str, lab: &Lab) -> Result<Self> {
        let inits = lab
            .hosts()
            .iter()
            .map(|host| ProcessIdentity::of(host.init_pid()).context("a host is gone already"));

        Ok(Self {
            name: name.to_owned(),
            topology: lab.topology().clone(),
            supervisor: lab.supervisor(),
            inits: inits.collect::<Result<_>>()?,
        })
    }

    /// Writes the record atomically.
    pub(crate) fn save(&self) -> Result<()> {
        let folder = folder_of(&self.name);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let draft = folder.join("lab.json.new");
        fs::write(&draft, serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", draft.display()))?;

        fs::rename(&draft, folder.join(FILE)).context("cannot save the lab's record")
    }

    /// Reads the record of the lab with this name, if there is one.
    pub(crate) fn load(name: &str) -> Result<Option<Self>> {
        let path = folder_of(name).join(FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.with_context(|| format!("cannot read {}", path.display()))?,
        };

        // A record of another version of this program must be cleaned up, by hand if need be.
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is damaged: remove it", path.display()))
    }

    /// Reads the records of all labs.
    pub(crate) fn load_all() -> Result<Vec<Self>> {
        let Ok(entries) = fs::read_dir(root()) else { return Ok(Vec::new()) };
        let mut names: Vec<_> =
            entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();

        names.iter().filter_map(|name| Self::load(name).transpose()).collect()
    }

    /// Returns whether the lab's switch is there.
    pub(crate) fn is_up(&self) -> bool {
        self.supervisor.is_alive()
    }

    /// Returns the host with this name, letter or number.
    pub(crate) fn host(&self, name: &str) -> Result<Host> {
        let Some(index) = self.topology.position(name) else {
            let names: Vec<_> = self.topology.hosts.iter().map(|host| host.name.as_str()).collect();
            bail!("lab {} has no host {name}: there are {}", self.name, names.join(", "));
        };

        Ok(Host::new(
            self.topology.hosts[index].clone(),
            self.topology.id.clone(),
            self.inits[index],
        ))
    }

    /// Lists the hosts for display.
    pub(crate) fn list(&self) -> Vec<Listed> {
        let pairs = self.topology.hosts.iter().zip(&self.inits);

        pairs
            .map(|(host, init)| Listed {
                lab: self.name.clone(),
                host: host.name.clone(),
                ipv4: host.ipv4,
                ipv6: host.ipv6,
                pid: init.pid,
                up: init.is_alive(),
            })
            .collect()
    }

    /// Takes the lab down, or what a crash has left of it, and removes the record.
    pub(crate) fn remove(&self) -> Result<()> {
        for process in std::iter::once(&self.supervisor).chain(&self.inits) {
            if !process.kill(PATIENCE) {
                bail!("process {} of lab {} does not end", process.pid, self.name);
            }
        }
        crate::docker::forget(&self.topology.id);
        let folder = folder_of(&self.name);
        fs::remove_dir_all(&folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
        // Fails while other labs are recorded there, as it should.
        let _ = fs::remove_dir(root());

        Ok(())
    }
}

impl std::fmt::Display for Listed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { lab, host, ipv4, ipv6, pid, up } = self;
        let ipv6 = ipv6.map_or_else(|| "-".to_owned(), |address| address.to_string());
        let state = if *up { "up" } else { "down" };

        write!(formatter, "{lab:<12} {host:<8} {ipv4:<15} {ipv6:<22} {pid:<8} {state}")
    }
}

/// Removes the records that crashed runs have left behind, whose switch is gone.
pub(crate) fn clean() -> Result<()> {
    LabRecord::load_all()?.iter().filter(|record| !record.is_up()).try_for_each(LabRecord::remove)
}

/// Rejects names that are not simple folder names.
pub(crate) fn check_name(name: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.is_empty() || name.len() > 32 || name.starts_with('-') || !name.chars().all(plain) {
        return Err("a lab's name has 1 to 32 of a-z, 0-9 and -".to_owned());
    }

    Ok(name.to_owned())
}

fn folder_of(name: &str) -> PathBuf {
    root().join(name)
}

fn root() -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        return PathBuf::from("/run/overlay-lab");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if Path::new(&folder).is_dir() => Path::new(&folder).join("overlay-lab"),
        _ => std::env::temp_dir().join(format!("overlay-lab-{}", nix::unistd::geteuid())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for bad in ["", "..", "a/b", "-x", "Ä", &"x".repeat(33)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(check_name("my-lab2").unwrap(), "my-lab2");
    }
}
