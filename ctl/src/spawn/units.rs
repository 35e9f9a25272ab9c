//! The unit files of the services: how systemd starts them, hears that they are ready, and shuts
//! them in.
//!
//! Control and the door before the agent see a file system of their own. The agent does not: what
//! it pins under `/run/overlay/netns` must be seen by the host, and systemd lets nothing out of a
//! mount namespace that it made. So the agent's unit has only directives that need none
//! (systemd.exec(5)); what it may do is held down by its capabilities, system calls, address
//! families and devices instead.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::control_user::USER;
use super::door::{BEHIND, LISTEN, WORD};
use super::launch::Launch;
use crate::state::Service;

const DOOR_SOCKET: &str = "overlay-docker.socket";
const DOOR_SERVICE: &str = "overlay-docker.service";

/// Directives that every unit of ours has and that need no mount namespace.
const NARROW: &str = "\
NoNewPrivileges=yes
KeyringMode=private
LockPersonality=yes
MemoryDenyWriteExecute=yes
ProtectClock=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
UMask=0077
";

/// Directives of the units that need nothing from the host but what they are given.
const SHUT_IN: &str = "\
DevicePolicy=closed
PrivateDevices=yes
ProtectControlGroups=yes
ProtectHome=read-only
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RestrictNamespaces=yes
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
";

/// Directives of the agent's unit: it makes namespaces and pins them, moves interfaces, hears of
/// changes in all its namespaces on one socket (`CAP_NET_BROADCAST`), and enters the namespaces of
/// other users' processes by their files in /proc.
const AGENT: &str = "\
CapabilityBoundingSet=CAP_NET_ADMIN CAP_NET_BROADCAST CAP_NET_RAW CAP_NET_BIND_SERVICE CAP_SYS_ADMIN CAP_SYS_PTRACE CAP_DAC_OVERRIDE
DeviceAllow=/dev/net/tun rw
DevicePolicy=closed
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=net
SystemCallFilter=@system-service @mount
";

/// Directives of control's unit: it needs a port, perhaps one below 1,024, and its folder.
const CONTROL: &str = "\
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
RemoveIPC=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
";

/// Who control is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlUser {
    /// A user of its own.
    Own,
    /// Root, where another user does not reach what control needs.
    Root,
}

/// Directives of the door's unit: it needs two sockets.
const DOORKEEPER: &str = "\
CapabilityBoundingSet=
IPAddressDeny=any
PrivateNetwork=yes
PrivateTmp=yes
RestrictAddressFamilies=AF_UNIX
";

/// How a service is started again: at once and for ever, but not with a configuration that it
/// refuses.
const RESTART: &str = "\
Restart=always
RestartSec=1
RestartPreventExitStatus=2 64
LimitNOFILE=65536
";

/// A unit file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    pub(super) name: String,
    pub(super) text: String,
    /// Whether it starts by itself, rather than when it is needed.
    pub(super) enabled: bool,
}

/// Names the units of a service.
pub(super) fn names(service: Service) -> Vec<&'static str> {
    match service {
        Service::Control => vec!["overlay-control.service"],
        Service::Agent => vec!["overlayd.service", DOOR_SOCKET, DOOR_SERVICE],
    }
}

/// Writes the units of a service.
pub(super) fn units(launch: &Launch, user: ControlUser) -> Vec<Unit> {
    match launch.service {
        Service::Control => vec![control(launch, user)],
        Service::Agent => {
            std::iter::once(agent(launch)).chain(door(&quoted(launch.program()))).collect()
        }
    }
}

fn control(launch: &Launch, user: ControlUser) -> Unit {
    // What lives in a directory for temporary files would not be found in one of its own.
    let private_tmp = if lives_in_tmp(launch) { "" } else { "PrivateTmp=yes\n" };
    let folder = path_word(&launch.state);
    let user = match user {
        ControlUser::Own => own_user(&launch.state),
        ControlUser::Root => String::new(),
    };
    let sandbox = format!("{user}{NARROW}{SHUT_IN}{CONTROL}{private_tmp}ReadWritePaths={folder}\n");

    main(launch, "Overlay control service", "", &words(&launch.argv), &sandbox)
}

/// The user, and how it gets what root left in the folder: an earlier version that ran as root, or
/// `overlay-control token` and the like, which a person calls. Links are not followed, so that
/// whoever took control over gets nothing else.
fn own_user(folder: &Path) -> String {
    let folder = quoted(folder.as_os_str());

    format!(
        "User={USER}\nGroup={USER}\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n\
         ExecStartPre=+chown --recursive -P --no-dereference --from=root {USER}:{USER} {folder}\n"
    )
}

