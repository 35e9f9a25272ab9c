//! Services as systemd units; only where systemd runs the namespaces that we are in.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overlay_proto::{Code, Refusal};

use super::{LAST_LINES, Launch};
use crate::failure::{Outcome, storage};
use crate::state::{Service, StateDir};

const UNITS: &str = "/etc/systemd/system";

/// Tells whether systemd is PID 1 of this host; inside a container or namespace, the host's systemd is not ours.
pub(super) fn runs_this_host() -> bool {
    let same = |kind: &str| {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}"));
        let first = fs::read_link(format!("/proc/1/ns/{kind}"));
        ours.is_ok_and(|ours| first.is_ok_and(|first| ours == first))
    };

    Path::new("/run/systemd/system").is_dir() && same("net") && same("mnt") && same("pid")
}

/// Installs the unit and starts it.
pub(super) fn start(launch: &Launch) -> Outcome {
    let path = unit_path(launch.service);
    let text = unit(launch);
    match fs::read_to_string(&path) {
        Ok(there) if exec_start(&there) != exec_start(&text) => {
            let text = format!("{} exists and is set up differently: run `overlayctl leave` first", path.display());
            return Err(Refusal::new(Code::InUse, text).into());
        }
        Ok(_) | Err(_) => fs::write(&path, text).map_err(|error| storage(path.display(), &error))?,
    }
    systemctl(&["daemon-reload"])?;

    systemctl(&["enable", "--now", launch.service.program()])
}

/// Tells whether systemd has given up on the service.
pub(super) fn has_failed(service: Service) -> bool {
    quiet(&["is-failed", "--quiet", service.program()])
}

/// Tells whether our unit for this state directory is installed.
fn is_installed(service: Service, state: &StateDir) -> bool {
    let folder = quoted(state.of(service).as_os_str());

    fs::read_to_string(unit_path(service))
        .is_ok_and(|text| exec_start(&text).is_some_and(|line| line.contains(&folder)))
}

/// Stops the service and removes its unit; tells whether there was one.
pub(super) fn remove(service: Service, state: &StateDir) -> Outcome<bool> {
    if !is_installed(service, state) {
        return Ok(false);
    }
    systemctl(&["disable", "--now", service.program()])?;
    let path = unit_path(service);
    fs::remove_file(&path).map_err(|error| storage(path.display(), &error))?;
    systemctl(&["daemon-reload"])?;
    // A unit that had failed stays listed until this.
    quiet(&["reset-failed", service.program()]);

    Ok(true)
}

/// Reads the last lines that the service wrote to the journal.
pub(super) fn last_lines(service: Service) -> Vec<String> {
    let count = LAST_LINES.to_string();
    let output = Command::new("journalctl")
        .args(["--no-pager", "--output", "cat", "--lines", &count, "--unit", service.program()])
        .stdin(Stdio::null())
        .output();

    output.map(|o| String::from_utf8_lossy(&o.stdout).lines().map(str::to_owned).collect()).unwrap_or_default()
}

fn unit_path(service: Service) -> PathBuf {
    Path::new(UNITS).join(format!("{}.service", service.program()))
}

fn unit(launch: &Launch) -> String {
    let words: Vec<_> = launch.argv.iter().map(|word| quoted(word)).collect();
    let (description, after) = match launch.service {
        Service::Control => ("Overlay control service", ""),
        Service::Agent => ("Overlay agent", " overlay-control.service"),
    };

    format!(
        "[Unit]\nDescription={description}\nWants=network-online.target\nAfter=network-online.target{after}\n\n\
         [Service]\nType=exec\nExecStart={}\nRestart=always\nRestartSec=1\nUMask=0077\nLimitNOFILE=65536\n\n\
         [Install]\nWantedBy=multi-user.target\n",
        words.join(" ")
    )
}

/// Quotes a word as systemd.service(5) wants it.
fn quoted(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%").replace('$', "$$");

    format!("\"{escaped}\"")
}

fn exec_start(unit: &str) -> Option<&str> {
    unit.lines().find_map(|line| line.strip_prefix("ExecStart="))
}

fn systemctl(words: &[&str]) -> Outcome {
    let output = Command::new("systemctl").args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| storage("systemctl", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);

    Err(Refusal::new(Code::Fault, format!("systemctl {}: {}", words.join(" "), said.trim())).into())
}

fn quiet(words: &[&str]) -> bool {
    let status = Command::new("systemctl").args(words).stdin(Stdio::null()).stderr(Stdio::null()).status();

    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_quotes_its_words() {
        let launch = Launch {
            service: Service::Agent,
            argv: ["/opt/over lay/overlayd", "--state", "/x/100%/agent"].iter().map(Into::into).collect(),
        };

        let text = unit(&launch);

        assert_eq!(exec_start(&text), Some(r#""/opt/over lay/overlayd" "--state" "/x/100%%/agent""#));
        assert!(text.contains("After=network-online.target overlay-control.service\n"));
    }
}
