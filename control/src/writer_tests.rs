use std::path::Path;

use super::*;
use crate::registry::CreateNetwork;
use crate::registry::testing::{settings, with_tokens};
use crate::store::embedded::Embedded;
use crate::store::{AuditExtent, ChangeLogEntry, Loaded};
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

    fn commit_audited(
        &mut self,
        expected: Revision,
        commits: &[Commit],
        audit: &AuditWrites,
    ) -> Result<(), StoreError> {
        self.store.commit_audited(expected, commits, audit)?;
        if std::mem::replace(&mut self.is_true, true) {
            return Ok(());
        }

        Err(StoreError::Io {
            path: self.path().to_owned(),
            source: std::io::Error::other("the last sync failed"),
        })
    }

    fn recent(&self) -> Result<Vec<ChangeLogEntry>, StoreError> {
        self.store.recent()
    }

    fn history(&self, since: Revision) -> Result<Option<Vec<ChangeLogEntry>>, StoreError> {
        self.store.history(since)
    }

    fn audit_extent(&self) -> Result<Option<AuditExtent>, StoreError> {
        Store::audit_extent(&self.store)
    }

    fn audit_sums(&self) -> Result<BTreeMap<String, Sum>, StoreError> {
        self.store.audit_sums()
    }

    fn audit(&self, query: AuditQuery) -> Result<AuditPage, StoreError> {
        self.store.audit(query)
    }
}

fn network(name: &str, n: u64) -> Operation {
    Operation::CreateNetwork(CreateNetwork {
        name: name.parse().expect("a name"),
        prefix: None,
        prefix6: None,
        mode: overlay_core::NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: overlay_core::NetworkSettings::default(),
        candidate: overlay_core::NetworkId::from_random(n),
    })
}

#[tokio::test]
async fn a_commit_that_was_reported_as_failed_and_is_made_is_published() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut state = ClusterState::new(settings());
    let records: Vec<_> = with_tokens().records().collect();
    let changed = state.commit(records.clone());
    let first = Commit { to: Revision(1), changed, records, nonce: 1 };
    Embedded::create(directory.path(), &settings(), &first, &AuditWrites::default())
        .expect("a store");
    let store =
        FlakyStore { store: Embedded::open(directory.path()).expect("a store"), is_true: false };
    let (hub, conditions) =
        (Arc::new(Hub::new(state.clone(), [])), Arc::new(Conditions::new(Log::default())));
    let started = Writer::start(Box::new(store), state, Arc::clone(&hub), Arc::clone(&conditions));
    let (writer, thread) = started.expect("a thread");

    let refused = writer
        .ask(Actor::Operator, network("first", 1))
        .await
        .expect_err("it was reported as failed");
    conditions.storage_fails().await;
    writer.jobs.send(Message::Probe).await.expect("the writer goes on");
    let (_, revision) = writer.ask(Actor::Operator, network("second", 2)).await.expect("stored");

    assert_eq!((refused.code(), revision), (Code::Storage, Revision(3)));
    assert_eq!(hub.look(|state| state.view().networks.len()), 2);
    writer.stop().await;
    assert!(thread.join().expect("no panic").is_ok());
}
