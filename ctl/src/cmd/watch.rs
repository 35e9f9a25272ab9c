//! `--watch`: asks again and again, and writes what has changed until Ctrl-C.
//!
//! A terminal is redrawn; elsewhere each state is written below the one before, with JSON on one
//! line each.

use std::io::{self, IsTerminal};
use std::time::Duration;

use overlay_proto::Refusal;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::failure::{Outcome, storage};
use crate::output::{Output, Report};

/// Clears the terminal from its upper left corner on.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// Writes what `ask` answers whenever it has changed. It waits for an agent that goes away in
/// between.
///
/// # Errors
///
/// When the first answer is a refusal, or nothing can be written.
pub(super) async fn run<R: Report>(
    output: &Output,
    period: Duration,
    mut ask: impl AsyncFnMut() -> Result<R, Refusal>,
) -> Outcome {
    let mut interrupted = signal(SignalKind::interrupt())
        .map_err(|error| storage("signals cannot be awaited", &error))?;
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = Shown::default();
    while awaited(&mut interrupted, ticks.tick()).await.is_some() {
        let Some(answer) = awaited(&mut interrupted, ask()).await else { break };
        match answer {
            Ok(report) => shown.show(output, &report)?,
            Err(refusal) if shown.last.is_none() => return Err(refusal.into()),
            Err(refusal) => shown.fail(output, &refusal),
        }
    }

    Ok(())
}

/// Waits for something, unless Ctrl-C comes first.
async fn awaited<T>(interrupted: &mut Signal, wanted: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        result = wanted => Some(result),
        _ = interrupted.recv() => None,
    }
}

/// What was written last.
#[derive(Debug, Default)]
struct Shown {
    last: Option<String>,
    failed: Option<Refusal>,
}

impl Shown {
    fn show<R: Report>(&mut self, output: &Output, report: &R) -> Outcome {
        let text = output.render(report)?;
        self.failed = None;
        // Ages grow by themselves: where nothing is drawn over, only the facts count.
        let facts = if output.terminal().is_some() { text.clone() } else { facts(report, &text) };
        if self.last.as_ref() == Some(&facts) {
            return Ok(());
        }
        let first = self.last.replace(facts).is_none();

        match output.terminal() {
            Some(terminal) => {
                output.line(format_args!("{CLEAR}{}", cut(&text, terminal.rows.into())))
            }
            None if !first && text.contains('\n') => output.line(format_args!("\n{text}")),
            None => output.line(text),
        }
    }

    /// Says once that there is no answer, and draws anew when there is one again.
    fn fail(&mut self, output: &Output, refusal: &Refusal) {
        if self.failed.as_ref().map(|failed| failed.code) != Some(refusal.code) {
            output.refuse(refusal);
        }
        self.failed = Some(refusal.clone());
        if io::stderr().is_terminal() {
            self.last = Some(String::new());
        }
    }
}

fn facts<R: Report>(report: &R, text: &str) -> String {
    serde_json::to_string(report).unwrap_or_else(|_| text.to_owned())
}

/// Cuts what the terminal has no lines for.
fn cut(text: &str, rows: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    let room = rows.saturating_sub(1);
    if lines.len() <= room || room < 2 {
        return text.to_owned();
    }
    let shown = &lines[..room - 1];

    format!("{}\n… {} more lines", shown.join("\n"), lines.len() - shown.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_the_terminal_is_counted() {
        let text = (1..=9).map(|n| n.to_string()).collect::<Vec<_>>().join("\n");

        assert_eq!(cut(&text, 10), text);
        assert_eq!(cut(&text, 5), "1\n2\n3\n… 6 more lines");
    }
}
