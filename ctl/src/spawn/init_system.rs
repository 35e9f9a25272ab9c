//! Which init system runs this host.

use std::fs;
use std::path::Path;

/// Tells whether systemd is PID 1 of this host; inside a container or namespace, the host's systemd
/// is not ours.
pub(super) fn is_systemd() -> bool {
    let same = |kind: &str| {
        let ours = fs::read_link(format!("/proc/self/ns/{kind}"));
        let first = fs::read_link(format!("/proc/1/ns/{kind}"));
        ours.is_ok_and(|ours| first.is_ok_and(|first| ours == first))
    };

    Path::new("/run/systemd/system").is_dir() && same("net") && same("mnt") && same("pid")
}
