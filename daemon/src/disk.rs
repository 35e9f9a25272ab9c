//! Full disks: told apart from other errors, and named by their mount point.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statvfs::statvfs;

/// Returns whether a write failed because the disk or quota is full.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.raw_os_error().map(Errno::from_raw), Some(Errno::ENOSPC | Errno::EDQUOT))
}

/// Returns the mount point of the file system that holds `path`, or would hold it.
pub fn mount_point(path: &Path) -> PathBuf {
    let mut there = path.ancestors().filter_map(|path| Some((path, path.metadata().ok()?.dev())));
    let Some((mut mount, device)) = there.next() else { return PathBuf::from("/") };
    for (parent, other) in there {
        if other != device {
            break;
        }
        mount = parent;
    }

    mount.to_owned()
}

/// The free space below which a disk that was full still counts as full: small writes may fit into
/// free pages of a file.
const ROOM: u64 = 256 << 10;

/// Returns whether the disk that holds `path` has free space again, as far as the system knows.
pub fn has_room(path: &Path) -> bool {
    statvfs(path)
        .map_or(true, |stat| stat.blocks_available().saturating_mul(stat.fragment_size()) >= ROOM)
}

/// A small disk for tests.
#[cfg(any(test, feature = "testing"))]
pub mod testing {
    use std::fs::File;
    use std::io::{self, Write as _};
    use std::path::{Path, PathBuf};

    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use nix::sched::{CloneFlags, unshare};
    use tempfile::TempDir;

    /// A file system in memory that only the calling thread sees; it is unmounted when this value
    /// is dropped.
    #[derive(Debug)]
    pub struct SmallDisk {
        folder: TempDir,
    }

    impl SmallDisk {
        /// Mounts one of the given size in bytes; `None` without the privilege to mount.
        pub fn mount(bytes: usize) -> Option<Self> {
            let folder = tempfile::tempdir().ok()?;
            unshare(CloneFlags::CLONE_NEWNS).ok()?;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount::<str, str, str, str>(None, "/", None, private, None).ok()?;
            let size = format!("size={bytes}");
            mount(
                Some("small"),
                folder.path(),
                Some("tmpfs"),
                MsFlags::empty(),
                Some(size.as_str()),
            )
            .ok()?;

            Some(Self { folder })
        }

        /// Returns its mount point.
        pub fn path(&self) -> &Path {
            self.folder.path()
        }

        fn filling(&self) -> PathBuf {
            self.path().join("filling")
        }

        /// Fills it completely.
        ///
        /// # Errors
        ///
        /// Any error other than a full disk.
        pub fn fill(&self) -> io::Result<()> {
            let mut filling = File::create(self.filling())?;
            loop {
                match filling.write(&[0; 4096]) {
                    Ok(_) => {}
                    Err(error) if super::is_full(&error) => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }

        /// Frees the space again.
        ///
        /// # Errors
        ///
        /// If it had not been filled.
        pub fn make_room(&self) -> io::Result<()> {
            std::fs::remove_file(self.filling())
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            // Files that are still open keep it alive until they are closed.
            let _ = umount2(self.folder.path(), MntFlags::MNT_DETACH);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_no_broken_one() {
        assert!(
            is_full(&io::Error::from_raw_os_error(28))
                && is_full(&io::Error::from_raw_os_error(122))
        );
        assert!(!is_full(&io::Error::from_raw_os_error(5)) && !is_full(&io::Error::other("28")));
    }

    #[test]
    fn a_disk_without_room_is_known() {
        let Some(small) = testing::SmallDisk::mount(1 << 20) else { return };
        assert!(has_room(small.path()));

        small.fill().expect("filled");

        assert!(!has_room(&small.path().join("filling")));
        small.make_room().expect("room");
        assert!(has_room(small.path()));
    }

    #[test]
    fn a_path_names_the_disk_that_holds_it() {
        assert_eq!(mount_point(Path::new("/proc/self/status")), Path::new("/proc"));
        assert_eq!(mount_point(Path::new("/no/such/file")), Path::new("/"));
    }
}