fn agent(launch: &Launch) -> Unit {
    // Where control is on the same host, it is there first; where it fails, the agent does without.
    let order = "After=overlay-control.service\n";

    main(
        launch,
        "Overlay agent",
        order,
        &words(&launch.argv),
        &format!("{}{NARROW}{AGENT}", reload(launch)),
    )
}

/// How systemd upgrades the agent: another process then is the service, which the agent tells
/// systemd.
fn reload(launch: &Launch) -> String {
    let socket = launch.argv.iter().skip_while(|word| *word != "--socket").nth(1);
    let own = std::env::current_exe().ok().zip(socket);

    own.map(|(own, socket)| {
        format!("ExecReload={} upgrade --socket {}\n", quoted(own.as_os_str()), quoted(socket))
    })
    .unwrap_or_default()
}

fn main(launch: &Launch, description: &str, order: &str, words: &str, sandbox: &str) -> Unit {
    Unit {
        name: format!("{}.service", launch.service.program()),
        text: format!(
            "[Unit]\nDescription={description}\n{order}StartLimitIntervalSec=0\n\n\
             [Service]\nType=notify\nExecStart={words}\n{RESTART}{sandbox}\n\
             [Install]\nWantedBy=multi-user.target\n"
        ),
        enabled: true,
    }
}

/// The door before the agent's plugin socket. The socket is there before Docker starts, without the
/// agent: Docker must neither miss it nor wait for an agent that does not come up.
fn door(program: &str) -> [Unit; 2] {
    let socket = format!(
        "[Unit]\nDescription=Overlay's plugin socket for Docker\nBefore=docker.service\n\n\
         [Socket]\nListenStream={LISTEN}\nSocketMode=0600\nRemoveOnStop=yes\n\n\
         [Install]\nWantedBy=sockets.target\n"
    );
    let service = format!(
        "[Unit]\nDescription=Overlay's door for Docker\nRequires={DOOR_SOCKET}\nAfter={DOOR_SOCKET}\n\
         StartLimitIntervalSec=0\n\n\
         [Service]\nType=exec\nExecStart={program} \"{WORD}\" \"--agent\" \"{BEHIND}\"\n\
         Restart=always\nRestartSec=1\n{NARROW}{SHUT_IN}{DOORKEEPER}"
    );

    [
        Unit { name: DOOR_SOCKET.to_owned(), text: socket, enabled: true },
        Unit { name: DOOR_SERVICE.to_owned(), text: service, enabled: false },
    ]
}

fn lives_in_tmp(launch: &Launch) -> bool {
    let in_tmp = |path: &Path| path.starts_with("/tmp") || path.starts_with("/var/tmp");

    launch.argv.iter().any(|word| in_tmp(Path::new(word)))
}

fn words(argv: &[OsString]) -> String {
    argv.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" ")
}

/// Quotes a word of a command line as systemd.service(5) wants it.
pub(super) fn quoted(word: &OsStr) -> String {
    escaped(&word.to_string_lossy().replace('$', "$$"))
}

/// Quotes a path in a list, where no variables are.
fn path_word(path: &Path) -> String {
    escaped(&path.to_string_lossy())
}

