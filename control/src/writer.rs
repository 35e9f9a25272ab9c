//! The only writer: a thread that takes the commands waiting, decides them in order, stores the
//! results with one fsync, publishes them, and only then answers.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use overlay_core::{NodeId, Revision};
use overlay_proto::audit::{AuditRecord, Who};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::sleep;

use crate::audit::{self, AuditPace, CallOrigin, Sum};
use crate::clock;
use crate::conditions::Conditions;
use crate::registry::{self, Actor, ClusterState, Operation, Record, Reply, fence_condition};
use crate::store::{AuditPage, AuditQuery, AuditWrites, Commit, Store, StoreError};
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
    Read(AuditQuery, oneshot::Sender<Result<AuditPage, WriteError>>),
    CloseSums,
    Probe,
    Stop,
}

struct Job {
    work: Work,
    origin: CallOrigin,
    reply: oneshot::Sender<Answer>,
}

enum Work {
    Command(Actor, Operation),
    Note(Note),
}

/// Something that changes no row and is worth an audit record.
#[derive(Debug)]
pub(crate) struct Note {
    /// What happened, in one word.
    pub(crate) what: &'static str,
    /// The node that did it; a stranger when missing.
    pub(crate) by: Option<NodeId>,
    /// Where it came from.
    pub(crate) origin: CallOrigin,
    /// What else is to be said.
    pub(crate) details: Vec<(&'static str, Value)>,
}

/// A handle to the writer.
#[derive(Clone)]
pub(crate) struct Writer {
    jobs: mpsc::Sender<Message>,
    recorded: watch::Receiver<u64>,
}

impl Writer {
    /// Starts the writer's thread; its result says why it ended.
    ///
    /// # Errors
    ///
    /// If no thread can be started, or the store cannot be read.
    pub(crate) fn start(
        store: Box<dyn Store>,
        state: ClusterState,
        hub: Arc<Hub>,
        conditions: Arc<Conditions>,
    ) -> std::io::Result<(Self, thread::JoinHandle<Result<(), StoreError>>)> {
        conditions.fenced(fence_condition(&state));
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (records, recorded) = watch::channel(0);
        let pace = AuditPace::with_sums(store.audit_sums().map_err(std::io::Error::other)?);
        let work = WriterThread { store, state, hub, conditions, pace, records };
        let thread =
            thread::Builder::new().name("writer".to_owned()).spawn(move || work.run(queue))?;

        Ok((Self { jobs, recorded }, thread))
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
        self.submit(Work::Command(actor, command), CallOrigin::current()).await
    }

    /// Writes something into the audit log; when this succeeds, it is on disk.
    ///
    /// # Errors
    ///
    /// [`WriteError`]; nothing is written then.
    pub(crate) async fn note(&self, note: Note) -> Result<(), WriteError> {
        let origin = note.origin;

        self.submit(Work::Note(note), origin).await.map(drop)
    }

    async fn submit(&self, work: Work, origin: CallOrigin) -> Answer {
        let (reply, answer) = oneshot::channel();
        self.jobs
            .send(Message::Job(Box::new(Job { work, origin, reply })))
            .await
            .map_err(|_| WriteError::Stopped)?;

        answer.await.map_err(|_| WriteError::Stopped)?
    }

    /// Reads a page of the audit log.
    ///
    /// # Errors
    ///
    /// [`WriteError`], if the store cannot be read.
    pub(crate) async fn audit(&self, query: AuditQuery) -> Result<AuditPage, WriteError> {
        let (reply, page) = oneshot::channel();
        self.jobs.send(Message::Read(query, reply)).await.map_err(|_| WriteError::Stopped)?;

        page.await.map_err(|_| WriteError::Stopped)?
    }

    /// Returns what changes whenever something was written into the audit log.
    pub(crate) fn recorded(&self) -> watch::Receiver<u64> {
        self.recorded.clone()
    }

    /// Has those sums of the audit log become records that have gone on long enough.
    pub(crate) async fn close_sums(&self) {
        // If the writer has ended, the sums are stored.
        let _ = self.jobs.send(Message::CloseSums).await;
    }
}

struct WriterThread {
    store: Box<dyn Store>,
    state: ClusterState,
    hub: Arc<Hub>,
    conditions: Arc<Conditions>,
    pace: AuditPace,
    records: watch::Sender<u64>,
}

/// What a batch comes to, until it is stored.
struct Batch {
    now: u64,
    before: Revision,
    commits: Vec<Commit>,
    records: Vec<AuditRecord>,
    sums: BTreeMap<String, Sum>,
}

impl WriterThread {
    fn run(mut self, mut queue: mpsc::Receiver<Message>) -> Result<(), StoreError> {
        while let Some(first) = queue.blocking_recv() {
            let (mut batch, mut stop, mut close) = (Vec::new(), false, false);
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Job(job) => batch.push(*job),
                    Message::Read(query, reply) => {
                        // A caller that no longer waits will ask again.
                        let _ = reply.send(self.read(query));
                    }
                    Message::CloseSums => close = true,
                    Message::Probe => self.probe()?,
                    Message::Stop => stop = true,
                }
                next = if batch.len() < BATCH && !stop { queue.try_recv().ok() } else { None };
            }
            self.perform(batch, close)?;
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

