//! The options of a check besides its rounds, and its output while it runs.

use std::io::Write as _;

use crate::docker::Release;

/// The options of a check besides its rounds, and its output while it runs.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    aloud: bool,
    engines: Vec<Release>,
    stages: Vec<String>,
}

impl Notes {
    /// Makes the notes of a check that prints its figures on standard output.
    pub(crate) fn aloud(engines: &[Release], stages: &[String]) -> Self {
        Self { aloud: true, engines: engines.to_vec(), stages: stages.to_vec() }
    }

    /// Returns the Docker engine for a host: one of those given, in turn, or else the installed
    /// one.
    pub(crate) fn engine(&self, host: usize) -> Release {
        self.engines.iter().cycle().nth(host).cloned().unwrap_or_default()
    }

    /// Returns whether a stage of the check is run: one that was asked for, or else the first
    /// stages, as many as there are rounds.
    pub(crate) fn has_stage(&self, all: &[&str], stage: &str, rounds: u32) -> bool {
        if !self.stages.is_empty() {
            return self.stages.iter().any(|asked| asked == stage);
        }

        all.iter().zip(0..rounds).any(|(one, _)| *one == stage)
    }

    /// Prints a figure or a step.
    pub(crate) fn say(&mut self, line: &str) {
        if self.aloud {
            let mut out = std::io::stdout();
            // If nobody reads the output any more, that is no reason to stop.
            let _ = writeln!(out, "  {line}").and_then(|()| out.flush());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stages_are_those_asked_for_or_as_many_as_rounds() {
        let all = ["a", "b", "c"];
        let has = |asked: &[&str], rounds| {
            let notes = Notes {
                stages: asked.iter().map(|&one| one.to_owned()).collect(),
                ..Notes::default()
            };
            all.map(|stage| notes.has_stage(&all, stage, rounds))
        };

        assert_eq!(has(&[], 2), [true, true, false]);
        assert_eq!(has(&[], 9), [true, true, true]);
        assert_eq!(has(&["c"], 1), [false, false, true]);
    }
}
