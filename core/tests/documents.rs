//! The documents are true to the repository: the files that they name exist, tests cite the
//! invariants, and no file is longer than `docs/STYLE.md` says.
//!
//! The tests are here because this crate builds in seconds; nothing in it is needed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

/// Folders that do not contain our sources.
const ELSEWHERE: [&str; 4] = [".git", "target", "fuzz/corpus", "fuzz/target"];
/// Endings of file names that documents mention.
const KINDS: [&str; 8] = [".rs", ".md", ".toml", ".proto", ".sh", ".svg", ".yml", ".snap"];
/// Placeholders in paths.
const PLACEHOLDERS: [&str; 3] = ["NNNN", "ID", "NAME"];
/// The most lines of a file of code, and the file that has more: it is a table of command lines.
const LONGEST: usize = 500;
const LONGER: [&str; 1] = ["ctl/tests/snapshots.rs"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("core is a folder of the repository")
}

/// Returns every file and folder of the repository, by its path in it.
fn tree() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut folders = vec![root().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.strip_prefix(root()).expect("within").to_string_lossy().into_owned();
            if ELSEWHERE.contains(&name.as_str()) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            }
            found.insert(name);
        }
    }

    found
}

fn with_end(tree: &BTreeSet<String>, end: &str) -> Vec<(String, String)> {
    let read = |name: &String| (name.clone(), fs::read_to_string(root().join(name)).expect("text"));

    tree.iter()
        .filter(|name| name.ends_with(end) && root().join(name).is_file())
        .map(read)
        .collect()
}

/// Returns the parts of a text between two marks.
fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).filter_map(move |rest| rest.split_once(close).map(|(part, _)| part))
}

