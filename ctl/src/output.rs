//! The only place that writes: results to standard output, progress and refusals to standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use nix::libc;
use overlay_proto::{Code, Refusal};
use serde::Serialize;

use crate::failure::{Failure, Outcome, storage};

/// Where results are written, and in which form.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    form: Form,
    width: Option<u16>,
    progress: bool,
}

/// How results are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Json,
}

/// What a rendering may know beside its data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// Seconds since 1970.
    pub(crate) now: u64,
    /// Columns of the terminal; none when the output is no terminal and lines may be as long as they are.
    pub(crate) width: Option<u16>,
}

/// A result that people and scripts can read.
pub(crate) trait Report: Serialize {
    /// Renders it for people; no line break at the end.
    fn text(&self, page: Page) -> String;
}

impl Output {
    /// Looks at this process's standard output and error.
    pub(crate) fn of_process(json: bool) -> Self {
        Self {
            form: if json { Form::Json } else { Form::Text },
            width: terminal_width(),
            progress: io::stderr().is_terminal(),
        }
    }

    /// Tells whether results are written as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Writes a result.
    pub(crate) fn show(&self, report: &impl Report) -> Outcome {
        match self.form {
            Form::Text => self.line(report.text(Page { now: now(), width: self.width })),
            Form::Json => {
                let text = serde_json::to_string_pretty(report)
                    .map_err(|error| Refusal::new(Code::Fault, format!("the result cannot be written: {error}")))?;
                self.line(text)
            }
        }
    }

    /// Writes one line of a result.
    #[expect(clippy::unused_self, reason = "writing is allowed to those who hold an output")]
    pub(crate) fn line(&self, text: impl Display) -> Outcome {
        let mut stdout = io::stdout().lock();

        writeln!(stdout, "{text}").and_then(|()| stdout.flush()).map_err(|error| {
            if error.kind() == io::ErrorKind::BrokenPipe {
                // The reader has seen enough, as `head` has.
                Failure::Exit(0)
            } else {
                storage("standard output", &error).into()
            }
        })
    }

    /// Says what is being done, to somebody who watches.
    pub(crate) fn step(&self, text: impl Display) {
        if self.progress && self.form == Form::Text {
            self.warn(text);
        }
    }

    /// Says something that is no result.
    #[expect(clippy::unused_self, reason = "writing is allowed to those who hold an output")]
    pub(crate) fn warn(&self, text: impl Display) {
        // Nobody is left to be told when standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Says why a command failed and returns its exit code.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        match failure {
            Failure::Refused(refusal) => self.refuse(refusal),
            Failure::Startup(refusal, log) => {
                self.refuse(refusal);
                for line in log {
                    self.warn(format_args!("  | {line}"));
                }
            }
            Failure::Usage(text) => self.warn(format_args!("overlayctl: {text}")),
            Failure::Exit(_) => {}
        }

        ExitCode::from(failure.exit_code())
    }

    fn refuse(&self, refusal: &Refusal) {
        self.warn(format_args!("overlayctl: {refusal} [{}]", refusal.code));
    }
}

/// Reads the clock: seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Lays rows out in columns, without borders; `right` lists the columns of figures.
pub(crate) fn table(page: Page, head: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec()).add_rows(rows);
    if let Some(width) = page.width {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    for (i, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&i) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }

    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Joins words with commas; an empty list is a dash.
pub(crate) fn list<T: Display>(words: impl IntoIterator<Item = T>) -> String {
    let words: Vec<_> = words.into_iter().map(|word| word.to_string()).collect();

    if words.is_empty() { "-".to_owned() } else { words.join(",") }
}

/// Writes labels as `k=v,k=v`.
pub(crate) fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    list(labels.iter().map(|(key, value)| format!("{key}={value}")))
}

/// Writes a number of bytes with a binary unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut unit = None;
    let mut tenths = count.saturating_mul(10);
    for name in UNITS {
        if tenths < 10_240 {
            break;
        }
        tenths /= 1024;
        unit = Some(name);
    }

    unit.map_or_else(|| format!("{count} B"), |unit| format!("{}.{} {unit}", tenths / 10, tenths % 10))
}

#[expect(unsafe_code, reason = "the terminal's size is asked by ioctl")]
fn terminal_width() -> Option<u16> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to a pointer that is valid for the call.
    let done = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };

    (done == 0 && size.ws_col >= 40).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_aligned_columns_and_no_trailing_blanks() {
        let rows = vec![vec!["a".to_owned(), "1".to_owned()], vec!["long".to_owned(), "22".to_owned()]];

        let text = table(Page { now: 0, width: None }, &["NAME", "N"], &[1], rows);

        assert_eq!(text, "NAME   N\na      1\nlong  22");
    }

    #[test]
    fn a_narrow_terminal_wraps_cells_instead_of_lines() {
        let rows = vec![vec!["a".to_owned(), "word ".repeat(30)]];

        let text = table(Page { now: 0, width: Some(60) }, &["NAME", "TEXT"], &[], rows);

        assert!(text.lines().all(|line| line.len() <= 60), "{text}");
    }

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert!(bytes(u64::MAX).ends_with("PiB"));
    }
}
