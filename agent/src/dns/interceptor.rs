//! A DNS server in front of a sandbox's own resolver: it answers names of the overlay, and forwards
//! everything else.
//!
//! Docker redirects `127.0.0.11:53` to a resolver of its own in each container. A rule of ours,
//! ahead of Docker's, redirects it to this server; forwarded questions carry a mark that the rule
//! lets through. The rule belongs to a socket of this process ([`OwnedTable`]), so Docker's
//! resolver answers again as soon as the process ends.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use overlay_daemon::reserve::Reserve;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::forward::Forwarder;
use super::outside::SandboxScope;
use super::redirect::{PASS_MARK, redirect};
use super::sandbox_resolver::{ResolverPlace, SandboxResolver};
use super::served_sockets::ServedSockets;
use super::service::{DnsService, NameSource, ServerScope};
use super::sockets::{DNS_PORT, DnsSockets};
use crate::hand_over::{Share, SharedDescriptors};
use crate::kernel::Netns;
use crate::kernel::nft::OwnedTable;

/// The address that containers ask: Docker's embedded resolver (libnetwork `resolver.go`).
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// The server in one sandbox; dropping this removes it and its rule.
///
/// It uses [`Self::DESCRIPTORS`], and keeps the namespace alive: drop it with the container.
#[derive(Debug)]
pub(crate) struct DnsInterceptor {
    scope: watch::Sender<SandboxScope>,
    sockets: Arc<InterceptorSockets>,
    _tasks: JoinSet<()>,
}

/// What an interceptor serves on, and the rule that leads there.
#[derive(Debug)]
pub(crate) struct InterceptorSockets {
    served: Arc<ServedSockets>,
    redirect: OwnedTable,
}

impl Share for InterceptorSockets {
    fn share(&self) -> io::Result<SharedDescriptors> {
        let mut shared = self.served.share()?;
        shared.list.push(self.redirect.share()?);

        Ok(shared)
    }
}

impl DnsInterceptor {
    /// The file descriptors that one uses as long as it is there: the namespace, two sockets,
    /// the owner of the rule, and the socket to the resolver behind it.
    pub(crate) const DESCRIPTORS: usize = 5;

    /// Serves the sandbox in `netns`, which is on the networks of `scope`; on the sockets and with
    /// the rule that an earlier session had, if there are any ([`DnsInterceptor::sockets`]). Where
    /// file descriptors are used up, it takes those of `reserve`.
    ///
    /// # Errors
    ///
    /// When the namespace cannot be entered, or the kernel refuses sockets or rule.
    pub(crate) async fn open(
        netns: &Netns,
        earlier: Option<SharedDescriptors>,
        scope: SandboxScope,
        source: NameSource,
        reserve: Arc<Reserve>,
    ) -> io::Result<Self> {
        let resolver = SocketAddr::from((RESOLVER, DNS_PORT));
        let place = ResolverPlace { netns: netns.clone(), resolver, mark: PASS_MARK };
        let (adopted, there) = (earlier.and_then(adopt), place.clone());
        let opened = netns.enter(move || {
            let (sockets, redirect) = match adopted {
                Some(adopted) => adopted,
                None => install(&reserve)?,
            };
            Ok::<_, io::Error>((sockets, redirect, there.open_udp(&reserve)?))
        });
        let (sockets, redirect, socket) = opened.await.map_err(io::Error::other)??;
        let forwarder = Forwarder::inside(SandboxResolver::new(place, socket)?);
        let (scope, scope_of) = watch::channel(scope);
        let scope_of = ServerScope::Sandbox(scope_of);
        let (tasks, served) = DnsService::serve(scope_of, source, forwarder, sockets)?;
        let sockets = Arc::new(InterceptorSockets { served, redirect });

        Ok(Self { scope, sockets, _tasks: tasks })
    }

    /// Returns the sockets and the rule, for whoever serves the sandbox next.
    pub(crate) fn sockets(&self) -> Arc<InterceptorSockets> {
        Arc::clone(&self.sockets)
    }

    /// Changes the networks that the sandbox is on, and what its resolver may know.
    pub(crate) fn set_scope(&self, scope: SandboxScope) {
        self.scope.send_if_modified(|known| {
            let changed = *known != scope;
            *known = scope;
            changed
        });
    }
}

/// Opens sockets in this thread's namespace, and leads questions there.
fn install(reserve: &Reserve) -> io::Result<(DnsSockets, OwnedTable)> {
    let sockets = DnsSockets::bind_port([IpAddr::V4(RESOLVER)], 0, reserve)?;
    let mut table = OwnedTable::open(reserve)?;
    table.apply(redirect(RESOLVER, sockets.port()?))?;

    Ok((sockets, table))
}

/// Goes on with sockets and rule of an earlier session.
fn adopt(mut earlier: SharedDescriptors) -> Option<(DnsSockets, OwnedTable)> {
    let owner = earlier.list.pop()?;
    let sockets = DnsSockets::adopt(earlier, &[IpAddr::V4(RESOLVER)].into())?;
    let held = redirect(RESOLVER, sockets.port().ok()?);

    Some((sockets, OwnedTable::adopt(owner, held)))
}

#[cfg(test)]
#[path = "interceptor_tests.rs"]
mod tests;
