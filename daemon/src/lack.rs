//! Errors by which no file descriptor is left, and what to do about them.

use std::error::Error;
use std::io;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

/// Returns whether an error means that no file descriptor is left, in this process or in the whole
/// system: by itself or by one of its causes.
pub fn are_exhausted(error: &(dyn Error + 'static)) -> bool {
    lacking(error).is_some()
}

/// Says what to do about an error by which no file descriptor is left; nothing about any other.
pub fn remedy(error: &(dyn Error + 'static)) -> Option<String> {
    Some(match lacking(error)? {
        Lacking::Process => {
            let limit = getrlimit(Resource::RLIMIT_NOFILE).map(|(soft, _)| format!(", {soft} now"));
            let (process, limit) = (std::process::id(), limit.unwrap_or_default());

            format!(
                "`ls -l /proc/{process}/fd` shows what holds its file descriptors; close what is not needed, \
                 or raise LimitNOFILE= of the unit{limit}"
            )
        }
        Lacking::Host => {
            "close what is not needed on this host, or raise its sysctl fs.file-max".to_owned()
        }
    })
}

/// Who may open no more files.
pub(crate) enum Lacking {
    /// This process.
    Process,
    /// Every process of the host.
    Host,
}

/// Finds out who may open no more files, by an error or one of its causes.
pub(crate) fn lacking(error: &(dyn Error + 'static)) -> Option<Lacking> {
    let causes =
        std::iter::successors(Some(error), |cause: &&(dyn Error + 'static)| (*cause).source());
    let errno = |cause: &(dyn Error + 'static)| {
        let of_io = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::raw_os_error)
            .map(Errno::from_raw);
        of_io.or_else(|| cause.downcast_ref::<Errno>().copied())
    };

    let lack =
        causes.filter_map(errno).find(|errno| matches!(errno, Errno::EMFILE | Errno::ENFILE))?;

    Some(if lack == Errno::EMFILE { Lacking::Process } else { Lacking::Host })
}
