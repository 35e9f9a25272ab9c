//! The only writer: a thread that takes the commands waiting, decides them in order, stores the
//! results with one fsync, publishes them, and only then answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use overlay_core::Revision;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use crate::clock;
use crate::conditions::Conditions;
use crate::registry::{self, Actor, ClusterState, Operation, Reply};
use crate::store::{Commit, Store, StoreError};
use crate::watch::Hub;
use crate::write_error::WriteError;

/// Queued commands: each connection has a few at most; at 1 KiB each this is 1 MiB.
const QUEUE: usize = 1_024;
/// Commands that share an fsync: enough that it costs less than deciding them.
const BATCH: usize = 256;
/// How often a store that failed is tried again.
const PROBE: Duration = Duration::from_secs(1);

type Answer = Result<(Reply, Revision), WriteError>;

enum Message {
    Job(Box<Job>),
    Probe,
    Stop,
}

struct Job {
    actor: Actor,
    command: Operation,
    reply: oneshot::Sender<Answer>,
}

/// A handle to the writer.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Message>,
}

impl Writer {
    /// Starts the writer's thread; its result says why it ended.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub(crate) fn start(
        store: Box<dyn Store>,
        state: ClusterState,
        hub: Arc<Hub>,
        conditions: Arc<Conditions>,
    ) -> std::io::Result<(Self, thread::JoinHandle<Result<(), StoreError>>)> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let work = WriterThread { store, state, hub, conditions };
        let thread =
            thread::Builder::new().name("writer".to_owned()).spawn(move || work.run(queue))?;

        Ok((Self { jobs }, thread))
    }

    /// Completes when the writer has ended for whatever reason.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let jobs = self.jobs.clone();

        async move { jobs.closed().await }
    }

    /// Tries the store repeatedly while changes cannot be stored, so that operators learn when it
    /// works again.
    pub(crate) async fn probe(self, conditions: Arc<Conditions>) {
        loop {
            conditions.storage_fails().await;
            sleep(PROBE).await;
            if self.jobs.send(Message::Probe).await.is_err() {
                return;
            }
        }
    }

    /// Ends the writer once it has handled the commands before.
    pub(crate) async fn stop(&self) {
        // If it has ended already, there is nothing to stop.
        let _ = self.jobs.send(Message::Stop).await;
    }

    /// Submits a command; when this succeeds, its result is on disk.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing has changed then.
    pub(crate) async fn ask(&self, actor: Actor, command: Operation) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Message::Job(Box::new(Job { actor, command, reply })))
            .await
            .map_err(|_| WriteError::Stopped)?;

        answer.await.map_err(|_| WriteError::Stopped)?
    }
}

struct WriterThread {
    store: Box<dyn Store>,
    state: ClusterState,
    hub: Arc<Hub>,
    conditions: Arc<Conditions>,
}

