//! The servers: one per network, on its gateway addresses, in its namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use overlay_core::NetworkId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::counts::DnsCounts;
use super::forward::Forwarder;
use super::names::Names;
use super::resolvers::Resolvers;
use super::served_sockets::ServedSockets;
use super::service::{DnsService, NameSource, ServerScope};
use super::sockets::DnsSockets;

/// All DNS servers of this node; dropping this ends them.
#[derive(Debug)]
pub struct DnsServers {
    names: watch::Sender<Arc<Names>>,
    resolvers: Arc<Resolvers>,
    counts: Arc<DnsCounts>,
    servers: BTreeMap<NetworkId, Server>,
}

#[derive(Debug)]
struct Server {
    addresses: BTreeSet<IpAddr>,
    /// Ends its tasks when dropped.
    _tasks: JoinSet<()>,
}

impl DnsServers {
    /// Starts without servers and names. `resolv_conf` is the host's `/etc/resolv.conf`.
    pub fn start(resolv_conf: PathBuf) -> Self {
        Self::counting(resolv_conf, Arc::default())
    }

    /// As [`DnsServers::start`]; what is refused is counted here.
    pub(crate) fn counting(resolv_conf: PathBuf, counts: Arc<DnsCounts>) -> Self {
        let (names, _) = watch::channel(Arc::default());
        let resolvers = Arc::new(Resolvers::new(resolv_conf));

        Self { names, resolvers, counts, servers: BTreeMap::new() }
    }

    /// Replaces the names.
    pub fn publish(&self, names: Arc<Names>) {
        self.names.send_replace(names);
    }

    /// Serves a network on these sockets, replacing earlier ones.
    ///
    /// # Errors
    ///
    /// When the runtime cannot register the sockets: too many open files.
    pub fn add(&mut self, network: NetworkId, sockets: DnsSockets) -> io::Result<()> {
        self.serve(network, sockets).map(drop)
    }

    /// As [`DnsServers::add`]; returns the sockets, for whoever serves the network next.
    pub(crate) fn serve(
        &mut self,
        network: NetworkId,
        sockets: DnsSockets,
    ) -> io::Result<Arc<ServedSockets>> {
        let addresses = sockets.addresses();
        let forwarder = Forwarder::new(Arc::clone(&self.resolvers));
        let source = NameSource { names: self.names.subscribe(), counts: Arc::clone(&self.counts) };
        let scope = ServerScope::Network(network);
        let (tasks, served) = DnsService::serve(scope, source, forwarder, sockets)?;
        self.servers.insert(network, Server { addresses, _tasks: tasks });
        self.exclude_own();

        Ok(served)
    }

    /// Stops serving a network.
    pub fn remove(&mut self, network: NetworkId) {
        self.servers.remove(&network);
        self.exclude_own();
    }

    /// Lists the networks that are served.
    pub fn networks(&self) -> impl Iterator<Item = NetworkId> + '_ {
        self.servers.keys().copied()
    }

    fn exclude_own(&self) {
        self.resolvers.exclude(
            self.servers.values().flat_map(|server| server.addresses.iter().copied()).collect(),
        );
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
