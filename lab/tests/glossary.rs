//! The glossary is true to the code: each of its words exists and has one meaning, and no two
//! crates use one name for different things.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Files with tests, whose names may differ from those in other crates.
const TESTS: [&str; 9] = [
    "tests",
    "benches",
    "sim",
    "tests.rs",
    "sim.rs",
    "testing.rs",
    "fuzzing.rs",
    "fake.rs",
    "target",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("lab is a folder of the repository")
}

/// Returns the Rust files below a folder, without those of tests.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path())
    {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if TESTS.contains(&name.as_str()) || name.ends_with("_tests.rs") {
            continue;
        }
        if entry.is_dir() {
            found.extend(sources(&entry));
        } else if name.ends_with(".rs") {
            found.push(entry);
        }
    }

    found
}

/// Returns the lines of code of every crate, without comments and unit tests.
fn code() -> BTreeMap<String, Vec<String>> {
    let mut crates = BTreeMap::new();
    for entry in
        fs::read_dir(root()).expect("the repository").map(|entry| entry.expect("an entry").path())
    {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if ["fuzz", "vendor"].contains(&name.as_str()) || !entry.join("src").is_dir() {
            continue;
        }
        let lines = sources(&entry.join("src")).into_iter().flat_map(|file| {
            let text = fs::read_to_string(file).expect("a source file");
            let lines: Vec<_> =
                text.lines().take_while(|line| *line != "mod tests {").map(str::to_owned).collect();

            lines.into_iter().filter(|line| !line.trim_start().starts_with("//"))
        });
        crates.insert(name, lines.collect());
    }

    crates
}

/// Returns the identifiers in a line.
fn identifiers(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty())
}

/// Returns the name of the type that a line makes public beyond its module.
fn public_type(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let line = line.strip_prefix("pub(crate) ").or_else(|| line.strip_prefix("pub "))?;
    let (kind, rest) = line.split_once(' ')?;

    ["struct", "enum", "trait", "type", "union"]
        .contains(&kind)
        .then(|| identifiers(rest).next())
        .flatten()
}

/// Returns the crates that have a public type of each name.
fn public_types(code: &BTreeMap<String, Vec<String>>) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut types: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, lines) in code {
        for found in lines.iter().filter_map(|line| public_type(line)) {
            types.entry(found).or_default().insert(name);
        }
    }

    types
}

/// Returns the words in the column `code` of the table below a heading.
fn words(glossary: &str, heading: &str) -> Vec<String> {
    let section = glossary
        .split("\n## ")
        .find(|section| section.starts_with(heading))
        .expect("the section is there");
    let cells = section
        .lines()
        .filter(|line| line.starts_with("| "))
        .skip(1)
        .filter_map(|line| line.split(" | ").nth(2));
    let quoted = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2));

    quoted.map(|word| word.trim_end_matches("()").to_owned()).collect()
}

fn glossary() -> String {
    fs::read_to_string(root().join("docs/GLOSSARY.md")).expect("the glossary")
}

#[test]
fn each_word_of_the_glossary_is_in_the_code() {
    let code = code();
    let used: BTreeSet<_> = code.values().flatten().flat_map(|line| identifiers(line)).collect();
    let glossary = glossary();
    let words = [words(&glossary, "Words"), words(&glossary, "Names that crates share")].concat();

    let absent: Vec<_> = words.iter().filter(|word| !used.contains(word.as_str())).collect();

    assert!(words.len() > 40, "{words:?}");
    assert!(absent.is_empty(), "in docs/GLOSSARY.md and not in the code: {absent:?}");
}

#[test]
fn no_two_crates_use_one_name_for_different_things() {
    let code = code();
    let glossary = glossary();
    let shared = words(&glossary, "Names that crates share");

    let doubles: Vec<_> = public_types(&code)
        .into_iter()
        .filter(|(name, crates)| crates.len() > 1 && !shared.iter().any(|word| word == name))
        .collect();

    assert!(
        doubles.is_empty(),
        "rename all but one, or list the name in docs/GLOSSARY.md: {doubles:?}"
    );
}

#[test]
fn a_public_type_is_known_by_its_declaration() {
    assert_eq!(public_type("    pub(crate) struct Link<'a> {"), Some("Link"));
    assert_eq!(public_type("pub type Entries = Arc<()>;"), Some("Entries"));
    assert_eq!(public_type("struct Hidden;"), None);
    assert_eq!(public_type("pub fn link() {"), None);
}
