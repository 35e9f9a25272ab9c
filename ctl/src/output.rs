//! The only place that writes: results to standard output, progress and refusals to standard error.

mod form;
mod table;
mod template;

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::libc;
use overlay_core::message;
use overlay_proto::{Code, Refusal};
use serde::Serialize;
use serde_json::{Value, json};

pub(crate) use form::{Form, FormArgs, ListArgs, ShowArgs, wants_json};
pub(crate) use table::{Cell, Column, HIDDEN, table, wrapped};
pub(crate) use template::Template;

use crate::failure::{Failure, Outcome, storage};

/// Where results are written, and in which form.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    form: Form,
    template: Option<Template>,
    quiet: bool,
    terminal: Option<Terminal>,
    progress: bool,
}

/// The size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terminal {
    pub(crate) columns: u16,
    pub(crate) rows: u16,
}

/// What a rendering may know beside its data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    /// Seconds since 1970.
    pub(crate) now: u64,
    /// Columns of the terminal; none when the output is no terminal and lines may be as long as
    /// they are.
    pub(crate) width: Option<u16>,
    /// Every column is wanted, as long as lines may become.
    pub(crate) wide: bool,
}

/// A result that people and scripts can read.
pub(crate) trait Report: Serialize {
    /// Renders it for people; no line break at the end.
    fn text(&self, page: Page) -> String;

    /// Returns what `-o name` prints, one a line; none where a result has no names.
    fn names(&self) -> Option<Vec<String>> {
        None
    }

    /// Returns what `--quiet` prints, one a line: what other commands take for it.
    fn ids(&self) -> Option<Vec<String>> {
        self.names()
    }

    /// Returns a row with every field, by which `--format` is checked when a listing is empty.
    fn sample() -> Option<Value>
    where
        Self: Sized,
    {
        None
    }
}

impl Output {
    /// Looks at this process's standard output and error.
    pub(crate) fn of_process(args: &FormArgs) -> Outcome<Self> {
        Ok(Self { quiet: args.quiet, ..Self::plain(args.form()?) })
    }

    /// Writes in a form before it is known what else was asked for.
    pub(crate) fn plain(form: Form) -> Self {
        Self {
            form,
            template: None,
            quiet: false,
            terminal: terminal(),
            progress: io::stderr().is_terminal(),
        }
    }

    /// Writes results by a template instead.
    pub(crate) fn formatted(&self, template: Option<Template>) -> Outcome<Self> {
        if template.is_some() && (self.quiet || self.form != Form::Table) {
            let text = "--format does not go together with --output, --json or --quiet: it says all there is to say";
            return Err(Failure::Usage(text.to_owned()));
        }

        Ok(Self { template, ..self.clone() })
    }

    /// Tells whether results are written as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.form == Form::Json
    }

    /// Tells whether nothing is to be said beside results.
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Returns the terminal that results are written to, if they are.
    pub(crate) fn terminal(&self) -> Option<Terminal> {
        self.terminal
    }

    /// Writes a result; a list that is to be names and is empty writes nothing.
    pub(crate) fn show<R: Report>(&self, report: &R) -> Outcome {
        if self.names(report).is_some_and(|names| names.is_empty()) {
            return Ok(());
        }
        if self.is_json() {
            let text = serde_json::to_string_pretty(report).map_err(unwritable)?;
            return self.line(text);
        }
        let text = self.render(report)?;

        if text.is_empty() && self.template.is_some() { Ok(()) } else { self.line(text) }
    }

    /// Renders a result; JSON on one line.
    pub(crate) fn render<R: Report>(&self, report: &R) -> Outcome<String> {
        if let Some(template) = &self.template {
            let value = serde_json::to_value(report).map_err(unwritable)?;
            return template.render(&value, R::sample().as_ref());
        }
        if self.is_json() {
            return serde_json::to_string(report).map_err(|error| unwritable(error).into());
        }
        let width =
            self.terminal.map(|terminal| terminal.columns).filter(|_| self.form != Form::Wide);
        let text = || report.text(Page { now: now(), width, wide: self.form == Form::Wide });

        Ok(self.names(report).map_or_else(text, |names| names.join("\n")))
    }

    fn names(&self, report: &impl Report) -> Option<Vec<String>> {
        match self.form {
            Form::Name => report.names(),
            Form::Table | Form::Wide if self.quiet => report.ids(),
            Form::Table | Form::Wide | Form::Json => None,
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
        if self.progress && !self.quiet && !self.is_json() {
            self.note(text);
        }
    }

    /// Says something that is no result; one line of JSON where results are JSON.
    pub(crate) fn warn(&self, text: impl Display) {
        if self.is_json() {
            let text = text.to_string();
            let message = text.strip_prefix("overlayctl: ").unwrap_or(&text);
            self.note(json!({ "warning": { "message": message } }));
        } else {
            self.note(text);
        }
    }

    /// Writes a line to standard error.
    #[expect(clippy::unused_self, reason = "writing is allowed to those who hold an output")]
    pub(crate) fn note(&self, text: impl Display) {
        // Nobody is left to be told when standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{}", message::plain(text));
    }

    /// Says why a command failed and returns its exit code.
    pub(crate) fn fail(&self, failure: &Failure) -> ExitCode {
        match failure {
            Failure::Refused(refusal) => self.refuse(refusal),
            Failure::Startup(refusal, log) if self.is_json() => {
                let error = json!({ "code": refusal.code.as_str(), "message": refusal.message, "log": log });
                self.note(json!({ "error": error }));
            }
            Failure::Startup(refusal, log) => {
                self.refuse(refusal);
                for line in log {
                    self.note(format_args!("  | {line}"));
                }
            }
            Failure::Usage(text) => self.error("usage", text, &format!("overlayctl: {text}")),
            Failure::Exit(_) => {}
        }

        ExitCode::from(failure.exit_code())
    }

    /// Says why something was refused.
    pub(crate) fn refuse(&self, refusal: &Refusal) {
        self.error(
            refusal.code.as_str(),
            &refusal.message,
            &format!("overlayctl: {refusal} [{}]", refusal.code),
        );
    }

    /// Says what is wrong: as JSON with a stable code, or in the words for people.
    pub(crate) fn error(&self, code: &str, message: &str, text: &str) {
        if self.is_json() {
            self.note(json!({ "error": { "code": code, "message": message } }));
        } else {
            self.note(text);
        }
    }
}

fn unwritable(error: serde_json::Error) -> Refusal {
    Refusal::new(Code::Fault, format!("the result cannot be written: {error}"))
}

/// Reads the clock: seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
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

    unit.map_or_else(
        || format!("{count} B"),
        |unit| format!("{}.{} {unit}", tenths / 10, tenths % 10),
    )
}

#[expect(unsafe_code, reason = "the terminal's size is asked by ioctl")]
fn terminal() -> Option<Terminal> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one winsize to a pointer that is valid for the call.
    let done = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) };

    (done == 0 && size.ws_col >= 40).then_some(Terminal { columns: size.ws_col, rows: size.ws_row })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_binary_units() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert!(bytes(u64::MAX).ends_with("PiB"));
    }
}
