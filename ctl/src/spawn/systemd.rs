//! Services as systemd units; only where systemd runs the namespaces that we are in.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overlay_proto::{Code, Refusal};

use super::{LAST_LINES, Launch};
use crate::failure::{Outcome, storage};
use crate::state::{Service, StateDir};

const UNITS: &str = "/etc/systemd/system";
const DOOR_SOCKET: &str = "overlay-docker.socket";
const DOOR_SERVICE: &str = "overlay-docker.service";
/// Where Docker looks for the plugin.
const DOOR: &str = "/run/docker/plugins/overlay-wg.sock";
/// Where the agent serves it.
const BEHIND_THE_DOOR: &str = "/run/overlay/docker.sock";

/// Tells whether systemd is PID 1 of this host; inside a container or namespace, the host's systemd is not ours.
pub(super) fn runs_this_host() -> bool {
    let same = |kind: &str| {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}"));
        let first = fs::read_link(format!("/proc/1/ns/{kind}"));
        ours.is_ok_and(|ours| first.is_ok_and(|first| ours == first))
    };

    Path::new("/run/systemd/system").is_dir() && same("net") && same("mnt") && same("pid")
}

/// Installs the units and starts them.
pub(super) fn start(launch: &Launch) -> Outcome {
    let units = units(launch);
    for unit in &units {
        let path = path_of(&unit.name);
        match fs::read_to_string(&path) {
            Ok(there) if exec_start(&there) != exec_start(&unit.text) => {
                let text = format!("{} exists and is set up differently: run `overlayctl leave` first", path.display());
                return Err(Refusal::new(Code::InUse, text).into());
            }
            Ok(_) | Err(_) => fs::write(&path, &unit.text).map_err(|error| storage(path.display(), &error))?,
        }
    }
    systemctl(&["daemon-reload"])?;
    let enabled = units.iter().filter(|unit| unit.enabled).map(|unit| unit.name.as_str());

    systemctl(&["enable", "--now"].into_iter().chain(enabled).collect::<Vec<_>>())
}

/// Tells whether systemd has given up on the service.
pub(super) fn has_failed(service: Service) -> bool {
    quiet(&["is-failed", "--quiet", service.program()])
}

/// Tells whether our unit for this state directory is installed.
pub(super) fn is_installed(service: Service, state: &StateDir) -> bool {
    let folder = quoted(state.of(service).as_os_str());

    fs::read_to_string(path_of(&format!("{}.service", service.program())))
        .is_ok_and(|text| exec_start(&text).is_some_and(|line| line.contains(&folder)))
}

/// Stops the service and removes its units; tells whether there were any.
pub(super) fn remove(service: Service, state: &StateDir) -> Outcome<bool> {
    if !is_installed(service, state) {
        return Ok(false);
    }
    let names: Vec<_> = unit_names(service).into_iter().filter(|name| path_of(name).exists()).collect();
    let with = |words: &[&'static str]| words.iter().copied().chain(names.iter().copied()).collect::<Vec<_>>();
    systemctl(&with(&["disable", "--now"]))?;
    for name in &names {
        let path = path_of(name);
        fs::remove_file(&path).map_err(|error| storage(path.display(), &error))?;
    }
    systemctl(&["daemon-reload"])?;
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

    output.map(|o| String::from_utf8_lossy(&o.stdout).lines().map(str::to_owned).collect()).unwrap_or_default()
}

fn path_of(unit: &str) -> PathBuf {
    Path::new(UNITS).join(unit)
}

/// Names the units of a service.
fn unit_names(service: Service) -> Vec<&'static str> {
    match service {
        Service::Control => vec!["overlay-control.service"],
        Service::Agent => vec!["overlayd.service", DOOR_SOCKET, DOOR_SERVICE],
    }
}

/// A unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unit {
    name: String,
    text: String,
    /// Whether it starts by itself, rather than when it is needed.
    enabled: bool,
}

