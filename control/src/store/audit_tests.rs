use std::path::Path;

use overlay_proto::audit::{ChainError, Verifier, Who};
use proptest::prelude::*;

use super::*;
use crate::audit::entry;
use crate::registry::ClusterState;
use crate::registry::testing::{NOW, settings, with_tokens};
use crate::store::{Commit, Store};

const FIRST: Revision = Revision(1);

fn record(what: &str) -> AuditRecord {
    entry::note(what, Who::Operator, FIRST, NOW, [])
}

/// Makes a store without an audit log.
fn store(directory: &Path) -> Embedded {
    let mut state = ClusterState::new(settings());
    let records: Vec<_> = with_tokens().records().collect();
    let changed = state.commit(records.clone());
    let first = Commit { to: FIRST, changed, records, nonce: 1 };
    Embedded::create(directory, &settings(), &first, &AuditWrites::default()).expect("a store");

    Embedded::open(directory).expect("a store")
}

fn append(store: &mut Embedded, count: usize) {
    let records: Vec<_> = (0..count).map(|n| record(&format!("command-{n}"))).collect();
    store.commit_audited(FIRST, &[], &records.into()).expect("stored");
}

#[expect(clippy::unwrap_in_result, reason = "the errors are what the tests are about")]
fn verify(store: &Embedded) -> Result<u64, ChainError> {
    let mut page = Store::audit(store, AuditQuery::After(0)).expect("read");
    let mut verifier = Verifier::new(page.extent.checkpoint, None)?;
    while !page.records.is_empty() {
        for (_, bytes) in &page.records {
            verifier.accept(bytes)?;
        }
        page = Store::audit(store, AuditQuery::After(verifier.at().number)).expect("read");
    }
    verifier.finish(page.extent.head)?;

    Ok(page.extent.head.number - page.extent.checkpoint.number)
}

/// Changes the records behind the store's back.
fn tamper(store: &Embedded, change: impl FnOnce(&mut redb::Table<'_, u64, &'static [u8]>)) {
    let transaction = store.database().expect("open").begin_write().expect("a transaction");
    change(&mut transaction.open_table(AUDIT).expect("a table"));
    transaction.commit().expect("committed");
}

fn bytes(table: &redb::Table<'_, u64, &'static [u8]>, number: u64) -> Vec<u8> {
    table.get(number).expect("read").expect("it is there").value().to_vec()
}

#[derive(Debug, Clone)]
enum Tampering {
    Alter { number: u64, at: usize, bit: u8 },
    Remove(u64),
    Swap(u64, u64),
    Renumber(u64, u64),
}

fn tampering(count: u64) -> impl Strategy<Value = Tampering> {
    let number = move || 1..=count;

    prop_oneof![
        (number(), any::<prop::sample::Index>(), 0..8u8)
            .prop_map(|(number, at, bit)| Tampering::Alter { number, at: at.index(150), bit }),
        number().prop_map(Tampering::Remove),
        (number(), number())
            .prop_filter("two", |(a, b)| a != b)
            .prop_map(|(a, b)| Tampering::Swap(a, b)),
        (number(), number())
            .prop_filter("two", |(a, b)| a != b)
            .prop_map(|(a, b)| Tampering::Renumber(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whatever_is_altered_removed_or_moved_is_found(tampering in tampering(20)) {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = store(directory.path());
        append(&mut store, 20);
        prop_assert_eq!(verify(&store), Ok(20));
        let (mut lowest, mut named) = (u64::MAX, 0);

        tamper(&store, |table| match tampering {
            Tampering::Alter { number, at, bit } => {
                let mut bytes = bytes(table, number);
                let at = at % bytes.len();
                bytes[at] ^= 1 << bit;
                table.insert(number, &*bytes).expect("written");
                (lowest, named) = (number, number);
            }
            Tampering::Remove(number) => {
                table.remove(number).expect("removed");
                (lowest, named) = (number, number);
            }
            Tampering::Swap(a, b) => {
                let (one, other) = (bytes(table, a), bytes(table, b));
                table.insert(a, &*other).expect("written");
                table.insert(b, &*one).expect("written");
                (lowest, named) = (a.min(b), a.min(b));
            }
            Tampering::Renumber(from, to) => {
                let moved = bytes(table, from);
                table.insert(to, &*moved).expect("written");
                (lowest, named) = (to, to);
            }
        });

        let found = verify(&store).expect_err("it is not what was written");
        let told = match found {
            ChainError::Unreadable(n)
            | ChainError::Altered(n)
            | ChainError::AlteredLast(n)
            | ChainError::Cut(n)
            | ChainError::Beyond(n)
            | ChainError::OutOfPlace { expected: n, .. }
            | ChainError::Rewritten(n)
            | ChainError::Shorter { noted: n, .. } => n,
        };
        // What a record says of the one before it may be what was altered.
        prop_assert!(told == named || told + 1 == lowest, "{:?} after {:?}", found, tampering);
    }
}

#[test]
fn the_log_goes_on_where_it_was_after_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut first = store(directory.path());
    append(&mut first, 3);
    drop(first);

    let mut again = Embedded::open(directory.path()).expect("a store");
    append(&mut again, 2);

    assert_eq!(verify(&again), Ok(5));
}

#[test]
fn the_oldest_records_go_when_there_are_too_many_and_the_rest_verifies() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = store(directory.path());
    let within = |bounds: Bounds, count: usize| {
        let records: Vec<_> = (0..count).map(|n| record(&format!("command-{n}"))).collect();
        let transaction = store.database().expect("open").begin_write().expect("a transaction");
        store.append_within(&transaction, &records.into(), FIRST, bounds).expect("written");
        transaction.commit().expect("committed");
    };

    within(Bounds { records: 10, bytes: 1 << 20 }, 35);
    assert_eq!(verify(&store), Ok(10));
    within(Bounds { records: 10, bytes: 1 << 20 }, 3);
    let extent = Store::audit_extent(&store).expect("read").expect("a log");
    assert_eq!((extent.head.number, extent.checkpoint.number), (38, 28));
    within(Bounds { records: 1_000, bytes: 1_000 }, 100);

    let extent = Store::audit_extent(&store).expect("read").expect("a log");
    let kept = verify(&store).expect("whole");
    assert!(extent.bytes <= 1_000 && kept < 10, "{kept}: {extent:?}");
    let read = Store::audit(&store, AuditQuery::After(0)).expect("read").records;
    let bytes: usize = read.iter().map(|(_, bytes)| bytes.len()).sum();
    assert_eq!(bytes as u64, extent.bytes, "the count is right");
}

#[test]
fn pages_are_bounded_and_read_in_both_directions() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = store(directory.path());
    append(&mut store, 2 * PAGE + 1);
    let read = |query| {
        let page = Store::audit(&store, query).expect("read");
        page.records.iter().map(|(number, _)| *number).collect::<Vec<_>>()
    };
    let last = 2 * PAGE as u64 + 1;

    assert_eq!(read(AuditQuery::After(0)), (1..=PAGE as u64).collect::<Vec<_>>());
    assert_eq!(read(AuditQuery::After(last - 1)), [last]);
    assert!(read(AuditQuery::After(u64::MAX)).is_empty());
    assert_eq!(read(AuditQuery::Before(u64::MAX))[..2], [last, last - 1]);
    assert_eq!(read(AuditQuery::Before(3)), [2, 1]);
    assert_eq!(read(AuditQuery::Only(7)), [7]);
    assert!(read(AuditQuery::Only(0)).is_empty());
}

