//! Problems of control itself, reported to every node that watches, so that operators see them in
//! `overlayctl status`.

use std::path::Path;
use std::time::Duration;

use overlay_core::message;
use overlay_daemon::descriptors::Descriptors;
use overlay_daemon::log::Log;
use overlay_daemon::{Condition, disk};
use overlay_proto::v1;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock;

/// How often the conditions are checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The conditions of this process.
#[derive(Debug)]
pub(crate) struct Conditions {
    log: Log,
    descriptors: Descriptors,
    storage: watch::Sender<Option<Condition>>,
    fence: watch::Sender<Option<(Condition, u64)>>,
    problems: watch::Sender<Vec<v1::ControlProblem>>,
}

impl Conditions {
    /// Creates conditions without problems.
    pub(crate) fn new(log: Log) -> Self {
        Self {
            log,
            descriptors: Descriptors::watched(),
            storage: watch::Sender::new(None),
            fence: watch::Sender::new(None),
            problems: watch::Sender::default(),
        }
    }

    /// Checks the conditions periodically until the task is dropped.
    pub(crate) async fn run(&self) {
        loop {
            let present = self.look(clock::now_unix());
            self.problems.send_if_modified(|known| {
                let changed = *known != present;
                *known = present;
                changed
            });
            sleep(CHECK_INTERVAL).await;
        }
    }

    /// Subscribes to the problems.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Vec<v1::ControlProblem>> {
        self.problems.subscribe()
    }

    /// Records whether nodes have still to report after control's history began anew, and until
    /// when they are waited for, in seconds since 1970.
    pub(crate) fn fenced(&self, waiting: Option<(Condition, u64)>) {
        self.fence.send_replace(waiting);
    }

    /// Records that changes cannot be stored.
    pub(crate) fn storage_failed(&self, text: String, now: u64) {
        self.storage.send_modify(|condition| {
            let since = condition.as_ref().map_or(now, |condition| condition.since);
            *condition = Some(Condition { text, since });
        });
    }

    /// Records that a change was stored in `file`. On a disk that is full, small changes may
    /// succeed where larger ones fail.
    pub(crate) fn storage_works(&self, file: &Path) {
        if self.storage.borrow().is_none() || !disk::has_room(file) {
            return;
        }
        if self.storage.send_if_modified(|condition| condition.take().is_some()) {
            tracing::info!("Changes are stored again");
        }
    }

    /// Waits until changes can no longer be stored.
    pub(crate) async fn storage_fails(&self) {
        // The sender is a field of this value, so it outlives the wait.
        let _ = self.storage.subscribe().wait_for(Option::is_some).await;
    }

    /// Lists the current problems.
    fn look(&self, now: u64) -> Vec<v1::ControlProblem> {
        let fence = self.fence.borrow().clone().filter(|(_, until)| now < *until);
        let troubles = [
            ("restored", fence.map(|(condition, _)| condition)),
            ("storage", self.storage.borrow().clone()),
            ("log", self.log.condition()),
            ("descriptors", self.descriptors.condition()),
        ];
        let problem = |code: &str, Condition { text, since }| v1::ControlProblem {
            code: code.to_owned(),
            text: message::line(text),
            since_unix: since,
        };

        troubles
            .into_iter()
            .filter_map(|(code, condition)| Some(problem(code, condition?)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_that_stays_keeps_its_beginning_and_ends_with_a_success() {
        let conditions = Conditions::new(Log::default());
        conditions.storage_failed("full".to_owned(), 10);
        conditions.storage_failed("still full (os error 28)".to_owned(), 20);

        let problems = conditions.look(30);

        let told = (problems[0].code.as_str(), problems[0].text.as_str(), problems[0].since_unix);
        assert_eq!(told, ("storage", "still full", 10));
        conditions.storage_works(Path::new("/"));
        assert_eq!(conditions.look(30), []);
    }

    #[test]
    fn a_fence_is_told_until_it_ends() {
        let conditions = Conditions::new(Log::default());
        let condition = Condition { text: "control was restored".to_owned(), since: 10 };
        conditions.fenced(Some((condition, 20)));

        let told = |now| conditions.look(now).into_iter().map(|it| it.code).collect::<Vec<_>>();

        assert_eq!((told(19), told(20)), (vec!["restored".to_owned()], vec![]));
        conditions.fenced(None);
        assert_eq!(told(19), Vec::<String>::new());
    }
}
