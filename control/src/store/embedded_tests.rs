use std::os::unix::fs::PermissionsExt as _;

use overlay_daemon::disk;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::registry::ClusterState;
use crate::registry::testing::{NOW, settings, with_tokens};
use crate::registry::{Actor, CreateNetwork, Operation, apply};

fn commit_of(state: &mut ClusterState, command: Operation) -> Commit {
    let (_, records) = apply(state, Actor::Operator, command, NOW).expect("it is right");
    let changed = state.commit(records.clone());

    Commit { to: state.view().revision, records, changed, nonce: 1 }
}

fn network(n: usize) -> Operation {
    Operation::CreateNetwork(CreateNetwork {
        name: format!("n{n}").parse().expect("a name"),
        prefix: None,
        prefix6: None,
        mode: overlay_core::NetworkMode::L3,
        labels: BTreeMap::new(),
        settings: overlay_core::NetworkSettings::default(),
        candidate: overlay_core::NetworkId::from_random(n as u64 + 1),
    })
}

/// Makes a store with some rows, and returns the state it holds.
fn filled(directory: &Path) -> ClusterState {
    let mut state = ClusterState::new(settings());
    let first: Vec<_> = with_tokens().records().collect();
    let changed = state.commit(first.clone());
    let first = Commit { to: Revision(1), changed, records: first, nonce: 1 };
    Embedded::create(directory, &settings(), &first, &AuditWrites::default()).expect("a store");
    let mut store = Embedded::open(directory).expect("a store");
    let commits: Vec<_> = (0..20).map(|n| commit_of(&mut state, network(n))).collect();
    store.commit(Revision(1), &commits).expect("stored");

    state
}

fn state_of(store: &mut Embedded) -> Result<ClusterState, StoreError> {
    let loaded = store.load()?;

    Ok(ClusterState::from_records(loaded.settings, loaded.revision, loaded.records))
}

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let directory = directory();
    let state = filled(directory.path());

    let mut store = Embedded::open(directory.path()).expect("a store");

    assert_eq!(state_of(&mut store).expect("loaded"), state);
    let past = store.history(Revision(5)).expect("read").expect("it reaches back");
    assert_eq!(
        past.iter().map(|commit| commit.to.0).collect::<Vec<_>>(),
        (6..=21).collect::<Vec<_>>()
    );
    let mode = std::fs::metadata(directory.path().join(FILE)).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_commit_from_elsewhere_is_refused_and_changes_nothing() {
    let directory = directory();
    let mut state = filled(directory.path());
    let before = state.clone();
    let mut store = Embedded::open(directory.path()).expect("a store");
    let commit = commit_of(&mut state, network(99));

    let refused = store.commit(Revision(20), &[commit]);

    assert!(matches!(refused, Err(StoreError::Moved { found: Revision(21), .. })), "{refused:?}");
    assert_eq!(
        state_of(&mut Embedded { path: store.path.clone(), database: reopen(&mut store) })
            .expect("loaded"),
        before
    );
}

