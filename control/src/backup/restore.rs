//! Makes a state directory of a backup, with a new history.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_core::{ClusterId, Name, Revision};
use overlay_proto::audit::Who;
use zeroize::Zeroizing;

use super::{BackupError, Contents};
use crate::audit;
use crate::clock;
use crate::random;
use crate::registry::{self, Actor, BeginAnew, ClusterState, FenceCause, Operation, REPORT_WAIT};
use crate::start_error::StartError;
use crate::store::embedded::Embedded;
use crate::store::{AuditWrites, Commit, Store, StoreError};

/// The largest backup that is read, in bytes: four times what the largest cluster has.
const MAX_BACKUP: u64 = 4 << 30;

/// How a backup is restored.
#[derive(Debug, Clone)]
pub struct RestoreConfig {
    /// The backup.
    pub file: PathBuf,
    /// The state directory to make.
    pub state: PathBuf,
    /// Whether a state that is there is moved aside; without that it is refused.
    pub keep_old: bool,
    /// How long nodes that do not report keep new blocks and addresses from being given.
    pub wait: Duration,
}

impl RestoreConfig {
    /// Creates a configuration with defaults.
    pub fn new(file: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        let wait = Duration::from_secs(REPORT_WAIT);

        Self { file: file.into(), state: state.into(), keep_old: false, wait }
    }
}

/// What was restored, fenced and lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreSummary {
    /// The cluster.
    pub cluster: ClusterId,
    /// The revision of the backup.
    pub revision: Revision,
    /// When the backup was made, in seconds since 1970.
    pub made: u64,
    /// How many nodes have to report before new blocks and addresses are given.
    pub awaited: usize,
    /// Until when they are waited for, in seconds since 1970.
    pub until: u64,
    /// How many tokens do not admit any more.
    pub tokens: usize,
    /// Where the state that was there is now.
    pub old: Option<PathBuf>,
    /// What the old state had and the backup has not, a line each; nothing is known of it when
    /// there was no old state that can be read.
    pub lost: Option<Vec<String>>,
}

/// Restores control from a backup: the history begins anew, no token of the backup admits, and
/// nothing is given that may be in use.
///
/// # Errors
///
/// [`BackupError`]; the state directory is as it was then.
pub fn restore(config: &RestoreConfig) -> Result<RestoreSummary, BackupError> {
    let contents = read(&config.file)?;
    let mut state = contents.state(&config.file)?;
    let old = look_at(&config.state, config.keep_old)?;
    let now = clock::now_unix();
    let (tokens, before) = (state.tokens().len(), state.view().revision);
    let random = |error: random::RandomError| BackupError::State(error.into());
    let history = random::history().map_err(random)?;
    let begin = BeginAnew { history, cause: FenceCause::Restored, wait: config.wait.as_secs() };
    decide(&mut state, Operation::BeginAnew(begin), now)?;
    let lost = old.as_ref().and_then(|old| old.as_ref()).map(|old| lost(&state, old));
    if let Some(Some(old)) = &old {
        let removed = old.revoked().values().cloned().collect();
        decide(&mut state, Operation::MergeRemoved(removed), now)?;
    }
    let moved = old.is_some().then(|| aside(&config.state, now)).transpose()?;
    let first = Commit {
        to: before.next(),
        records: state.records().collect(),
        changed: Vec::new(),
        nonce: random::bits().map_err(random)?,
    };
    let details = [("revision", contents.revision.0.into()), ("made", contents.made.into())];
    let audit = vec![audit::entry::note("restore", Who::Operator, before.next(), now, details)];
    let made = make(config, &contents, &first, &audit.into(), moved.as_deref());
    if let (Err(_), Some(moved)) = (&made, &moved) {
        // As it was: the half-made one is no cluster yet.
        let _ = fs::remove_dir_all(&config.state);
        let _ = fs::rename(moved, &config.state);
    }
    made?;

    Ok(RestoreSummary {
        cluster: contents.settings.cluster,
        revision: contents.revision,
        made: contents.made,
        awaited: state.awaited().len(),
        until: now.saturating_add(config.wait.as_secs()),
        tokens,
        old: moved,
        lost,
    })
}

fn read(file: &Path) -> Result<Contents, BackupError> {
    let length = fs::metadata(file).map_err(BackupError::io(file))?.len();
    if length > MAX_BACKUP {
        return Err(BackupError::damaged(file, "it is larger than any backup of control"));
    }
    let bytes = fs::read(file).map(Zeroizing::new).map_err(BackupError::io(file))?;

    Contents::decode(file, &bytes)
}

