//! The destination of lines: standard error, or a new connection to the journal when standard error
//! led there and broke.

use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::fstat;

/// A destination for lines.
pub(super) trait Sink: Send + 'static {
    /// Writes at least one of the bytes; may block.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize>;
}

/// The socket by which the journal takes the output of services (systemd-journald.service(8)).
const JOURNAL: &str = "/run/systemd/journal/stdout";
/// The variable in which systemd tells a service that its output goes to the journal: device and
/// inode of the socket.
const JOURNAL_STREAM: &str = "JOURNAL_STREAM";

/// Standard error of this process.
#[derive(Debug)]
pub(super) struct StandardError {
    /// The socket to reconnect to, if standard error leads to the journal.
    journal: Option<PathBuf>,
    /// The connection that replaced standard error.
    again: Option<UnixStream>,
}

impl StandardError {
    /// Finds out where standard error leads.
    pub(super) fn new() -> Self {
        let told = std::env::var(JOURNAL_STREAM).ok();
        let own = fstat(io::stderr()).ok().map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));

        Self {
            journal: (told.is_some() && told == own).then(|| PathBuf::from(JOURNAL)),
            again: None,
        }
    }

    fn write_once(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.again {
            Some(stream) => stream.write(bytes),
            // Not through `std`: others would wait for its lock while a reader is stalled.
            None => Ok(nix::unistd::write(io::stderr(), bytes)?),
        }
    }
}

impl Sink for StandardError {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let error = match self.write_once(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => return Ok(written),
                Err(error) => error,
            };
            match (error.raw_os_error().map(Errno::from_raw), &self.journal) {
                (Some(Errno::EINTR), _) => {}
                (Some(Errno::EAGAIN), _) => wait_for_room(),
                // The journal has ended or was restarted, and accepts only new connections.
                (Some(Errno::EPIPE | Errno::ECONNRESET | Errno::ENOTCONN), Some(journal)) => {
                    self.again = Some(connect(journal)?);
                }
                (Some(_) | None, _) => return Err(error),
            }
        }
    }
}

/// Waits until standard error is writable: another process that shares it may have made it
/// non-blocking.
fn wait_for_room() {
    let stderr = io::stderr();
    let mut wanted = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    // If this fails, the write that follows will say so.
    let _ = poll(&mut wanted, PollTimeout::NONE);
}

/// Opens a stream of lines to the journal, as systemd does for a service: our identifier, the unit
/// left for the journal to find out, the default priority, and no forwarding.
fn connect(journal: &Path) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(journal)?;
    stream.shutdown(std::net::Shutdown::Read)?;
    let name = std::env::current_exe().ok();
    let name = name.as_deref().and_then(Path::file_name).unwrap_or_default();
    stream.write_all(format!("{}\n\n6\n1\n0\n0\n0\n", name.to_string_lossy()).as_bytes())?;

    Ok(stream)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_journal_that_was_started_again_gets_the_lines_that_follow() {
        let dir = tempfile::tempdir().expect("a directory");
        let journal = dir.path().join("stdout");
        let listener = UnixListener::bind(&journal).expect("bound");
        let (broken, gone) = UnixStream::pair().expect("a pair");
        drop(gone);
        let mut sink = StandardError { journal: Some(journal), again: Some(broken) };

        let written = sink.write(b"a line\n").expect("the journal is there again");

        let (stream, _) = listener.accept().expect("it was connected to");
        let lines: Vec<_> =
            BufReader::new(stream).lines().take(8).map(|line| line.expect("read")).collect();
        assert_eq!(written, 7);
        assert_eq!(lines[1..], ["", "6", "1", "0", "0", "0", "a line"]);
    }

    #[test]
    fn a_pipe_that_is_closed_is_an_error_and_no_end() {
        let (broken, gone) = UnixStream::pair().expect("a pair");
        drop(gone);
        let mut sink = StandardError { journal: None, again: Some(broken) };

        let error = sink.write(b"a line\n").expect_err("nobody reads");

        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