fn reopen(store: &mut Embedded) -> Option<Database> {
    store.close();
    Embedded::open_file(&store.path).expect("it opens")
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn a_full_disk_is_named_and_takes_commits_again_when_there_is_room() {
    let Some(small) = disk::testing::SmallDisk::mount(8 << 20) else {
        return eprintln!("SKIPPED: a small disk needs root");
    };
    let mut state = filled(small.path());
    let mut store = Embedded::open(small.path()).expect("a store");
    small.fill().expect("filled");

    let refused = (100..10_000).find_map(|n| {
        let (before, kept) = (state.view().revision, state.clone());
        let commit = commit_of(&mut state, network(n));
        let error = store.commit(before, &[commit]).err()?;
        state = kept;
        Some(error)
    });

    let error = refused.expect("there is no room");
    assert!(matches!(&error, StoreError::Full { disk, .. } if disk == small.path()), "{error:?}");
    assert!(
        matches!(store.commit(state.view().revision, &[]), Err(StoreError::Full { .. })),
        "there still is none"
    );
    small.make_room().expect("room");
    let before = state.view().revision;
    let commit = commit_of(&mut state, network(20_000));
    store.commit(before, &[commit]).expect("there is room");
    drop(store);
    let mut store = Embedded::open(small.path()).expect("a store");
    assert_eq!(state_of(&mut store).expect("loaded"), state);
}

#[test]
fn history_is_forgotten_in_time() {
    let directory = directory();
    let mut state = filled(directory.path());
    let mut store = Embedded::open(directory.path()).expect("a store");
    let begin = state.view().revision;
    let commits: Vec<_> = (0..HISTORY)
        .map(|_| Commit {
            to: {
                state.commit([]);
                state.view().revision
            },
            records: Vec::new(),
            changed: Vec::new(),
            nonce: 1,
        })
        .collect();

    store.commit(begin, &commits).expect("stored");

    assert!(store.history(begin).expect("read").is_some());
    assert!(store.history(Revision(begin.0 - 1)).expect("read").is_none());
}

#[test]
fn a_store_in_use_a_missing_an_empty_and_a_foreign_file_are_told_apart() {
    let directory = directory();
    let path = directory.path().join(FILE);
    assert!(matches!(Embedded::open(directory.path()), Err(StoreError::Missing { .. })));
    filled(directory.path());
    let held = Embedded::open(directory.path()).expect("a store");
    assert!(matches!(Embedded::open(directory.path()), Err(StoreError::Busy { .. })));
    drop(held);
    let refused = Embedded::create(
        directory.path(),
        &settings(),
        &Commit { to: Revision(1), records: Vec::new(), changed: Vec::new(), nonce: 1 },
        &AuditWrites::default(),
    );
    assert!(matches!(refused, Err(StoreError::Exists { .. })));

    for content in [&b""[..], b"junk", &[0; 8_192], &[0xFF; 100_000]] {
        std::fs::write(&path, content).expect("written");
        let error = Embedded::open(directory.path()).err().expect("it is no store");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(
            error.to_string().contains("control.redb") && !error.to_string().contains('\n'),
            "{error}"
        );
    }
}

#[test]
fn a_newer_format_is_refused_with_both_numbers() {
    let directory = directory();
    filled(directory.path());
    let store = Embedded::open(directory.path()).expect("a store");
    let transaction = store.database().expect("open").begin_write().expect("a transaction");
    transaction.open_table(META).expect("a table").insert(META_FORMAT, &b"2"[..]).expect("written");
    transaction.commit().expect("committed");
    drop(store);

    let refused = Embedded::open(directory.path()).expect("it opens").load();

    assert!(matches!(refused, Err(StoreError::Version { found: 2, known: 1, .. })), "{refused:?}");
}

/// Opens a copy of the file after `damage`; what is read must be right or refused.
fn check_damage(
    whole: &[u8],
    state: &ClusterState,
    damage: impl FnOnce(&mut Vec<u8>),
    what: &str,
) -> bool {
    let directory = directory();
    let mut bytes = whole.to_vec();
    damage(&mut bytes);
    std::fs::write(directory.path().join(FILE), bytes).expect("written");
    let read = Embedded::open(directory.path()).and_then(|mut store| state_of(&mut store));
    match read {
        Ok(read) => {
            assert_eq!(&read, state, "{what} was read as something else");
            true
        }
        Err(error) => {
            assert!(
                !error.to_string().contains('\n') && error.to_string().contains(FILE),
                "{error}"
            );
            false
        }
    }
}

#[test]
fn a_truncated_or_flipped_file_reads_as_it_was_or_is_refused() {
    let source = directory();
    let state = filled(source.path());
    let whole = std::fs::read(source.path().join(FILE)).expect("a file");
    let mut random = rand::rngs::StdRng::seed_from_u64(1);

    // OVERLAY_SWEEP asks for more: 10,000 takes some minutes.
    let rounds: usize =
        std::env::var("OVERLAY_SWEEP").ok().and_then(|n| n.parse().ok()).unwrap_or(100);
    let cut = (0..rounds)
        .filter(|i| check_damage(&whole, &state, |b| b.truncate(i * whole.len() / rounds), "a cut"))
        .count();
    let flipped = (0..rounds)
        .filter(|_| {
            let (at, bit) = (random.random_range(0..whole.len()), random.random_range(0..8u8));
            check_damage(&whole, &state, |b| b[at] ^= 1 << bit, &format!("bit {bit} of byte {at}"))
        })
        .count();

    assert_eq!(cut, 0, "a truncated file was taken for whole");
    assert!(flipped < rounds, "no flip was ever noticed");
}
