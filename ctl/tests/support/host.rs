//! A host on which `init`, `join`, `start`, `stop` and `leave` find services that only pretend;
//! needs root.
//!
//! Each command runs in namespaces of its own, with the host's /etc/overlay, /run and /var/lib out
//! of a temporary directory, and with one address: what is read is the same as on a real host and
//! on all machines, and no systemd is there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::stat::Mode;
use tempfile::TempDir;

use super::{CONTROL, FakeAgent, join_line, mortal};

/// Where [`FakeAgent`] says that it keeps its state.
const AGENT_STATE: &str = "/var/lib/overlay/agent";

/// Enters the host, and leaves the rights of root behind when `$NOBODY` is set.
const ENTER: &str = "\
for dir in etc/overlay run var/lib; do mkdir -p /$dir && mount --bind $HOST/$dir /$dir; done
ip link set lo up && ip address add 192.0.2.1/24 dev lo
exec ${NOBODY:+setpriv --reuid=65534 --regid=65534 --clear-groups} \"$@\"";

/// Logs, says that it is ready, makes the agent's socket its own until it is asked to end. It ends
/// with the test, too, which holds the other end of the pipe.
const SERVICE: &str = "\
#!/bin/sh
trap 'rm -f $socket; kill $!; exit 0' TERM
echo \"$(date -u +%Y-%m-%dT%H:%M:%S.000000Z)  INFO Started\"
test -z \"$socket\" || ln -sf $HOST/agent.sock $socket
$TEST --exact a_service_that_is_ready --ignored >/dev/null
cat $HOST/alive &
wait
rm -f $socket
";

/// Of the agent's program, which is the door, too: listens where it is told to, until it is ended.
const DOOR: &str = "\
if test $1 = door; then mkdir -p ${3%/*}; LISTEN=$3 exec $TEST --exact a_door_that_is_open --ignored >/dev/null; fi
";

/// The host, and the agent that answers on it.
pub(crate) struct Host {
    dir: TempDir,
    pub(crate) agent: FakeAgent,
    /// What the services read to know that the test lives; a test that is killed closes it like any
    /// other.
    _alive: fs::File,
}

impl Host {
    /// Makes a host on which nothing is set up.
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("opened");
        for part in ["bin", "etc/overlay", "run", "var/lib"] {
            fs::create_dir_all(dir.path().join(part)).expect("a directory");
        }
        let alive = dir.path().join("alive");
        nix::unistd::mkfifo(&alive, Mode::from_bits_truncate(0o644)).expect("a pipe");
        // A pipe that is opened for writing alone waits for a reader.
        let alive = fs::File::options().read(true).write(true).open(alive).expect("opened");
        let agent = FakeAgent::at(&dir.path().join("agent.sock"));
        agent.script().joined = false;
        AGENT_STATE.clone_into(&mut agent.script().state_dir);
        let host = Self { dir, agent, _alive: alive };
        fs::copy(env!("CARGO_BIN_EXE_overlayctl"), host.program("overlayctl")).expect("copied");
        host.repair();
        for (name, text) in [("overlayd.toml", "port = 51900\n"), ("control.toml", "")] {
            fs::write(host.dir.path().join("etc/overlay").join(name), text).expect("written");
        }

        host
    }

    /// Makes the agent's program end right after each start.
    pub(crate) fn break_agent(&self) {
        let script = "#!/bin/sh\nmkdir -p $2\necho 'overlayd: /dev/net/tun: permission denied' >&2\nexit 1\n";
        self.install("overlayd", script);
    }

    /// Makes both services work.
    pub(crate) fn repair(&self) {
        let line = join_line(CONTROL);
        let control = format!(
            "#!/bin/sh\nmkdir -p $3\ntest $1 = serve || {{ echo '{{\"join\":\"{line}\"}}'; exit; }}\n{}",
            SERVICE.trim_start_matches("#!/bin/sh\n")
        );
        self.install("overlay-control", &control);
        let agent =
            SERVICE.replacen('\n', &format!("\n{DOOR}mkdir -p $2 ${{4%/*}}; socket=$4\n"), 1);
        self.install("overlayd", &agent);
    }

    /// Prepares overlayctl on this host.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = mortal("unshare");
        command
            .args(["--mount", "--net", "sh", "-c", ENTER, "sh"])
            .arg(self.program("overlayctl"))
            .args(words)
            .env_remove("OVERLAY_SOCKET")
            .env("HOST", self.dir.path())
            .env("TEST", std::env::current_exe().expect("this test"))
            .stdin(Stdio::null());

        command
    }

    /// Prepares overlayctl for somebody who is not root.
    pub(crate) fn command_of_nobody(&self, words: &[&str]) -> Command {
        let mut command = self.command(words);
        command.env("NOBODY", "1");

        command
    }

    /// Returns the directory that the host is in: `$HOST` of everything that runs on it.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn program(&self, name: &str) -> PathBuf {
        self.dir.path().join("bin").join(name)
    }

    fn install(&self, name: &str, script: &str) {
        let next = self.dir.path().join("new");
        fs::write(&next, script).expect("written");
        fs::set_permissions(&next, fs::Permissions::from_mode(0o755)).expect("runs");
        fs::rename(next, self.program(name)).expect("in place");
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // A test that failed may leave services behind.
        let ended = self.command(&["stop"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !std::thread::panicking() {
            assert!(ended.is_ok(), "the services end");
            assert!(
                !Path::new(&self.dir.path().join("run/overlay/agent.sock")).exists(),
                "the agent has ended"
            );
        }
    }
}
