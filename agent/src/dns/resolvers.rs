//! The host's resolvers, read from `/etc/resolv.conf` again whenever it changes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

const DNS_PORT: u16 = 53;
/// As many as the C library uses.
pub(super) const MAX_RESOLVERS: usize = 3;

/// The host's resolvers.
#[derive(Debug)]
pub(crate) struct Resolvers {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stamp: Option<Stamp>,
    listed: Arc<[SocketAddr]>,
    own: BTreeSet<IpAddr>,
}

/// Identifies the contents of a file without reading it.
type Stamp = (SystemTime, u64, u64);

impl Resolvers {
    /// Reads `path` when it is first needed.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, state: Mutex::default() }
    }

    /// Sets the addresses of our own servers, which must not be asked.
    pub(crate) fn exclude(&self, own: BTreeSet<IpAddr>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).own = own;
    }

    /// Lists the resolvers in the order in which to ask them.
    pub(crate) fn list(&self) -> Vec<SocketAddr> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let stamp = self.stamp();
        if stamp != state.stamp {
            // A file that is missing for a moment, since it is being replaced, changes nothing.
            if let Ok(text) = std::fs::read_to_string(&self.path) {
                state.listed = parse(&text);
                state.stamp = stamp;
            }
        }

        state
            .listed
            .iter()
            .filter(|resolver| !state.own.contains(&resolver.ip()))
            .copied()
            .collect()
    }

    fn stamp(&self) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt;

        let metadata = std::fs::metadata(&self.path).ok()?;

        Some((metadata.modified().ok()?, metadata.len(), metadata.ino()))
    }
}

/// Parses `resolv.conf` (resolv.conf(5)); other lines are skipped.
pub(super) fn parse(text: &str) -> Arc<[SocketAddr]> {
    let resolver = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == "nameserver").then_some(())?;
        address(words.next()?)
    };

    text.lines().filter_map(resolver).take(MAX_RESOLVERS).collect()
}

fn address(text: &str) -> Option<SocketAddr> {
    if let Ok(ip) = text.parse() {
        return Some(SocketAddr::new(ip, DNS_PORT));
    }
    let (ip, interface) = text.split_once('%')?;
    let scope = interface.parse().or_else(|_| nix::net::if_::if_nametoindex(interface)).ok()?;

    Some(SocketAddrV6::new(ip.parse().ok()?, DNS_PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(resolvers: &Resolvers) -> Vec<String> {
        resolvers.list().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        let resolvers = Resolvers::new(path.clone());
        assert!(list(&resolvers).is_empty());

        std::fs::write(
            &path,
            "# comment\nsearch x\nnameserver 192.0.2.1\nnameserver nonsense\nnameserver 2001:db8::1\n",
        )
        .expect("written");
        assert_eq!(list(&resolvers), ["192.0.2.1:53", "[2001:db8::1]:53"]);

        std::fs::write(&path, "nameserver 192.0.2.22\n").expect("written");
        assert_eq!(list(&resolvers), ["192.0.2.22:53"]);

        std::fs::remove_file(&path).expect("removed");
        assert_eq!(list(&resolvers), ["192.0.2.22:53"]);
    }

    #[test]
    fn we_never_ask_ourselves() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("resolv.conf");
        std::fs::write(&path, "nameserver 10.1.0.1\nnameserver 192.0.2.1\n").expect("written");
        let resolvers = Resolvers::new(path);

        resolvers.exclude(BTreeSet::from([IpAddr::from([10, 1, 0, 1])]));

        assert_eq!(list(&resolvers), ["192.0.2.1:53"]);
    }

    #[test]
    fn a_scope_may_be_a_name_or_a_number() {
        assert_eq!(address("fe80::1%lo"), address("fe80::1%1"));
        assert_eq!(address("fe80::1%no-such-link"), None);
    }
}
