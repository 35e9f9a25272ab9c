//! Where a service that this command starts says that it is ready: the protocol of `sd_notify(3)`.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

/// The name of the variable by which a service finds the socket.
pub(super) const VARIABLE: &str = "NOTIFY_SOCKET";
/// The longest message that is understood; the services' are one or two short lines.
const MAX_MESSAGE: usize = 4096;

/// The socket, and what was said on it.
#[derive(Debug)]
pub(super) struct Notifications {
    socket: UnixDatagram,
    /// Where it is, and how the service reaches it: through our descriptor of the directory,
    /// because the path of a socket may have 107 bytes only.
    path: PathBuf,
    reached: PathBuf,
    _directory: File,
    ready: bool,
    status: Option<String>,
}

impl Notifications {
    /// Opens a socket for one service; it is removed when this is dropped.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let nowhere = || io::Error::from(io::ErrorKind::InvalidInput);
        let (parent, name) =
            (path.parent().ok_or_else(nowhere)?, path.file_name().ok_or_else(nowhere)?);
        let directory = File::open(parent)?;
        let descriptor = format!("/proc/{}/fd/{}", std::process::id(), directory.as_raw_fd());
        let reached = Path::new(&descriptor).join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let socket = UnixDatagram::bind(&reached)?;
        socket.set_nonblocking(true)?;

        Ok(Self { socket, path, reached, _directory: directory, ready: false, status: None })
    }

    /// Returns what the service must find in [`VARIABLE`].
    pub(super) fn address(&self) -> &OsStr {
        self.reached.as_os_str()
    }

    /// Reads what was said since; tells whether the service is ready.
    pub(super) fn is_ready(&mut self) -> bool {
        let mut message = [0; MAX_MESSAGE];
        while let Ok(length) = self.socket.recv(&mut message) {
            for line in String::from_utf8_lossy(&message[..length]).lines() {
                match line.split_once('=') {
                    Some(("READY", "1")) => self.ready = true,
                    Some(("STATUS", status)) => self.status = Some(status.to_owned()),
                    // The rest is for service managers.
                    Some(_) | None => {}
                }
            }
        }

        self.ready
    }

    /// Returns what the service said last of how it is doing.
    pub(super) fn status(&self) -> Option<&str> {
        self.status.as_deref()
    }
}

impl Drop for Notifications {
    fn drop(&mut self) {
        // Nobody else uses the name; one that stays is replaced the next time.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_is_ready_once_it_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let deep = dir.path().join("a-long-name".repeat(12));
        fs::create_dir(&deep).expect("a directory");
        let path = deep.join("overlayd.notify");
        let mut heard = Notifications::open(path.clone()).expect("a socket");
        let service = UnixDatagram::unbound().expect("a socket");
        service.connect(heard.address()).expect("connected");
        let say = |text: &str| service.send(text.as_bytes()).expect("sent");

        say("STATUS=bringing up 3 networks\n");
        assert!(!heard.is_ready());
        assert_eq!(heard.status(), Some("bringing up 3 networks"));
        say("READY=1\nSTATUS=up\n");
        say("WATCHDOG=1\n");

        assert!(heard.is_ready() && heard.is_ready());
        assert_eq!(heard.status(), Some("up"));
        drop(heard);
        assert!(!path.exists());
    }
}
