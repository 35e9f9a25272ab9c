//! Builds the programs that the demo runs, because `cargo run -p overlay-lab` builds only its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::binary::BIN_DIR;

/// Includes this crate, although it is built already: without it, some dependencies would have
/// fewer features and be built again.
const PACKAGES: [&str; 4] = ["overlay-agent", "overlay-control", "overlayctl", "overlay-lab"];

/// Builds the programs into the folder that this one runs from, if that is a Cargo target folder
/// and the sources are there. Nothing is done for programs that are up to date.
///
/// # Errors
///
/// If Cargo fails.
pub(crate) fn build_programs() -> Result<()> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let own = std::env::current_exe().context("cannot determine where this program is")?;
    let Some((target, profile)) = cargo_folder(&own) else { return Ok(()) };
    if std::env::var_os(BIN_DIR).is_some() || !manifest.is_file() {
        return Ok(());
    }

    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_of_one_package(name)) {
        build.env_remove(name);
    }
    build.args(["build", "--profile", &profile, "--bins", "--manifest-path"]).arg(manifest);
    build.arg("--target-dir").arg(target).args(PACKAGES.iter().flat_map(|package| ["-p", package]));
    match build.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => bail!("the programs the demo shows could not be built"),
        // Installed without Cargo: the programs that are there are used.
        Err(_) => Ok(()),
    }
}

/// Returns whether `cargo run` set this variable to describe the package that it runs. Build
/// scripts that depend on such a variable would see it change, and all that depends on them would
/// be built twice: once by the outer Cargo, once by ours.
fn is_of_one_package(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let described =
        ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"];

    described.iter().any(|prefix| name.starts_with(prefix))
}

/// Returns the target folder and the profile, if `program` is where Cargo puts programs.
fn cargo_folder(program: &Path) -> Option<(PathBuf, String)> {
    let folder = program.parent()?;
    let target = folder.parent()?;
    let profile = match folder.file_name()?.to_str()? {
        "debug" => "dev",
        other => other,
    };

    folder.join(".fingerprint").is_dir().then(|| (target.to_owned(), profile.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cargo_built_is_built_again() {
        let target = tempfile::tempdir().unwrap();
        let program = target.path().join("release/overlay-lab");
        std::fs::create_dir_all(target.path().join("release/.fingerprint")).unwrap();

        assert_eq!(cargo_folder(&program), Some((target.path().to_owned(), "release".to_owned())));
        assert_eq!(cargo_folder(Path::new("/usr/bin/overlay-lab")), None);
    }

    #[test]
    fn what_describes_the_running_package_is_not_passed_on_and_settings_are() {
        for name in
            ["CARGO_MANIFEST_DIR", "CARGO_PKG_NAME", "CARGO_PKG_VERSION_PRE", "CARGO_BIN_NAME"]
        {
            assert!(is_of_one_package(OsStr::new(name)), "{name}");
        }
        for name in [
            "CARGO_HOME",
            "CARGO_NET_OFFLINE",
            "CARGO_BUILD_JOBS",
            "CARGO_PROFILE_RELEASE_LTO",
            "PATH",
        ] {
            assert!(!is_of_one_package(OsStr::new(name)), "{name}");
        }
    }
}