impl WriterThread {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) -> Result<(), StoreError> {
        while let Some(first) = queue.blocking_recv() {
            let (mut batch, mut stop) = (Vec::new(), false);
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => batch.push(*job),
                    Message::Probe => self.probe()?,
                    Message::Stop => stop = true,
                }
                next = if batch.len() < BATCH && !stop { queue.try_recv().ok() } else { None };
            }
            self.perform(batch)?;
            if stop {
                break;
            }
        }

        Ok(())
    }

    fn probe(&mut self) -> Result<(), StoreError> {
        match self.store.commit(self.state.view().revision, &[]) {
            Ok(()) => {
                self.conditions.storage_works(self.store.path());
                Ok(())
            }
            Err(error) => self.recover(error, Vec::new()),
        }
    }

    fn perform(&mut self, batch: Vec<Job>) -> Result<(), StoreError> {
        let (now, before) = (clock::now_unix(), self.state.view().revision);
        let mut commits = Vec::new();
        let mut answers = Vec::new();
        for job in batch {
            let answer = self.decide(job.actor, job.command, now, &mut commits);
            answers.push((job.reply, answer));
        }
        let stored = if commits.is_empty() { Ok(()) } else { self.store.commit(before, &commits) };
        match stored {
            Ok(()) => {
                if !commits.is_empty() {
                    self.conditions.storage_works(self.store.path());
                }
                self.hub.publish(commits);
                for (reply, answer) in answers {
                    // A caller that no longer waits will ask again.
                    let _ = reply.send(answer);
                }
                Ok(())
            }
            Err(error) => self.recover(error, answers),
        }
    }

    fn decide(
        &mut self,
        actor: Actor,
        command: Operation,
        now: u64,
        commits: &mut Vec<Commit>,
    ) -> Answer {
        // A panic while deciding changes nothing, and must not affect other commands.
        let decided =
            catch_unwind(AssertUnwindSafe(|| registry::apply(&self.state, actor, command, now)));
        let (outcome, records) = decided.map_err(|_| WriteError::Panicked)??;
        if !records.is_empty() {
            let changed = self.state.commit(records.clone());
            commits.push(Commit { to: self.state.view().revision, records, changed });
        }

        Ok((outcome, self.state.view().revision))
    }

    /// Handles a batch of which nothing was stored: every caller is told so, and the state is reset
    /// to what is published.
    fn recover(
        &mut self,
        error: StoreError,
        answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    ) -> Result<(), StoreError> {
        self.conditions.storage_failed(error.to_string(), clock::now_unix());
        if !answers.is_empty() {
            tracing::error!(%error, "Failed to store changes");
        }
        let error = Arc::new(error);
        for (reply, answer) in answers {
            let refused = answer.and_then(|_| Err(WriteError::Store(Arc::clone(&error))));
            let _ = reply.send(refused);
        }
        self.state = self.hub.look(ClusterState::clone);
        match &*error {
            // A write that was reported as failed did happen after all.
            &StoreError::Moved { found, expected, .. } if found > expected => {
                self.catch_up(expected)
            }
            &StoreError::Moved { ref path, found, expected } => {
                Err(StoreError::Moved { path: path.clone(), found, expected })
            }
            StoreError::Missing { .. }
            | StoreError::Exists { .. }
            | StoreError::Busy { .. }
            | StoreError::Damaged { .. }
            | StoreError::Version { .. }
            | StoreError::Full { .. }
            | StoreError::Io { .. }
            | StoreError::Unfinished { .. } => Ok(()),
        }
    }

    /// Publishes what is stored but was not published. If it cannot be read either, the next
    /// attempt ends up here again.
    fn catch_up(&mut self, since: Revision) -> Result<(), StoreError> {
        let read = self.store.load().and_then(|loaded| Ok((loaded, self.store.history(since)?)));
        let (loaded, commits) = match read {
            Ok((loaded, Some(commits))) => (loaded, commits),
            Ok((_, None)) => return Ok(()),
            Err(error) => {
                tracing::error!(%error, "Failed to read what was stored");
                return Ok(());
            }
        };
        tracing::warn!(revision = %loaded.revision, "Changes that were refused for a failed write are stored after all");
        self.state = ClusterState::from_records(loaded.settings, loaded.revision, loaded.records);
        self.hub.adopt(self.state.clone(), commits);
        self.conditions.storage_works(self.store.path());

        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::registry::CreateNetwork;
    use crate::registry::testing::{settings, with_tokens};
    use crate::store::embedded::Embedded;
    use crate::store::{ChangeLogEntry, Loaded};
    use overlay_daemon::log::Log;
    use overlay_proto::Code;

    /// Reports the first commit as failed although it was stored.
    struct FlakyStore {
        store: Embedded,
        is_true: bool,
    }

    impl Store for FlakyStore {
        fn path(&self) -> &Path {
            self.store.path()
        }

        fn load(&mut self) -> Result<Loaded, StoreError> {
            self.store.load()
        }

        fn commit(&mut self, expected: Revision, commits: &[Commit]) -> Result<(), StoreError> {
            self.store.commit(expected, commits)?;
            if std::mem::replace(&mut self.is_true, true) {
                return Ok(());
            }

            Err(StoreError::Io {
                path: self.path().to_owned(),
                source: std::io::Error::other("the last sync failed"),
            })
        }

        fn history(&self, since: Revision) -> Result<Option<Vec<ChangeLogEntry>>, StoreError> {
            self.store.history(since)
        }
    }

    fn network(name: &str, n: u64) -> Operation {
        Operation::CreateNetwork(CreateNetwork {
            name: name.parse().expect("a name"),
            prefix: None,
            prefix6: None,
            mode: overlay_core::NetworkMode::L3,
            labels: std::collections::BTreeMap::new(),
            settings: overlay_core::NetworkSettings::default(),
            candidate: overlay_core::NetworkId::from_random(n),
        })
    }

    #[tokio::test]
    async fn a_commit_that_was_reported_as_failed_and_is_made_is_published() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut state = ClusterState::new(settings());
        let records: Vec<_> = with_tokens().records().collect();
        let first = Commit { to: Revision(1), changed: state.commit(records.clone()), records };
        Embedded::create(directory.path(), &settings(), &first).expect("a store");
        let store = FlakyStore {
            store: Embedded::open(directory.path()).expect("a store"),
            is_true: false,
        };
        let (hub, conditions) =
            (Arc::new(Hub::new(state.clone(), [])), Arc::new(Conditions::new(Log::default())));
        let started =
            Writer::start(Box::new(store), state, Arc::clone(&hub), Arc::clone(&conditions));
        let (writer, thread) = started.expect("a thread");

        let refused = writer
            .ask(Actor::Operator, network("first", 1))
            .await
            .expect_err("it was reported as failed");
        conditions.storage_fails().await;
        writer.jobs.send(Message::Probe).await.expect("the writer goes on");
        let (_, revision) =
            writer.ask(Actor::Operator, network("second", 2)).await.expect("stored");

        assert_eq!((refused.code(), revision), (Code::Storage, Revision(3)));
        assert_eq!(hub.look(|state| state.view().networks.len()), 2);
        writer.stop().await;
        assert!(thread.join().expect("no panic").is_ok());
    }
}
