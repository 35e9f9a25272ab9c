//! The files that an agent leaves when it is killed, but not when it ends in an orderly way.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// Removes the socket that nobody listens on any more, and the directories it was in if they are
/// empty and ours.
pub(crate) fn remove(socket: &Path) -> Vec<PathBuf> {
    let mut removed = Vec::new();
    let dead = UnixStream::connect(socket).is_err();
    if dead && fs::remove_file(socket).is_ok() {
        removed.push(socket.to_owned());
    }
    let Some(dir) =
        socket.parent().filter(|dir| dir.file_name().is_some_and(|name| name == "overlay"))
    else {
        return removed;
    };
    for path in [dir.join("netns"), dir.join("lock"), dir.to_owned()] {
        if fs::remove_dir(&path).is_ok() {
            removed.push(path);
        }
    }

    removed
}
