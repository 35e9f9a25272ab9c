//! Transcripts: command lines, and what is seen of them.

use super::Ran;
use super::terminal::{COLUMNS, seen};

/// Tells, loudly, that a test needs root.
#[expect(clippy::print_stderr, reason = "a skipped test must be seen")]
pub(crate) fn skipped() -> bool {
    let skipped = !nix::unistd::geteuid().is_root();
    if skipped {
        eprintln!("SKIPPED: needs root");
    }

    skipped
}

/// Writes down what is seen of lines.
pub(crate) fn transcribed(lines: &str, ask: impl Fn(&str) -> Ran) -> String {
    let mut text = String::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let mut ran = ask(line);
        let shown = ran.stdout.replace("\x1b[H\x1b[2J", "");
        let as_long_as_it_is =
            ["json", "-o", "--format", "-q", "token create", "events", "init", "completions"];
        if ran.code == 0 && !as_long_as_it_is.iter().any(|form| line.contains(form)) {
            for shown in shown.lines() {
                assert!(
                    shown.chars().count() <= COLUMNS.into(),
                    "{line} is wider than {COLUMNS}: {shown}"
                );
            }
        }
        if line.starts_with("completions") && ran.code == 0 {
            ran.stdout = ran.stdout.lines().take(1).chain(["…"]).collect::<Vec<_>>().join("\n");
        }
        text.push_str(&seen(line, &ran));
    }

    text
}
