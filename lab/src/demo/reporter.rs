//! Shows the steps while they run, and a table of them at the end.

use std::io::{IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::command::{CommandOutput, HostCommand, Running};

/// The most lines of a command's output that are shown; the rest is cut.
const MAX_LINES: usize = 6;
const MAX_WIDTH: usize = 140;

/// Prints the steps and keeps their results.
pub(crate) struct Reporter {
    steps: Vec<StepResult>,
    colour: bool,
    start: Instant,
}

struct StepResult {
    title: String,
    time: Duration,
    result: Result<(), String>,
    figure: Option<String>,
}

/// A step that is running.
pub(crate) struct DemoStep {
    colour: bool,
    figure: Option<String>,
}

impl Reporter {
    /// Makes a reporter without steps.
    pub(crate) fn new() -> Self {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();

        Self { steps: Vec::new(), colour, start: Instant::now() }
    }

    /// Prints a line.
    pub(crate) fn say(&self, line: &str) {
        print(line);
    }

    /// Runs a step and shows its result; returns `None` if it failed.
    pub(crate) fn step<T>(
        &mut self,
        title: &str,
        work: impl FnOnce(&mut DemoStep) -> Result<T>,
    ) -> Option<T> {
        print("");
        print(&format!("{:>2}  {}", self.steps.len() + 1, paint(self.colour, "1", title)));
        let mut step = DemoStep { colour: self.colour, figure: None };
        let start = Instant::now();
        let result = work(&mut step);
        let time = start.elapsed();

        let (value, result) = match result {
            Ok(value) => (Some(value), Ok(())),
            Err(error) => (None, Err(format!("{error:#}"))),
        };
        match &result {
            Ok(()) => print(&format!(
                "    {} in {:.2} s",
                paint(self.colour, "32", "ok"),
                time.as_secs_f64()
            )),
            Err(error) => {
                print(&format!(
                    "    {} after {:.2} s",
                    paint(self.colour, "31", "FAILED"),
                    time.as_secs_f64()
                ));
                error.lines().for_each(|line| print(&format!("      {line}")));
            }
        }
        self.steps.push(StepResult { title: title.to_owned(), time, result, figure: step.figure });
        value
    }

    /// Shows the table; returns whether all steps have passed.
    pub(crate) fn finish(self) -> bool {
        print("");
        for (number, step) in self.steps.iter().enumerate() {
            let (colour, word) =
                if step.result.is_ok() { ("32", "ok    ") } else { ("31", "FAILED") };
            let figure = step.figure.as_deref().unwrap_or_default();
            let line = format!(
                "{:>2}  {:<44} {:>6.2} s  ",
                number + 1,
                step.title,
                step.time.as_secs_f64()
            );
            print(format!("{line}{}  {figure}", paint(self.colour, colour, word)).trim_end());
        }
        let failed = self.steps.iter().filter(|step| step.result.is_err()).count();
        let total = self.start.elapsed().as_secs_f64();
        print("");
        if failed == 0 {
            print(&format!("All {} steps passed in {total:.1} s.", self.steps.len()));
        } else {
            print(&format!("{failed} of {} steps failed, after {total:.1} s.", self.steps.len()));
        }

        failed == 0
    }
}

impl DemoStep {
    /// Prints a line of this step.
    pub(crate) fn say(&self, line: &str) {
        print(&format!("      {line}"));
    }

    /// Sets the figure that the table shows.
    pub(crate) fn figure(&mut self, text: String) {
        self.say(&text);
        self.figure = Some(text);
    }

    /// Shows and runs a command, which must succeed.
    pub(crate) fn run(&self, command: HostCommand) -> Result<CommandOutput> {
        self.announce(&command);
        let output = command.run()?;
        let lines: Vec<_> = output.stdout.lines().filter(|line| !line.trim().is_empty()).collect();
        lines.iter().take(MAX_LINES).for_each(|line| self.quote(line));
        if lines.len() > MAX_LINES {
            self.quote(&format!("… {} more lines", lines.len() - MAX_LINES));
        }

        Ok(output)
    }

    /// Shows and starts a command that continues in the background.
    pub(crate) fn start(&self, command: HostCommand) -> Result<Running> {
        self.announce(&command);

        command.spawn()
    }

    fn announce(&self, command: &HostCommand) {
        self.say(&paint(self.colour, "36", &cut(command.line())));
    }

    fn quote(&self, line: &str) {
        self.say(&paint(self.colour, "2", &format!("  {}", cut(line))));
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(MAX_WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

fn paint(colour: bool, code: &str, text: &str) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// Prints a line at once. If nobody reads the output any more, that is no reason to stop within a
/// step.
fn print(line: &str) {
    let mut out = std::io::stdout();
    let _ = writeln!(out, "{line}");
    let _ = out.flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failed_step_fails_the_demo() {
        let mut reporter = Reporter::new();
        assert_eq!(reporter.step("good", |_| Ok(7)), Some(7));
        assert_eq!(reporter.step::<()>("bad", |_| anyhow::bail!("broken")), None);

        assert!(!reporter.finish());
        assert!(Reporter::new().finish());
    }

    #[test]
    fn long_lines_are_cut_between_characters() {
        assert_eq!(cut("short"), "short");
        assert_eq!(cut(&"ü".repeat(200)).chars().count(), MAX_WIDTH + 1);
    }
}
