//! The user that control runs as where systemd starts it: one of its own, so that whoever takes
//! control over has not taken root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::launch::Launch;

/// The user, and its group.
pub(super) const USER: &str = "overlay-control";
/// Where systemd-sysusers(8) finds it.
const SYSUSERS: &str = "/etc/sysusers.d/overlay.conf";
/// Others may look up what is in a directory.
const SEARCH: u32 = 0o001;
/// Others may read a file.
const READ: u32 = 0o004;
/// The group and others may look up what is in a directory.
const SEARCH_ALL: u32 = 0o011;

/// Makes the user and lets it reach its state.
///
/// # Errors
///
/// Why control must run as root, in words that say what to change.
pub(super) fn prepare(launch: &Launch) -> Result<(), String> {
    // The state directory is this host's, and everything in it is closed to others by itself.
    if let Some(root) = launch.state.parent() {
        open_to_search(root).map_err(|error| format!("{}: {error}", root.display()))?;
    }
    if let Some(barrier) = barrier(launch) {
        return Err(format!("{} is closed to other users", barrier.display()));
    }
    let made = make();

    made.map_err(|error| format!("the user {USER} cannot be made: {error}"))
}

/// Removes what [`prepare`] made.
pub(super) fn remove() {
    if fs::remove_file(SYSUSERS).is_ok() {
        // Nothing is its own any more; without the tool it stays.
        let _ = run(Command::new("userdel").arg(USER));
    }
}

fn make() -> io::Result<()> {
    if let Some(folder) = Path::new(SYSUSERS).parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(SYSUSERS, format!("u {USER} - \"Overlay control\"\n"))?;

    run(Command::new("systemd-sysusers").arg(SYSUSERS))
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(());
    }

    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

fn open_to_search(folder: &Path) -> io::Result<()> {
    let mode = fs::metadata(folder)?.permissions().mode();
    if mode & SEARCH != 0 {
        return Ok(());
    }

    fs::set_permissions(folder, fs::Permissions::from_mode(mode | SEARCH_ALL))
}

/// Finds what keeps another user from the program, its state or its options.
fn barrier(launch: &Launch) -> Option<PathBuf> {
    let program = Path::new(launch.program());
    let config = launch.argv.iter().skip_while(|word| *word != "--config").nth(1);
    let files = [(Some(program), SEARCH), (config.map(Path::new), READ)];
    let closed = |path: &Path, right: u32| {
        fs::metadata(path).is_ok_and(|metadata| metadata.mode() & right == 0)
    };
    let closed_file = files.iter().find_map(|(path, right)| {
        let path = (*path)?;
        closed(path, *right).then(|| path.to_owned())
    });
    let folders = [Some(program), config.map(Path::new), Some(launch.state.as_path())];
    let above = folders.into_iter().flatten().flat_map(|path| path.ancestors().skip(1));

    closed_file.or_else(|| above.into_iter().find(|path| closed(path, SEARCH)).map(Path::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Service;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
    }

    #[test]
    fn what_another_user_cannot_reach_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let (root, program) = (folder.path().join("overlay"), folder.path().join("control"));
        let (state, config) = (root.join("control"), folder.path().join("control.toml"));
        fs::create_dir_all(&state).expect("made");
        fs::write(&program, "").and_then(|()| fs::write(&config, "")).expect("written");
        let argv = [program.as_os_str(), "--config".as_ref(), config.as_os_str()];
        let argv = argv.map(Into::into).to_vec();
        let launch = Launch { service: Service::Control, argv, state };
        set(&root, 0o700);
        set(&program, 0o755);
        set(&config, 0o644);

        set(folder.path(), 0o700);
        assert_eq!(barrier(&launch).as_deref(), Some(folder.path()));
        set(folder.path(), 0o755);
        assert_eq!(barrier(&launch).as_deref(), Some(root.as_path()));
        open_to_search(&root).expect("opened");
        assert_eq!(fs::metadata(&root).expect("there").mode() & 0o777, 0o711);
        assert_eq!(barrier(&launch), None);
        set(&program, 0o700);
        assert_eq!(barrier(&launch).as_deref(), Some(program.as_path()));
        set(&program, 0o755);
        set(&config, 0o600);
        assert_eq!(barrier(&launch).as_deref(), Some(config.as_path()));
    }
}