#[test]
fn a_store_of_a_version_without_a_log_begins_one_and_its_gaps_are_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = store(directory.path());
    let opening = |store: &Embedded, revision| {
        entry::opening(Store::audit_extent(store).expect("read"), revision, NOW)
    };
    assert_eq!(Store::audit(&store, AuditQuery::After(0)).expect("read").records, []);

    let begin = opening(&store, FIRST).expect("it is needed");
    assert_eq!(begin.what, "begin");
    assert!(begin.subject().contains("without an audit log"), "{}", begin.subject());
    store.commit_audited(FIRST, &[], &vec![begin].into()).expect("stored");
    assert_eq!(opening(&store, FIRST), None);

    let commit = Commit { to: Revision(2), records: Vec::new(), changed: Vec::new(), nonce: 2 };
    store.commit(FIRST, &[commit]).expect("as a version without a log does");
    let gap = opening(&store, Revision(2)).expect("it is needed");
    assert_eq!((gap.what.as_str(), &gap.details["revisions"]), ("gap", &serde_json::json!([1, 2])));
}

#[test]
fn sums_are_stored_replaced_and_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = store(directory.path());
    let mut pace = crate::audit::AuditPace::default();
    let who = Who::Token { id: "1".to_owned() };
    while pace.admit(entry::note("join", who.clone(), FIRST, NOW, []), false).is_some() {}
    let writes = AuditWrites { records: Vec::new(), sums: pace.changed() };
    store.commit_audited(FIRST, &[], &writes).expect("stored");
    assert_eq!(store.audit_sums().expect("read"), pace.sums());

    let closed = pace.close(FIRST, NOW + 3_600);
    let writes = AuditWrites { records: closed, sums: pace.changed() };
    store.commit_audited(FIRST, &[], &writes).expect("stored");

    assert!(store.audit_sums().expect("read").is_empty());
    assert_eq!(verify(&store), Ok(1));
}

/// Returns how long `rounds` commits of `batch` changes each take, with records or without.
fn commits(rounds: u64, batch: u64, is_recorded: bool) -> std::time::Duration {
    use crate::audit::{AuditedCommand, CallOrigin};
    use crate::registry::{Actor, apply, testing::join_with};

    let directory = tempfile::tempdir().expect("a directory");
    let mut store = store(directory.path());
    let before = with_tokens();
    let (_, records) = apply(&before, Actor::Operator, join_with(1, 1, "a"), NOW).expect("a node");
    let begun = std::time::Instant::now();
    for round in 0..rounds {
        let (mut writes, mut commits) = (AuditWrites::default(), Vec::new());
        for n in 1..=batch {
            let to = Revision(1 + round * batch + n);
            if is_recorded {
                let (who, origin) = (Who::Token { id: "1".to_owned() }, CallOrigin::default());
                let record =
                    entry::of_command(&before, who, AuditedCommand::Join, &records, &origin, NOW);
                writes.records.push(record);
            }
            commits.push(Commit { to, records: records.clone(), changed: Vec::new(), nonce: 1 });
        }
        let expected = Revision(1 + round * batch);
        store.commit_audited(expected, &commits, &writes).expect("stored");
    }

    begun.elapsed()
}

#[test]
#[ignore = "figures, for who asks with --no-capture"]
#[expect(clippy::print_stderr, reason = "figures")]
fn what_records_cost() {
    for (rounds, batch) in [(300, 1), (40, 256)] {
        let (mut without, mut with) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            without.push(commits(rounds, batch, false));
            with.push(commits(rounds, batch, true));
        }
        without.sort_unstable();
        with.sort_unstable();
        let each = |times: &[std::time::Duration]| times[2] / u32::try_from(rounds).expect("few");
        let (without, with) = (each(&without), each(&with));
        eprintln!("{batch} changes a commit: {without:?} without records, {with:?} with them");
    }
}
