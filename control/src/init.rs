//! Creates a cluster: an authority, a store and the first token.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use overlay_core::{ClusterId, Role};
use overlay_proto::JoinLine;
use overlay_proto::audit::Who;

use crate::addresses;
use crate::audit;
use crate::clock;
use crate::config::InitConfig;
use crate::listener::is_here;
use crate::pki::Authority;
use crate::random::{self, RandomError};
use crate::registry::{
    self, Actor, ClusterState, CreateToken, HistoryKey, Operation, Record, Settings,
};
use crate::start_error::StartError;
use crate::store::embedded::Embedded;
use crate::store::{AuditWrites, Commit, Store};
use crate::token::FreshToken;

/// The result of `init`.
#[derive(Debug)]
pub struct Initialised {
    /// The join line of the first node: it admits one admin within an hour.
    pub join: JoinLine,
    /// The cluster.
    pub cluster: ClusterId,
}

/// Creates a cluster in an empty state directory, and a token for its first node, an admin.
///
/// # Errors
///
/// [`StartError`]; a directory in which this failed halfway can be used again.
pub fn init(config: InitConfig) -> Result<Initialised, StartError> {
    let config = config.checked()?;
    check_listen(config.listen)?;
    make_directory(&config.state)?;
    if Embedded::is_there(&config.state) {
        return Err(StartError::Initialised(config.state.display().to_string()));
    }
    let now = clock::now_unix();
    let cluster = ClusterId::from_random(random::bits()?);
    let settings = Settings {
        cluster,
        pool: config.pool,
        listen: config.listen,
        advertise: config.advertise.clone(),
    };
    let authority = Authority::create(&config.state, cluster, now)?;
    let token = FreshToken::draw().map_err(RandomError::from)?;
    let (first, audit) =
        first_commit(&settings, token.command(0, 1, Role::Admin), random::history()?, now)?;
    // Last, because a directory with this file counts as a cluster.
    Embedded::create(&config.state, &settings, &first, &audit)?;
    let addresses =
        addresses::for_join_lines(&config.advertise, config.listen, &addresses::of_host());

    Ok(Initialised { join: token.line(authority.pin(), addresses), cluster })
}

/// Checks that the host has the address now, because whoever sets up a cluster means an address
/// that the host has. Later it may be missing for a while ([`crate::listener::listen`]).
fn check_listen(address: SocketAddr) -> Result<(), StartError> {
    if is_here(address.ip()) {
        return Ok(());
    }

    Err(StartError::Listen { address, source: io::ErrorKind::AddrNotAvailable.into() })
}

fn first_commit(
    settings: &Settings,
    token: CreateToken,
    history: HistoryKey,
    now: u64,
) -> Result<(Commit, AuditWrites), StartError> {
    let mut state = ClusterState::new(settings.clone());
    let begin = audit::entry::begin("the cluster was made", state.view().revision, now);
    let (commit, mut audit) = token_commit(&mut state, token, vec![Record::History(history)], now)?;
    audit.records.insert(0, begin);

    Ok((commit, audit))
}

/// Makes a token for somebody on this host, and what else is to be stored with it.
fn token_commit(
    state: &mut ClusterState,
    token: CreateToken,
    with: Vec<Record>,
    now: u64,
) -> Result<(Commit, AuditWrites), StartError> {
    let command = Operation::CreateToken(token);
    let is = audit::AuditedCommand::of(&command);
    let (_, mut records) = registry::apply(state, Actor::Operator, command, now)?;
    let origin = audit::CallOrigin::default();
    let record = audit::entry::of_command(state, Who::Operator, is, &records, &origin, now);
    records.extend(with);
    let changed = state.commit(records.clone());
    let (to, nonce) = (state.view().revision, random::bits()?);

    Ok((Commit { to, records, changed, nonce }, vec![record].into()))
}

/// Creates another token while control is not running.
///
/// # Errors
///
/// [`StartError`], in particular while control is running, since it has the store open.
pub fn create_token(state: &Path, ttl: u64, uses: u32, role: Role) -> Result<JoinLine, StartError> {
    check_private(state)?;
    let authority = Authority::load(state)?;
    let mut store = Embedded::open(state)?;
    let loaded = store.load()?;
    let (settings, before) = (loaded.settings, loaded.revision);
    let mut present = ClusterState::from_records(settings.clone(), before, loaded.records);
    let token = FreshToken::draw().map_err(RandomError::from)?;
    let now = clock::now_unix();
    let opening = audit::entry::opening(store.audit_extent()?, before, now);
    let command = token.command(ttl, uses, role);
    let (commit, mut audit) = token_commit(&mut present, command, Vec::new(), now)?;
    audit.records.splice(0..0, opening);
    store.commit_audited(before, &[commit], &audit)?;
    let addresses =
        addresses::for_join_lines(&settings.advertise, settings.listen, &addresses::of_host());

    Ok(token.line(authority.pin(), addresses))
}

/// Creates the directory, accessible to its owner only. One that others may read is closed to
/// them; one that others may write to is refused, because they may have put something there.
fn make_directory(path: &Path) -> Result<(), StartError> {
    let refuse = |source| StartError::Directory { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(refuse)?;
    let mode = fs::metadata(path).map_err(refuse)?.mode() & 0o777;
    if mode & 0o022 != 0 {
        return Err(StartError::SharedState { path: path.to_owned(), mode });
    }
    if mode & 0o055 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(refuse)?;
    }

    Ok(())
}

/// Refuses a state directory, or a store in it, that others than its owner may read or write; the
/// authority's key is checked where it is read.
pub(crate) fn check_private(directory: &Path) -> Result<(), StartError> {
    let store = Embedded::path_in(directory);
    // What is missing is told where it is read.
    for path in [directory, store.as_path()].into_iter().filter(|path| path.exists()) {
        let metadata = fs::metadata(path)
            .map_err(|source| StartError::Directory { path: path.to_owned(), source })?;
        let mode = metadata.mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StartError::SharedState { path: path.to_owned(), mode });
        }
    }

    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_that_others_can_read_or_write_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("control");
        let listen = "127.0.0.1:7443".parse().expect("an address");
        init(InitConfig { listen, ..InitConfig::new(&state) }).expect("a cluster");
        let token = || create_token(&state, 60, 1, Role::Node);
        let set = |path: &Path, mode| {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set");
        };
        let (key, store) = (state.join("ca.key"), state.join("control.redb"));
        token().expect("all is closed to others");

        for (path, mode, remedy) in [
            (&state, 0o750, "chmod 700 "),
            (&state, 0o707, "chmod 700 "),
            (&store, 0o604, "chmod 600 "),
            (&key, 0o640, "chmod 600 "),
        ] {
            let before = fs::metadata(path).expect("there").permissions();
            set(path, mode);
            let text = token().expect_err("it is open to others").to_string();
            fs::set_permissions(path, before).expect("set");
            assert!(text.contains(&format!("{remedy}{}", path.display())), "{text}");
        }
        token().expect("as before");
    }

    #[test]
    fn a_cluster_does_not_begin_on_an_address_of_another_host() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("control");
        let listen = "203.0.113.77:7443".parse().expect("an address");

        let text = init(InitConfig { listen, ..InitConfig::new(&state) })
            .expect_err("it is nobody's")
            .to_string();

        assert!(!state.exists());
        assert!(
            text.contains("this host does not have the address 203.0.113.77; choose"),
            "{text}"
        );
    }
}