fn units(launch: &Launch) -> Vec<Unit> {
    let main = |description: &str, after: &str, words: &str| Unit {
        name: format!("{}.service", launch.service.program()),
        text: format!(
            "[Unit]\nDescription={description}\nWants=network-online.target\nAfter=network-online.target{after}\n\n\
             [Service]\nType=exec\nExecStart={words}\nRestart=always\nRestartSec=1\nUMask=0077\nLimitNOFILE=65536\n\n\
             [Install]\nWantedBy=multi-user.target\n"
        ),
        enabled: true,
    };
    let words = |argv: &[OsString]| argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ");
    match launch.service {
        Service::Control => vec![main("Overlay control service", "", &words(&launch.argv))],
        Service::Agent => {
            let argv: Vec<OsString> =
                launch.argv.iter().cloned().chain(["--docker-plugin".into(), BEHIND_THE_DOOR.into()]).collect();
            let mut units = vec![main("Overlay agent", " overlay-control.service", &words(&argv))];
            units.extend(door(&quoted(launch.program())));
            units
        }
    }
}

/// The door before the agent's plugin socket. The socket is there before Docker starts, without the agent: Docker may neither miss it
/// nor wait for who waits for the network.
fn door(program: &str) -> [Unit; 2] {
    let socket = format!(
        "[Unit]\nDescription=Overlay's plugin socket for Docker\nBefore=docker.service\n\n\
         [Socket]\nListenStream={DOOR}\nSocketMode=0600\nRemoveOnStop=yes\n\n\
         [Install]\nWantedBy=sockets.target\n"
    );
    let service = format!(
        "[Unit]\nDescription=Overlay's door for Docker\nRequires={DOOR_SOCKET}\nAfter={DOOR_SOCKET}\n\n\
         [Service]\nType=exec\nExecStart={program} \"door\" \"--agent\" \"{BEHIND_THE_DOOR}\"\nRestart=always\nRestartSec=1\n\
         UMask=0077\n"
    );

    [
        Unit { name: DOOR_SOCKET.to_owned(), text: socket, enabled: true },
        Unit { name: DOOR_SERVICE.to_owned(), text: service, enabled: false },
    ]
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

    fn agent(program: &str) -> Vec<Unit> {
        let argv = [program, "--state", "/x/100%/agent"].iter().map(Into::into).collect();

        units(&Launch { service: Service::Agent, argv })
    }

    #[test]
    fn a_unit_quotes_its_words() {
        let units = agent("/opt/over lay/overlayd");

        let expected =
            r#""/opt/over lay/overlayd" "--state" "/x/100%%/agent" "--docker-plugin" "/run/overlay/docker.sock""#;
        assert_eq!(exec_start(&units[0].text), Some(expected));
        assert!(units[0].text.contains("After=network-online.target overlay-control.service\n"));
        assert!(units[2].text.contains(r#"ExecStart="/opt/over lay/overlayd" "door" "--agent""#), "{}", units[2].text);
    }

    #[test]
    fn all_units_are_named_for_their_removal() {
        let control = Launch { service: Service::Control, argv: vec!["/bin/true".into()] };

        for (service, units) in [(Service::Agent, agent("/bin/true")), (Service::Control, units(&control))] {
            let names: Vec<_> = units.iter().map(|unit| unit.name.as_str()).collect();
            assert_eq!(names, unit_names(service));
        }
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    fn systemd_finds_no_fault_with_the_units() {
        let folder = tempfile::tempdir().expect("a folder");
        let control = Launch { service: Service::Control, argv: vec!["/bin/true".into()] };
        let paths: Vec<_> = agent("/bin/true")
            .into_iter()
            .chain(units(&control))
            .map(|unit| {
                let path = folder.path().join(unit.name);
                fs::write(&path, unit.text).expect("written");
                path
            })
            .collect();

        let Ok(output) = Command::new("systemd-analyze").arg("verify").arg("--man=no").args(&paths).output() else {
            return eprintln!("SKIPPED: needs systemd-analyze");
        };

        // What it says of other units of this machine is not ours to answer for.
        let said = String::from_utf8_lossy(&output.stderr);
        let about_ours: Vec<_> = said.lines().filter(|line| line.contains("overlay")).collect();
        assert!(about_ours.is_empty(), "{said}");
    }
}
