//! Gives every input of a corpus to the function it was made for. The tests of the crates take this
//! file in.

use std::fs;
use std::path::Path;

/// Gives all inputs of `fuzz/corpus/<target>`.
///
/// # Panics
///
/// When the function does, or there are none.
#[expect(clippy::print_stdout, reason = "the last input named is the one that failed")]
pub(super) fn replay(target: &str, give: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut paths: Vec<_> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(!paths.is_empty(), "{} is empty", folder.display());
    paths.sort();
    give(&[]);
    for path in paths {
        println!("{}", path.display());
        give(&fs::read(&path).expect("an input"));
    }
}