/// Returns the text without its code blocks.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Returns the code spans of a text.
fn spans(text: &str) -> Vec<String> {
    prose(text).split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Resolves a path relative to a folder of the repository, without `.` and `..`.
fn resolve(folder: &str, path: &str) -> String {
    let mut resolved = PathBuf::new();
    for part in Path::new(folder).join(path).components() {
        match part {
            Component::ParentDir => drop(resolved.pop()),
            Component::Normal(name) => resolved.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }

    resolved.to_string_lossy().into_owned()
}

/// Returns the anchor of a heading.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || c == ' ' || c == '-';
    let name = heading.trim_start_matches('#').trim().to_lowercase();

    name.chars().filter(|c| kept(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

fn has_anchor(file: &str, wanted: &str) -> bool {
    let text = fs::read_to_string(root().join(file)).unwrap_or_default();

    prose(&text)
        .lines()
        .filter(|line| line.starts_with('#'))
        .any(|heading| anchor(heading) == wanted)
}

/// Returns whether a code span names a file or folder of the repository.
fn is_path(span: &str, tree: &BTreeSet<String>) -> bool {
    let plain = span.chars().all(|c| c.is_ascii_alphanumeric() || "_-./".contains(c));
    let parts: Vec<_> = span.split('/').collect();
    let is_general =
        parts.iter().any(|part| part.split(['-', '.']).any(|word| PLACEHOLDERS.contains(&word)));
    let of_a_kind = KINDS.iter().any(|kind| span.len() > kind.len() && span.ends_with(kind));
    let in_a_folder = parts.len() > 1 && parts[0] != "target" && tree.contains(parts[0]);

    plain && !is_general && !span.starts_with(['/', '.']) && (of_a_kind || in_a_folder)
}

/// Returns whether a path exists: from the root, from the document's folder, or as the end of one.
fn is_there(span: &str, folder: &str, tree: &BTreeSet<String>) -> bool {
    let span = span.trim_end_matches('/');
    let end = format!("/{span}");

    tree.contains(span)
        || tree.contains(&resolve(folder, span))
        || tree.iter().any(|path| path.ends_with(&end))
}

fn folder_of(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[test]
fn what_a_document_refers_to_is_there() {
    let tree = tree();
    let documents = with_end(&tree, ".md");
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for (file, text) in &documents {
        let folder = folder_of(file);
        for link in between(text, "](", ')').filter(|link| !link.contains("://")) {
            let (path, wanted) = link.split_once('#').unwrap_or((link, ""));
            let path = if path.is_empty() { file.clone() } else { resolve(folder, path) };
            looked_at += 1;
            if !tree.contains(&path) || !(wanted.is_empty() || has_anchor(&path, wanted)) {
                missing.push(format!("{file}: ]({link})"));
            }
        }
        // These also describe the past.
        if folder == "docs/adr" || file == "CHANGELOG.md" {
            continue;
        }
        for span in spans(text).iter().filter(|span| is_path(span, &tree)) {
            looked_at += 1;
            if !is_there(span, folder, &tree) {
                missing.push(format!("{file}: `{span}`"));
            }
        }
    }

    assert!(
        documents.len() > 20 && looked_at > 20,
        "{} documents, {looked_at} references",
        documents.len()
    );
    assert!(missing.is_empty(), "these are not there:\n{}", missing.join("\n"));
}

#[test]
fn what_the_code_refers_to_in_the_documents_is_there() {
    let tree = tree();
    let mut missing = Vec::new();
    let mut looked_at = 0;
    for (file, text) in
        with_end(&tree, ".rs").into_iter().filter(|(file, _)| file != "core/tests/documents.rs")
    {
        for rest in text.split("docs/").skip(1) {
            let path: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || "_-./".contains(*c))
                .collect();
            let Some((path, _)) = path.split_once(".md") else { continue };
            looked_at += 1;
            if !tree.contains(&format!("docs/{path}.md")) {
                missing.push(format!("{file}: docs/{path}.md"));
            }
        }
    }

    assert!(looked_at > 0, "{looked_at} references");
    assert!(missing.is_empty(), "these are not there:\n{}", missing.join("\n"));
}

#[test]
fn no_file_of_code_is_longer_than_one_reads_at_once() {
    let is_longer = |(_, text): &(String, String)| text.lines().count() > LONGEST;

    let longer = with_end(&tree(), ".rs").into_iter().filter(is_longer);
    let longer: Vec<_> = longer.map(|(name, _)| name).collect();

    assert_eq!(longer, LONGER);
}

/// Returns the numbers of the list below a heading.
fn numbered(text: &str, heading: &str) -> BTreeSet<u32> {
    let list = text.split(heading).nth(1).unwrap_or_default();
    let list = list.split("\n## ").next().unwrap_or_default();

    list.lines().filter_map(|line| line.split_once(". ")?.0.parse().ok()).collect()
}

/// Returns the invariants that a test's comment cites: `Invariant 4.` or `Invariants 4 and 7.`
fn cited(line: &str) -> Vec<u32> {
    let Some(rest) = line.trim().strip_prefix("/// Invariant") else { return Vec::new() };
    let list = rest.split('.').next().unwrap_or_default();

    list.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Returns whether a comment belongs to a test.
fn is_of_a_test<'a>(mut below: impl Iterator<Item = &'a str>) -> bool {
    let next = below.find(|line| !line.trim_start().starts_with("///"));

    next.is_some_and(|line| line.trim_start().starts_with("#[") && line.contains("test"))
}

#[test]
fn every_invariant_is_cited_by_a_test_that_holds_it() {
    let architecture =
        fs::read_to_string(root().join("docs/ARCHITECTURE.md")).expect("the document");
    let invariants = numbered(&architecture, "## Invariants");
    let mut holders: BTreeMap<u32, usize> = BTreeMap::new();
    let mut strays = Vec::new();
    for (file, text) in with_end(&tree(), ".rs") {
        let lines: Vec<_> = text.lines().collect();
        for (i, line) in lines.iter().enumerate() {
            for number in cited(line) {
                let is_held = is_of_a_test(lines[i..].iter().copied());
                if is_held && invariants.contains(&number) {
                    *holders.entry(number).or_default() += 1;
                } else {
                    strays.push(format!("{file}:{}: {number}", i + 1));
                }
            }
        }
    }

    let unheld: Vec<_> = invariants.iter().filter(|number| !holders.contains_key(number)).collect();
    assert!(invariants.len() > 10, "{invariants:?}");
    assert!(unheld.is_empty(), "no test says `/// Invariant N.` of {unheld:?}");
    assert!(
        strays.is_empty(),
        "these are above no test, or of no invariant:\n{}",
        strays.join("\n")
    );
}

#[test]
fn references_are_read_as_people_read_them() {
    let tree =
        BTreeSet::from(["agent", "agent/src", "agent/src/x.rs", "docs/A.md"].map(str::to_owned));

    assert_eq!(spans("a `b` c\n```sh\n`d`\n```\n`e`"), ["b", "e"]);
    assert!(is_path("x.rs", &tree) && is_path("agent/src", &tree) && !is_path("read/write", &tree));
    assert!(
        !is_path("docs/adr/NNNN-title.md", &tree)
            && !is_path("/etc/x.toml", &tree)
            && !is_path("a b.rs", &tree)
    );
    assert!(
        is_there("src/x.rs", "", &tree)
            && is_there("agent/src/", "", &tree)
            && !is_there("y.rs", "", &tree)
    );
    assert!(is_there("A.md", "docs", &tree) && !is_there("rs", "", &tree));
    assert_eq!(resolve("docs/adr", "../A.md"), "docs/A.md");
    assert_eq!(anchor("## Under systemd, twice"), "under-systemd-twice");
    assert_eq!(cited("    /// Invariants 4 and 12. And more of 3."), [4, 12]);
    assert!(is_of_a_test(["/// x", "#[tokio::test]", "fn a() {}"].into_iter()));
    assert!(!is_of_a_test(["/// x", "fn a() {}"].into_iter()));
    assert_eq!(
        numbered("x\n## I\n\n1. a\n2. b\n   3 c\n## J\n4. d", "## I"),
        BTreeSet::from([1, 2])
    );
}
