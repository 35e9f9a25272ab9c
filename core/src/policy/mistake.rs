//! What is wrong with a document, and where.

use std::fmt;
use std::ops::Range;

/// One mistake in a policy document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct PolicyMistake {
    /// The line, from 1.
    pub line: usize,
    /// The column, in characters, from 1.
    pub column: usize,
    /// The key, with the keys of the tables that it is in; empty where the mistake concerns none.
    pub key: String,
    /// What is wrong.
    pub reason: String,
    /// What to write instead.
    pub remedy: String,
}

/// A document that is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct InvalidPolicy {
    /// The mistakes, in the order of the document; at most [`InvalidPolicy::MAX_MISTAKES`].
    pub mistakes: Vec<PolicyMistake>,
    /// How many more there are.
    pub more: usize,
}

impl InvalidPolicy {
    /// The most mistakes that are told of one document: more than anybody mends at once.
    pub const MAX_MISTAKES: usize = 50;
}

impl fmt::Display for PolicyMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, key, reason, remedy } = self;
        let colon = if key.is_empty() { "" } else { ": " };

        write!(f, "line {line}, column {column}: {key}{colon}{reason}: {remedy}")
    }
}

impl fmt::Display for InvalidPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.mistakes.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))?;
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }

        Ok(())
    }
}

/// Collects the mistakes of a document.
#[derive(Debug)]
pub(super) struct Mistakes<'a> {
    text: &'a str,
    /// Where each line begins.
    lines: Vec<usize>,
    found: Vec<(Range<usize>, PolicyMistake)>,
    more: usize,
}

impl<'a> Mistakes<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let lines = std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect();

        Self { text, lines, found: Vec::new(), more: 0 }
    }

    /// Adds a mistake in these bytes of the document.
    pub(super) fn add(
        &mut self,
        span: Range<usize>,
        key: &str,
        reason: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        if self.found.len() == InvalidPolicy::MAX_MISTAKES {
            self.more += 1;
            return;
        }
        let (line, column) = self.place(span.start);
        let (key, reason, remedy) = (key.to_owned(), reason.into(), remedy.into());
        self.found.push((span, PolicyMistake { line, column, key, reason, remedy }));
    }

    /// Returns line and column of a byte of the document.
    pub(super) fn place(&self, at: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|begin| *begin <= at);
        let begin = self.lines.get(line.saturating_sub(1)).copied().unwrap_or_default();
        let before = self.text.get(begin..at).map_or(0, |before| before.chars().count());

        (line, before + 1)
    }

    /// Returns whether there was none.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Returns `value` if there was no mistake.
    pub(super) fn or<T>(mut self, value: T) -> Result<T, InvalidPolicy> {
        if self.found.is_empty() {
            return Ok(value);
        }
        self.found.sort_by_key(|(span, _)| span.start);
        let mistakes = self.found.into_iter().map(|(_, mistake)| mistake).collect();

        Err(InvalidPolicy { mistakes, more: self.more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_lines_and_characters() {
        let mistakes = Mistakes::new("a\nüb\n");

        assert_eq!([0, 2, 4, 6].map(|at| mistakes.place(at)), [(1, 1), (2, 1), (2, 2), (3, 1)]);
        assert_eq!(mistakes.place(3), (2, 1), "within a character");
        assert_eq!(Mistakes::new("").place(9), (1, 1), "behind the end");
    }

    #[test]
    fn more_mistakes_than_anybody_reads_are_counted() {
        let mut mistakes = Mistakes::new("x");
        for _ in 0..InvalidPolicy::MAX_MISTAKES + 2 {
            mistakes.add(0..1, "rule", "it is wrong", "mend it");
        }

        let invalid = mistakes.or(()).expect_err("mistakes");

        assert_eq!(invalid.mistakes.len(), InvalidPolicy::MAX_MISTAKES);
        assert!(invalid.to_string().ends_with("mend it\nand 2 more"), "{invalid}");
        assert!(invalid.to_string().starts_with("line 1, column 1: rule: it is wrong: mend it"));
    }
}
