//! Watches whether the plugin proxy runs: an agent that serves Docker behind it cannot be found
//! without it.

use std::path::Path;
use std::time::Duration;

use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::plugin;
use crate::node_handle::NodeHandle;
use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// How often to look. A supervisor has restarted the proxy before the second look.
const LOOK: Duration = Duration::from_secs(4);
/// How many looks in a row must find nobody: the proxy may just be restarting.
const LOOKS: u32 = 2;
/// What the kernel lists of the Unix sockets of this process's network namespace.
const SOCKETS: &str = "/proc/net/unix";
/// The flag of a socket that listens (`__SO_ACCEPTCON`).
const LISTENS: u32 = 1 << 16;

/// Raises a problem while nobody listens where Docker looks for the plugin, if the agent itself
/// serves at `served`.
pub(super) async fn watch(handle: &NodeHandle, served: &Path) {
    let door = Path::new(plugin::PATH);
    if served == door {
        return;
    }
    let mut missed = 0;
    loop {
        let sockets = spawn_blocking(|| std::fs::read_to_string(SOCKETS)).await;
        // Where it cannot be read, nothing is known and nothing is reported.
        let is_there = !matches!(sockets, Ok(Ok(sockets)) if !is_listened_on(&sockets, door));
        missed = if is_there { 0 } else { missed + 1 };
        if is_there {
            handle.problems.clear(&ProblemKey::PluginProxy);
        } else if missed >= LOOKS {
            let text = format!(
                "nobody listens at {}, where Docker looks for Overlay: `overlayctl start` opens the door there",
                door.display()
            );
            handle.problems.raise(ProblemKey::PluginProxy, ProblemCode::DockerDoor, text);
        }
        sleep(LOOK).await;
    }
}

/// Tells whether a socket in the kernel's list listens at a path.
fn is_listened_on(sockets: &str, path: &Path) -> bool {
    // Num: RefCount Protocol Flags Type St Inode Path
    sockets.lines().skip(1).any(|line| {
        let mut fields = line.split_ascii_whitespace();
        let flags =
            fields.nth(3).and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or_default();

        flags & LISTENS != 0 && fields.nth(3).is_some_and(|found| Path::new(found) == path)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixListener, UnixStream};

    use super::*;

    #[test]
    fn a_socket_is_listened_on_as_long_as_its_listener_lives() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("door.sock");
        let listens =
            || is_listened_on(&std::fs::read_to_string(SOCKETS).expect("the kernel's list"), &path);

        assert!(!listens());
        let listener = UnixListener::bind(&path).expect("a socket");
        let (caller, (answered, _)) =
            (UnixStream::connect(&path).expect("a caller"), listener.accept().expect("one"));
        assert!(listens());
        drop(listener);

        // The connection has the path, too, and the file is there.
        assert!(!listens() && path.exists());
        drop((caller, answered));
    }
}
