//! A server in front of a sandbox's own resolver: names of the overlay are answered by us, everything else by it.
//!
//! Docker leads `127.0.0.11:53` to a resolver of its own in each container. A rule of ours, which comes before Docker's, leads
//! it to us; what we pass on carries a mark that the rule lets through. Everything ends with this process: the rule is owned
//! by a socket of ours ([`crate::kernel::nft`]), so that Docker's resolver answers again when we are gone.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use overlay_core::NetworkId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::forward::{Forwarder, Inside};
use super::names::Names;
use super::server::{DnsSockets, Service};
use crate::kernel::Netns;
use crate::kernel::nft::{PASS_MARK, Redirect};

/// Where containers ask: Docker's embedded resolver (libnetwork `resolver.go`).
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
const DNS_PORT: u16 = 53;

/// A server in one sandbox; it and its rule go when this is dropped.
///
/// It costs three sockets of its own and one a question under way, and keeps the namespace alive: drop it with the container.
#[derive(Debug)]
pub(crate) struct Front {
    scope: watch::Sender<BTreeSet<NetworkId>>,
    _redirect: Redirect,
    _tasks: JoinSet<()>,
}

impl Front {
    /// Serves the sandbox in `netns`, which is on the networks of `scope`.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or the kernel refuses sockets or rule.
    pub(crate) async fn open(
        netns: &Netns,
        scope: BTreeSet<NetworkId>,
        names: watch::Receiver<Arc<Names>>,
    ) -> io::Result<Self> {
        let opened = netns.enter(|| {
            let sockets = DnsSockets::bind_port([IpAddr::V4(RESOLVER)], 0)?;
            let redirect = Redirect::install(RESOLVER, sockets.port()?)?;
            Ok::<_, io::Error>((sockets, redirect))
        });
        let (sockets, redirect) = opened.await.map_err(io::Error::other)??;
        let resolver = SocketAddr::from((RESOLVER, DNS_PORT));
        let forwarder = Forwarder::inside(Inside { netns: netns.clone(), resolver, mark: PASS_MARK });
        let (scope, scope_of) = watch::channel(scope);
        let tasks = Service::of_sandbox(scope_of, names, forwarder).serve(sockets)?;

        Ok(Self { scope, _redirect: redirect, _tasks: tasks })
    }

    /// The sandbox is on these networks from now on.
    pub(crate) fn set_scope(&self, scope: BTreeSet<NetworkId>) {
        self.scope.send_if_modified(|known| {
            let changed = *known != scope;
            *known = scope;
            changed
        });
    }
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;