/// Looks at what is in the state directory: nothing, a state, or one that cannot be read.
fn look_at(state: &Path, keep_old: bool) -> Result<Option<Option<ClusterState>>, BackupError> {
    if !Embedded::is_there(state) {
        return Ok(None);
    }
    let opened = Embedded::open(state);
    if matches!(opened, Err(StoreError::Busy { .. })) {
        return Err(BackupError::Running { state: state.to_owned() });
    }
    if !keep_old {
        return Err(BackupError::Occupied(state.to_owned()));
    }
    let loaded = opened.and_then(|mut store| store.load()).ok();

    Ok(Some(loaded.map(|loaded| {
        ClusterState::from_records(loaded.settings, loaded.revision, loaded.records)
    })))
}

fn decide(state: &mut ClusterState, operation: Operation, now: u64) -> Result<(), BackupError> {
    let decided = registry::apply(state, Actor::Operator, operation, now);
    let (_, records) = decided.map_err(|error| BackupError::State(error.into()))?;
    if !records.is_empty() {
        state.commit(records);
    }

    Ok(())
}

/// Says what an older state has and the restored one has not.
fn lost(restored: &ClusterState, old: &ClusterState) -> Vec<String> {
    let (had, has) = (old.view(), restored.view());
    let list = |what: &str, names: Vec<&Name>| {
        let names: Vec<_> = names.into_iter().map(Name::as_str).collect();
        (!names.is_empty()).then(|| format!("{what}: {}", names.join(", ")))
    };
    let nodes = had.nodes.values().filter(|row| !has.nodes.contains_key(&row.id));
    let networks = had.networks.values().filter(|row| !has.networks.contains_key(&row.id));
    let gone = old.revoked().values().filter(|gone| has.nodes.contains_key(&gone.node));
    let back = has.networks.values().filter(|row| !had.networks.contains_key(&row.id));
    let tokens = old.tokens().keys().filter(|id| !restored.tokens().contains_key(*id)).count();
    let steps = had.revision.0.saturating_sub(has.revision.0 - 1);

    [
        Some(format!("{steps} changes were made after the backup")),
        list(
            "nodes that joined since, which must join again",
            nodes.map(|row| &row.name).collect(),
        ),
        list(
            "nodes that were removed since, and stay removed",
            gone.map(|row| &row.name).collect(),
        ),
        list("networks that were made since", networks.map(|row| &row.name).collect()),
        list(
            "networks that were removed since, and are there again",
            back.map(|row| &row.name).collect(),
        ),
        (tokens > 0).then(|| format!("{tokens} tokens that were made since")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn aside(state: &Path, now: u64) -> Result<PathBuf, BackupError> {
    let mut name = state.file_name().unwrap_or_default().to_owned();
    name.push(format!(".before-{now}"));
    let to = state.with_file_name(name);
    if to.exists() {
        return Err(BackupError::Exists(to));
    }
    fs::rename(state, &to).map_err(BackupError::io(state))?;

    Ok(to)
}

/// Makes the directory; the store comes last, because a directory with it counts as a cluster.
fn make(
    config: &RestoreConfig,
    contents: &Contents,
    first: &Commit,
    audit: &AuditWrites,
    old: Option<&Path>,
) -> Result<(), BackupError> {
    let state = &config.state;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(state).map_err(BackupError::io(state))?;
    contents.authority.write(state).map_err(|error| BackupError::State(error.into()))?;
    Embedded::create(state, &contents.settings, first, audit)
        .map_err(|error| BackupError::State(StartError::from(error)))?;

    old.map_or(Ok(()), |old| give_to_owner(state, old))
}

/// Control may run as a user of its own.
fn give_to_owner(state: &Path, old: &Path) -> Result<(), BackupError> {
    let owner = fs::metadata(old).map_err(BackupError::io(old))?;
    let files = fs::read_dir(state).map_err(BackupError::io(state))?.flatten();
    for path in files.map(|file| file.path()).chain([state.to_owned()]) {
        let now = fs::metadata(&path).map_err(BackupError::io(&path))?;
        if (now.uid(), now.gid()) != (owner.uid(), owner.gid()) {
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid()))
                .map_err(BackupError::io(&path))?;
        }
    }

    Ok(())
}