fn escaped(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");

    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::PathBuf;
    use std::process::{Command, Output};

    use super::*;

    fn launch(service: Service, program: &str) -> Launch {
        let state = PathBuf::from("/x/100%/agent");
        let argv = [program, "--state", "/x/100%/agent"].iter().map(Into::into).collect();

        Launch { service, argv, state }
    }

    fn all(program: &str) -> Vec<Unit> {
        let of = |service| units(&launch(service, program), ControlUser::Own);

        of(Service::Agent).into_iter().chain(of(Service::Control)).collect()
    }

    #[test]
    fn a_unit_quotes_its_words() {
        let units = all("/opt/over lay/overlayd");

        let expected = r#"ExecStart="/opt/over lay/overlayd" "--state" "/x/100%%/agent""#;
        assert!(units[0].text.contains(expected), "{}", units[0].text);
        assert!(
            units[2].text.contains(r#"ExecStart="/opt/over lay/overlayd" "door" "--agent""#),
            "{}",
            units[2].text
        );
        assert!(units[3].text.contains("ReadWritePaths=\"/x/100%%/agent\"\n"), "{}", units[3].text);
    }

    #[test]
    fn all_units_are_named_for_their_removal() {
        for service in [Service::Agent, Service::Control] {
            let units = units(&launch(service, "/bin/true"), ControlUser::Own);
            assert_eq!(
                units.iter().map(|unit| unit.name.as_str()).collect::<Vec<_>>(),
                names(service)
            );
        }
    }

    #[test]
    fn the_services_say_when_they_are_ready_and_wait_for_no_network() {
        for unit in all("/bin/true") {
            assert!(!unit.text.contains("network-online"), "{}", unit.text);
            let is_service =
                unit.name == "overlayd.service" || unit.name == "overlay-control.service";
            assert_eq!(unit.text.contains("Type=notify\n"), is_service, "{}", unit.text);
        }
    }

    /// systemd would put the agent into a mount namespace, and its pins out of everybody's sight.
    #[test]
    fn the_agent_shares_the_mount_namespace_of_the_host() {
        let agent = &all("/bin/true")[0].text;

        for directive in SHUT_IN.lines().chain([
            "PrivateTmp=yes",
            "ReadWritePaths=",
            "RuntimeDirectory=",
            "PrivateMounts=",
        ]) {
            let (name, _) = directive.split_once('=').expect("a directive");
            let harmless =
                ["DevicePolicy", "RestrictNamespaces", "SystemCallFilter"].contains(&name);
            assert!(harmless || !agent.contains(&format!("\n{name}=")), "{directive}");
        }
    }

    /// A namespace's events are heard from outside (`NETLINK_LISTEN_ALL_NSID`), which the kernel
    /// allows with it alone.
    #[test]
    fn the_agent_may_hear_of_changes_in_its_namespaces() {
        let agent = &all("/bin/true")[0].text;
        let bounds = agent.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));

        assert!(
            bounds.is_some_and(|bounds| bounds.split(' ').any(|name| name == "CAP_NET_BROADCAST")),
            "{agent}"
        );
    }

    #[test]
    fn control_out_of_a_temporary_directory_finds_it() {
        let text =
            |program| units(&launch(Service::Control, program), ControlUser::Own)[0].text.clone();

        assert!(text("/usr/bin/overlay-control").contains("PrivateTmp=yes"));
        assert!(!text("/tmp/try/overlay-control").contains("PrivateTmp"));
    }

    #[test]
    fn control_is_not_root_and_gets_what_root_left_in_its_folder() {
        let text = |user| units(&launch(Service::Control, "/bin/true"), user)[0].text.clone();

        let own = text(ControlUser::Own);
        assert!(own.contains("\nUser=overlay-control\nGroup=overlay-control\n"), "{own}");
        let chown = "ExecStartPre=+chown --recursive -P --no-dereference --from=root \
                     overlay-control:overlay-control \"/x/100%%/agent\"\n";
        assert!(own.contains(chown), "{own}");
        let root = text(ControlUser::Root);
        assert!(!root.contains("User=") && !root.contains("chown"), "{root}");
    }

    /// Runs systemd-analyze over all units; none where it is not installed.
    fn analyze(words: &[&str]) -> Option<(tempfile::TempDir, Output)> {
        let folder = tempfile::tempdir().expect("a folder");
        let paths: Vec<_> = all("/bin/true")
            .into_iter()
            .map(|unit| {
                let path = folder.path().join(unit.name);
                fs::write(&path, unit.text).expect("written");
                path
            })
            .collect();
        let services = paths.iter().filter(|path| {
            words[0] == "verify" || path.extension().is_some_and(|e| e == "service")
        });
        let output = Command::new("systemd-analyze").args(words).args(services).output().ok()?;

        Some((folder, output))
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    fn systemd_finds_no_fault_with_the_units() {
        let Some((_folder, output)) = analyze(&["verify", "--man=no"]) else {
            return eprintln!("SKIPPED: needs systemd-analyze");
        };

        // What it says of other units of this machine is not ours to answer for.
        let said = String::from_utf8_lossy(&output.stderr);
        let about_ours: Vec<_> = said.lines().filter(|line| line.contains("overlay")).collect();
        assert!(about_ours.is_empty(), "{said}");
    }

    /// The most that `systemd-analyze security` may find exposed, in tenths: 0 is nothing, 100
    /// everything.
    const EXPOSURE: [(&str, u32); 3] =
        [("overlayd.service", 55), ("overlay-docker.service", 20), ("overlay-control.service", 20)];

    #[test]
    #[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
    fn the_units_leave_little_exposed() {
        let Some((_folder, output)) = analyze(&["security", "--offline=yes", "--no-pager"]) else {
            return eprintln!("SKIPPED: needs systemd-analyze");
        };
        let said = String::from_utf8_lossy(&output.stdout);
        if said.is_empty() {
            return eprintln!("SKIPPED: needs systemd-analyze of systemd 250 or newer");
        }

        for (unit, bar) in EXPOSURE {
            // "→ Overall exposure level for overlayd.service: 4.4 OK :-)"
            let line = said.lines().find(|line| line.contains(&format!("level for {unit}: ")));
            let level = line.and_then(|line| {
                line.rsplit_once(": ")?.1.split(' ').next()?.replace('.', "").parse().ok()
            });
            assert!(level.is_some_and(|level: u32| level <= bar), "{unit}: {line:?}\n{said}");
        }
    }
}
