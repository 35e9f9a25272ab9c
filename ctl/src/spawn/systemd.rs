//! Services under systemd; only where it runs the namespaces that we are in.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overlay_proto::{Code, Refusal};

use super::control_user;
use super::last_words::{LAST_LINES, startup};
use super::launch::Launch;
use super::units::{ControlUser, names, quoted, units};
use crate::failure::{Outcome, storage};
use crate::state::{Service, StateDir};

const UNITS: &str = "/etc/systemd/system";

/// Installs the units and starts them; returns once they are ready, with the reason where control
/// has to run as root.
pub(super) async fn start(launch: &Launch) -> Outcome<Option<String>> {
    let as_root = match launch.service {
        Service::Control => control_user::prepare(launch).err(),
        Service::Agent => None,
    };
    let user = if as_root.is_none() { ControlUser::Own } else { ControlUser::Root };
    let units = units(launch, user);
    for unit in &units {
        let path = path_of(&unit.name);
        match fs::read_to_string(&path) {
            Ok(there) if exec_start(&there) != exec_start(&unit.text) => {
                let text = format!(
                    "{} exists and is set up differently: run `overlayctl leave` first",
                    path.display()
                );
                return Err(Refusal::new(Code::InUse, text).into());
            }
            Ok(_) | Err(_) => {
                fs::write(&path, &unit.text).map_err(|error| storage(path.display(), &error))?
            }
        }
    }
    systemctl(&["daemon-reload"]).await?;
    let enabled: Vec<_> =
        units.iter().filter(|unit| unit.enabled).map(|unit| unit.name.as_str()).collect();
    let with = |words: &[&'static str]| {
        words.iter().copied().chain(enabled.iter().copied()).collect::<Vec<_>>()
    };
    systemctl(&with(&["enable"])).await?;
    if systemctl(&with(&["start"])).await.is_ok() {
        return Ok(as_root);
    }
    let text = format!("{} did not become ready", launch.service.program());

    Err(startup(launch.service, Refusal::new(Code::Fault, text), last_lines(launch.service)))
}

/// Tells whether the service no longer runs: systemd has given up on it, or waits to start it
/// again.
pub(super) fn has_failed(service: Service) -> bool {
    !quiet(&["is-active", "--quiet", service.program()])
}

/// Tells whether our unit for this state directory is installed.
pub(super) fn is_installed(service: Service, state: &StateDir) -> bool {
    let folder = quoted(state.of(service).as_os_str());

    fs::read_to_string(path_of(&format!("{}.service", service.program())))
        .is_ok_and(|text| exec_start(&text).is_some_and(|line| line.contains(&folder)))
}

/// Stops the service and removes its units; tells whether there were any.
pub(super) async fn remove(service: Service, state: &StateDir) -> Outcome<bool> {
    if !is_installed(service, state) {
        return Ok(false);
    }
    let present: Vec<_> =
        names(service).into_iter().filter(|name| path_of(name).exists()).collect();
    let with = |words: &[&'static str]| {
        words.iter().copied().chain(present.iter().copied()).collect::<Vec<_>>()
    };
    systemctl(&with(&["disable", "--now"])).await?;
    for name in &present {
        let path = path_of(name);
        fs::remove_file(&path).map_err(|error| storage(path.display(), &error))?;
    }
    systemctl(&["daemon-reload"]).await?;
    if service == Service::Control {
        control_user::remove();
    }
    // A unit that had failed stays listed until this.
    quiet(&with(&["reset-failed"]));

    Ok(true)
}

/// Reads the last lines that the service wrote to the journal.
pub(super) fn last_lines(service: Service) -> Vec<String> {
    let count = LAST_LINES.to_string();
    let output = Command::new("journalctl")
        .args(["--no-pager", "--output", "cat", "--lines", &count, "--unit", service.program()])
        .stdin(Stdio::null())
        .output();

    output
        .map(|o| String::from_utf8_lossy(&o.stdout).lines().map(str::to_owned).collect())
        .unwrap_or_default()
}

fn path_of(unit: &str) -> PathBuf {
    Path::new(UNITS).join(unit)
}

fn exec_start(unit: &str) -> Option<&str> {
    unit.lines().find_map(|line| line.strip_prefix("ExecStart="))
}

async fn systemctl(words: &[&str]) -> Outcome {
    let output =
        tokio::process::Command::new("systemctl").args(words).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| storage("systemctl", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);

    Err(Refusal::new(Code::Fault, format!("systemctl {}: {}", words.join(" "), said.trim())).into())
}

fn quiet(words: &[&str]) -> bool {
    let status =
        Command::new("systemctl").args(words).stdin(Stdio::null()).stderr(Stdio::null()).status();

    status.is_ok_and(|status| status.success())
}
