//! The process's code, as memory.

use std::io;
use std::ops::Range;

/// Where the kernel says what of the process's memory is where (`proc_pid_smaps(5)`).
const MAPPINGS: &str = "/proc/self/smaps";

/// Gives back what the process has read of programs and libraries and not changed: code and
/// constants. Returns how many bytes of the address space that is. To be called once the process is
/// ready: half of an agent's memory is code that only its start needed.
///
/// What is needed again comes from the kernel's page cache, without the disk, in the first
/// microseconds of its use; what is not is the kernel's to reclaim.
///
/// # Errors
///
/// When the kernel does not say what is where, or refuses.
fn release() -> io::Result<usize> {
    let mappings = unchanged_files(&std::fs::read_to_string(MAPPINGS)?);
    for mapping in &mappings {
        give_back(mapping)?;
    }

    Ok(mappings.iter().map(Range::len).sum())
}

/// Does so and says it in the log.
pub(crate) fn release_and_tell() {
    match release() {
        Ok(bytes) => tracing::debug!(bytes, "Gave code back that the start needed"),
        Err(error) => tracing::debug!(%error, "Failed to give code back"),
    }
}

#[expect(unsafe_code, reason = "no library here wraps madvise(2) safely")]
fn give_back(mapping: &Range<usize>) -> io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(mapping.start);
    // SAFETY: these pages are not writable and equal to those of their file, so they read as before
    // when they are mapped again. A mapping that is gone meanwhile, because a library was unloaded,
    // is an error, and one that took its place cannot be: this process loads no library while it
    // runs and maps no memory of its own over another mapping.
    let result = unsafe { libc::madvise(start, mapping.len(), libc::MADV_DONTNEED) };

    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Finds the mappings of files that this process can only read and has no page of its own in. One
/// with such pages has relocations in it, or breakpoints of a debugger.
fn unchanged_files(smaps: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut mapping = None;
    for line in smaps.lines() {
        if let Some(header) = Header::parse(line) {
            mapping = header.is_constant.then_some(header.range);
        } else if is_unchanged(line) {
            found.extend(mapping.take());
        }
    }

    found
}

/// The line with which a mapping begins.
struct Header {
    range: Range<usize>,
    is_constant: bool,
}

impl Header {
    /// Reads `5581c0400000-5581c0a00000 r-xp 00100000 fe:01 4711    /usr/bin/overlayd`, and nothing
    /// of a mapping's other lines.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let address = |text| usize::from_str_radix(text, 16).ok();
        let range = address(start)?..address(end)?;
        let access = words.next()?;
        let inode = words.nth(2)?;
        let is_constant = access.starts_with("r-") && access.ends_with('p') && inode != "0";

        Some(Self { range, is_constant })
    }
}

fn is_unchanged(line: &str) -> bool {
    line.strip_prefix("Anonymous:").is_some_and(|amount| amount.trim() == "0 kB")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
00400000-00500000 r--p 00000000 fe:01 4711                     /usr/bin/overlayd
Rss:                 512 kB
Anonymous:             0 kB
VmFlags: rd mr mw me sd 
00500000-00900000 r-xp 00100000 fe:01 4711                     /usr/bin/overlayd
Rss:                4096 kB
Anonymous:             0 kB
00900000-00a00000 r--p 00500000 fe:01 4711                     /usr/bin/overlayd
Rss:                1024 kB
Anonymous:           720 kB
00a00000-00b00000 rw-p 00600000 fe:01 4711                     /usr/bin/overlayd
Anonymous:             0 kB
01000000-01100000 r--s 00000000 fe:01 4712                     /var/lib/state
Anonymous:             0 kB
7ffd0000-7ffd2000 r-xp 00000000 00:00 0                        [vdso]
Anonymous:             0 kB
";

    #[test]
    fn what_is_given_back_is_code_and_constants_of_files_without_changes() {
        assert_eq!(unchanged_files(SMAPS), [0x40_0000..0x50_0000, 0x50_0000..0x90_0000]);
        let garbage = "garbage - \n-\n1-2 r-xp\nAnonymous: 0 kB";
        assert_eq!(unchanged_files(garbage), Vec::<Range<usize>>::new());
    }

    #[test]
    fn less_code_is_resident_afterwards_and_the_process_goes_on() {
        let before = resident_files();
        let given = release().expect("Linux lets a process give memory back");
        let after = resident_files();

        assert!(given > 0);
        assert!(after < before, "{before} KiB before, {after} KiB after");
    }

    /// How much memory of this process is pages of files, in KiB.
    fn resident_files() -> usize {
        let status = std::fs::read_to_string("/proc/self/status").expect("a process has a status");
        let line = status.lines().find_map(|line| line.strip_prefix("RssFile:"));
        let amount = line.and_then(|line| line.trim().strip_suffix(" kB"));

        amount.and_then(|amount| amount.parse().ok()).expect("the kernel counts pages of files")
    }
}
