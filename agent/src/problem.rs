//! The current problems and when they began, as `overlayctl status` shows them.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use overlay_core::message;
use overlay_daemon::Condition;
use overlay_daemon::descriptors;

use crate::problem_code::ProblemCode;
use crate::problem_key::ProblemKey;

/// The most problems that are kept; each is one line, so this is some 100 KiB.
const MAX_PROBLEMS: usize = 256;

/// Something that does not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    /// What it is about.
    pub(crate) key: ProblemKey,
    /// Its stable code, for scripts.
    pub(crate) code: ProblemCode,
    /// One line for operators.
    pub(crate) text: String,
    /// When it began, in seconds since 1970.
    pub(crate) since: u64,
}

/// All present problems: what the tasks state, each under the key of the thing it is about, and
/// what the process itself lacks at the moment that somebody looks.
#[derive(Debug, Default)]
pub(crate) struct Problems {
    /// By the text of the key, which is the order of listings.
    stated: Mutex<BTreeMap<String, Problem>>,
    process: Option<Box<dyn ProcessConditions>>,
}

/// What a process lacks at the moment that somebody looks.
pub(crate) trait ProcessConditions: std::fmt::Debug + Send + Sync {
    /// Lists what is lacking.
    fn conditions(&self) -> Vec<(ProblemKey, ProblemCode, Condition)>;
}

impl Problems {
    /// Begins with what the process may lack.
    pub(crate) fn new(process: impl ProcessConditions + 'static) -> Self {
        Self { stated: Mutex::default(), process: Some(Box::new(process)) }
    }

    fn stated(&self) -> MutexGuard<'_, BTreeMap<String, Problem>> {
        self.stated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// States a problem of `key`; one that stood already keeps its beginning.
    pub(crate) fn raise(
        &self,
        key: ProblemKey,
        code: impl Into<ProblemCode>,
        text: impl std::fmt::Display,
    ) {
        let (code, text) = (code.into(), message::line(text));
        let mut problems = self.stated();
        let about = key.to_string();
        let since = match problems.get(&about) {
            Some(known) if known.code == code => known.since,
            _ if problems.len() >= MAX_PROBLEMS => return,
            _ => {
                tracing::warn!(about, code = code.as_str(), problem = %text, "Problem");
                unix_now()
            }
        };
        problems.insert(about, Problem { key, code, text, since });
    }

    /// Tells whether a problem of `key` stands.
    pub(crate) fn stands(&self, key: &ProblemKey) -> bool {
        self.stated().contains_key(&key.to_string())
    }

    /// Returns what was said of `key`.
    pub(crate) fn text(&self, key: &ProblemKey) -> Option<String> {
        self.stated().get(&key.to_string()).map(|problem| problem.text.clone())
    }

    /// States that `key` works.
    pub(crate) fn clear(&self, key: &ProblemKey) {
        let gone = self.stated().remove(&key.to_string());
        if let Some(problem) = gone {
            tracing::info!(about = %key, code = problem.code.as_str(), "Problem solved");
        }
    }

    /// States that everything works that the node had.
    pub(crate) fn clear_all(&self) {
        self.stated().clear();
    }

    /// States that everything works, or is not there any more, but for what `still` says of.
    pub(crate) fn retain(&self, still: impl Fn(&ProblemKey) -> bool) {
        self.stated().retain(|_, problem| still(&problem.key));
    }

    /// Lists them.
    pub(crate) fn list(&self) -> Vec<Problem> {
        let own = self.process.iter().flat_map(|process| process.conditions());
        let problem = |(key, code, Condition { text, since })| Problem {
            key,
            code,
            text: message::line(text),
            since,
        };

        own.map(problem).chain(self.stated().values().cloned()).collect()
    }
}

/// Writes an error with its causes, plainly, and what to do where descriptors are used up: that may
/// be the cause of anything.
pub(crate) fn explain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    if let Some(remedy) = descriptors::remedy(error) {
        text = format!("{text}; {remedy}");
    }

    message::plain(text)
}

/// Returns the time in seconds since 1970; 0 before.
pub(crate) fn unix_now() -> u64 {
    unix_seconds(SystemTime::now())
}

/// Returns the wall clock, in milliseconds since 1970.
pub(crate) fn unix_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();

    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns a time in seconds since 1970; 0 before.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map(|d| d.as_secs()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use overlay_proto::Code;

    use super::*;

    #[test]
    fn a_problem_that_stays_keeps_its_beginning() {
        let problems = Problems::default();
        problems.raise(ProblemKey::Node, Code::ControlAway, "first");
        let since = problems.list()[0].since;

        problems.raise(ProblemKey::Node, Code::ControlAway, "second (os error 2)");

        assert_eq!(
            problems.list(),
            [Problem {
                key: ProblemKey::Node,
                code: Code::ControlAway.into(),
                text: "second".into(),
                since
            }]
        );
        problems.clear(&ProblemKey::Node);
        assert!(problems.list().is_empty());
    }

    #[test]
    fn whatever_fails_for_want_of_descriptors_says_what_to_do() {
        let refused = std::io::Error::from_raw_os_error;

        let (lack, other) = (explain(&refused(libc::EMFILE)), explain(&refused(libc::EPERM)));

        assert!(
            lack.starts_with("Too many open files; `ls -l /proc/")
                && lack.contains("raise LimitNOFILE="),
            "{lack}"
        );
        assert_eq!(other, "Operation not permitted");
    }
}