    fn read(&self, query: AuditQuery) -> Result<AuditPage, WriteError> {
        self.store.audit(query).map_err(|error| WriteError::Store(Arc::new(error)))
    }

    fn perform(&mut self, jobs: Vec<Job>, close_sums: bool) -> Result<(), StoreError> {
        let before = self.state.view().revision;
        let mut batch = Batch {
            now: clock::now_unix(),
            before,
            commits: Vec::new(),
            records: Vec::new(),
            sums: self.pace.sums(),
        };
        if close_sums {
            batch.records = self.pace.close(before, batch.now);
        }
        let mut answers = Vec::new();
        for Job { work, origin, reply } in jobs {
            let answer = match work {
                Work::Command(actor, command) => self.decide(actor, command, &origin, &mut batch),
                Work::Note(note) => self.take_note(note, &mut batch),
            };
            answers.push((reply, answer));
        }

        self.store(batch, answers)
    }

    fn store(
        &mut self,
        batch: Batch,
        answers: Vec<(oneshot::Sender<Answer>, Answer)>,
    ) -> Result<(), StoreError> {
        let Batch { before, commits, records, sums, .. } = batch;
        let audit = AuditWrites { records, sums: self.pace.changed() };
        let is_nothing = commits.is_empty() && audit.is_empty();
        let stored =
            if is_nothing { Ok(()) } else { self.store.commit_audited(before, &commits, &audit) };
        match stored {
            Ok(()) => {
                if !is_nothing {
                    self.conditions.storage_works(self.store.path());
                    self.records.send_modify(|count| *count += 1);
                }
                let is_fence = |record: &Record| record.is_of_fence();
                let tells = commits.iter().flat_map(|commit| &commit.records).any(is_fence);
                self.hub.publish(commits);
                if tells {
                    self.conditions.fenced(fence_condition(&self.state));
                }
                for (reply, answer) in answers {
                    // A caller that no longer waits will ask again.
                    let _ = reply.send(answer);
                }
                Ok(())
            }
            Err(error) => {
                self.pace.restore(sums);
                self.recover(error, answers)
            }
        }
    }

    fn decide(
        &mut self,
        actor: Actor,
        command: Operation,
        origin: &CallOrigin,
        batch: &mut Batch,
    ) -> Answer {
        let (is, who) = (
            audit::AuditedCommand::of(&command),
            audit::entry::who(&self.state, actor, &command, origin),
        );
        // A panic while deciding changes nothing, and must not affect other commands.
        let decided = catch_unwind(AssertUnwindSafe(|| {
            let (outcome, records) = registry::apply(&self.state, actor, command, batch.now)?;
            let record = (!records.is_empty()).then(|| {
                audit::entry::of_command(&self.state, who, is, &records, origin, batch.now)
            });
            Ok::<_, registry::RegistryError>((outcome, records, record))
        }));
        let (outcome, records, record) = decided.map_err(|_| WriteError::Panicked)??;
        if let Some(record) = record {
            let changed = self.state.commit(records.clone());
            // Without a mark, the revision is only not recognised.
            let nonce = crate::random::bits().unwrap_or_default();
            let to = self.state.view().revision;
            batch.commits.push(Commit { to, records, changed, nonce });
            batch.records.extend(self.pace.admit(record, is.is_routine()));
        }

        Ok((outcome, self.state.view().revision))
    }

    fn take_note(&mut self, note: Note, batch: &mut Batch) -> Answer {
        let Note { what, by, origin, details } = note;
        let who =
            by.map_or(Who::Stranger, |node| audit::entry::node_of(&self.state, node, &origin));
        let revision = self.state.view().revision;
        let record = audit::entry::note(what, who, revision, batch.now, details);
        let record = AuditRecord { from: origin.address, ..record };
        batch.records.extend(self.pace.admit(record, true));

        Ok((Reply::Done, revision))
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
        // If they cannot be read, what was counted since is counted again.
        if let Ok(sums) = self.store.audit_sums() {
            self.pace.restore(sums);
        }
        self.conditions.storage_works(self.store.path());

        Ok(())
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
