//! Where the programs of the services are: next to this one, then in the search path.

use std::env;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use overlay_proto::{Code, Refusal};

use crate::state::Service;

/// Finds the program of a service.
pub(crate) fn find(service: Service) -> Result<PathBuf, Refusal> {
    let name = service.program();
    let beside = env::current_exe().ok().and_then(|path| path.parent().map(Path::to_owned));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places = beside.into_iter().chain(env::split_paths(&path));

    places.find_map(|place| executable(place.join(name))).ok_or_else(|| {
        let text = format!(
            "{name} is neither next to overlayctl nor in PATH: install it in the same directory"
        );
        Refusal::new(Code::NotFound, text)
    })
}

fn executable(path: PathBuf) -> Option<PathBuf> {
    let metadata = path.metadata().ok()?;

    (path.is_absolute() && metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
        .then_some(path)
}
