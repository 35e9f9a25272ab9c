//! Finds the workspace's own programs.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The environment variable with the folder in which the programs are looked for first.
pub(crate) const BIN_DIR: &str = "OVERLAY_BIN_DIR";

/// The programs of this workspace.
pub(crate) const PROGRAMS: [&str; 4] = ["overlayd", "overlay-control", "overlayctl", "overlay-lab"];

/// Returns the path of one of the workspace's programs: in `OVERLAY_BIN_DIR`, or beside the running
/// program (for a test: in the same target folder).
///
/// # Errors
///
/// If it has not been built.
pub fn bin(name: &str) -> Result<PathBuf> {
    let folder = bin_dir()?;
    let path = folder.join(name);
    if !path.is_file() {
        bail!(
            "there is no {name} in {}: build it first with `cargo build --workspace`",
            folder.display()
        );
    }

    Ok(path)
}

/// Returns the folder in which [`bin`] looks.
pub(crate) fn bin_dir() -> Result<PathBuf> {
    if let Some(folder) = env::var_os(BIN_DIR) {
        return Ok(folder.into());
    }

    let own = env::current_exe().context("cannot determine where this program is")?;
    Ok(target_folder(&own).to_owned())
}

/// Returns whether the programs are those that packages contain: they are in a folder with the name
/// of Cargo's profile `dist`.
pub(crate) fn are_packaged() -> bool {
    bin_dir().is_ok_and(|folder| folder.file_name().is_some_and(|name| name == "dist"))
}

/// Cargo puts test programs one level below the programs they test.
fn target_folder(program: &Path) -> &Path {
    let folder = program.parent().unwrap_or(Path::new("/"));
    match folder.file_name().and_then(|name| name.to_str()) {
        Some("deps" | "examples") => folder.parent().unwrap_or(folder),
        _ => folder,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_find_the_programs_one_level_up() {
        assert_eq!(target_folder(Path::new("/t/debug/deps/e2e-1f")), Path::new("/t/debug"));
        assert_eq!(target_folder(Path::new("/t/release/overlay-lab")), Path::new("/t/release"));
    }

    #[test]
    fn a_missing_program_comes_with_the_command_that_builds_it() {
        let error = bin("overlay-nothing").unwrap_err().to_string();

        assert!(error.contains("cargo build --workspace"), "{error}");
    }
}
