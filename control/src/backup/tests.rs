use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::*;
use crate::config::InitConfig;
use crate::init::init;
use crate::store::Store as _;
use crate::store::embedded::Embedded;

/// Makes a cluster that does not run, and a backup of it.
fn backed_up() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let (state, file) = (folder.path().join("control"), folder.path().join("backup"));
    let listen = "127.0.0.1:1".parse().expect("an address");
    init(InitConfig { listen, ..InitConfig::new(&state) }).expect("a cluster");
    back_up(&state, &file, false).expect("a backup");

    (folder, state, file)
}

#[test]
fn a_backup_is_its_owners_alone_and_replaces_nothing_unasked() {
    let (folder, state, file) = backed_up();

    let refused = back_up(&state, &file, false).expect_err("it is there");
    let mode = std::fs::metadata(&file).expect("a file").permissions().mode() & 0o777;
    back_up(&state, &file, true).expect("asked for");

    assert!(refused.to_string().contains("use --force to replace it"), "{refused}");
    assert_eq!(mode, 0o600);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("a folder").flatten().collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_half_or_damaged_backup_is_refused_with_the_reason() {
    let (folder, _, file) = backed_up();
    let whole = std::fs::read(&file).expect("a file");
    let at = folder.path().join("damaged");
    let restored = |bytes: &[u8]| {
        std::fs::write(&at, bytes).expect("written");
        let state = folder.path().join("restored");
        let outcome = restore(&RestoreConfig::new(&at, &state));
        assert!(!state.exists() || outcome.is_ok(), "a refused one leaves nothing");
        outcome.map_err(|error| error.to_string())
    };

    for end in (0..whole.len()).step_by(37) {
        let refused = restored(&whole[..end]).expect_err("it is cut");
        assert!(refused.contains("is no backup that can be restored"), "{refused}");
    }
    for at in (0..whole.len()).step_by(29) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        restored(&bytes).expect_err("a bit of it is another");
    }
    let later = String::from_utf8_lossy(&whole).replacen("\"version\":1", "\"version\":2", 1);
    let refused = restored(later.as_bytes()).expect_err("it is of a later version");
    assert!(refused.contains("a backup of format 2, this version knows 1"), "{refused}");
    restored(&whole).expect("it is whole");
}

#[test]
fn a_restore_begins_a_history_and_fences_the_tokens() {
    let (folder, state, file) = backed_up();
    let load = |at: &Path| {
        let loaded = Embedded::open(at).and_then(|mut store| store.load()).expect("a store");
        ClusterState::from_records(loaded.settings, loaded.revision, loaded.records)
    };
    let before = load(&state);
    let occupied = restore(&RestoreConfig::new(&file, &state)).expect_err("there is one");
    let running = Embedded::open(&state).expect("a store");
    let in_use = restore(&RestoreConfig { keep_old: true, ..RestoreConfig::new(&file, &state) });
    drop(running);

    let config = RestoreConfig { keep_old: true, ..RestoreConfig::new(&file, &state) };
    let made = restore(&config).expect("restored");

    assert!(occupied.to_string().contains("--keep-old"), "{occupied}");
    let in_use = in_use.expect_err("it is in use").to_string();
    assert!(in_use.contains("stop it first"), "{in_use}");
    let after = load(&state);
    assert_ne!(after.history().map(|it| it.lineage), before.history().map(|it| it.lineage));
    assert_eq!(after.view().revision, before.view().revision.next());
    assert!(after.tokens().values().all(|token| token.fenced) && made.tokens == 1);
    assert!(made.old.is_some_and(|old| old.starts_with(folder.path()) && load(&old) == before));
    assert_eq!(made.lost, Some(vec!["0 changes were made after the backup".to_owned()]));
    let key = std::fs::metadata(state.join("ca.key")).expect("a key").permissions().mode() & 0o777;
    assert_eq!(key, 0o600);
}
