//! "Something changed there", and no more than that: who hears it reads back.
//!
//! One socket hears of all namespaces. It is in a namespace of its own, where each that is watched
//! has a number (`nsid`); the kernel hands it what happens in those, and says in which. A number
//! keeps nothing alive.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::sys::socket::{
    self, AddressFamily, ControlMessageOwned, MsgFlags, NetlinkAddr, SockFlag, SockProtocol,
    SockType, setsockopt, sockopt,
};
use overlay_core::EndpointId;
use overlay_daemon::supervise::spawn_noticed;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::super::error::KernelError;
use super::super::netns::Netns;
use super::nsid;
use super::port::OwnPort;

/// `RTNLGRP_*`: links, IPv4 addresses and routes, IPv6 addresses, routes and rules, and the few
/// parameters that tell (forwarding, `rp_filter`).
const GROUPS: [u32; 8] = [1, 5, 7, 9, 11, 19, 24, 25];
/// A message's header (`struct nlmsghdr`), in bytes. The rest is thrown away unread: what does not
/// fit is no loss.
const HEADER: usize = 16;
/// `RTM_NEWROUTE` and `RTM_DELROUTE`.
const ROUTES: [u16; 2] = [libc::RTM_NEWROUTE, libc::RTM_DELROUTE];
/// Room for the messages of a burst, in bytes; it is memory only while they wait.
const BURST: usize = 4 << 20;
/// `SOL_NETLINK`.
const SOL_NETLINK: libc::c_int = 270;

/// Where in a network something changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeScope {
    /// In the network's own namespace.
    Network,
    /// In the sandbox of an endpoint.
    Sandbox(EndpointId),
}

/// Changes in one network that nobody has looked into yet.
#[derive(Debug, Default)]
pub struct Changes {
    scopes: Mutex<BTreeSet<ChangeScope>>,
    noted: Notify,
}

impl Changes {
    /// Notes that something changed.
    pub fn note(&self, scope: ChangeScope) {
        if lock(&self.scopes).insert(scope) {
            self.noted.notify_one();
        }
    }

    /// Takes what was noted so far.
    pub fn take(&self) -> BTreeSet<ChangeScope> {
        std::mem::take(&mut *lock(&self.scopes))
    }

    /// Waits until there is something to take. Safe to cancel: nothing is lost.
    pub async fn changed(&self) {
        while lock(&self.scopes).is_empty() {
            self.noted.notified().await;
        }
    }
}

/// Hears of changes in namespaces, this process's own included.
#[derive(Debug)]
pub struct NamespaceEvents {
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    numbers: Mutex<OwnedFd>,
    listeners: Mutex<Listeners>,
    /// Whether nothing is heard any more.
    ended: AtomicBool,
}

/// Tells whoever listens that nothing is heard any more, whatever the reason.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        lock(&self.0.listeners).note(&Burst { is_incomplete: true, ..Burst::default() });
    }
}

#[derive(Debug, Default)]
struct Listeners {
    by_number: BTreeMap<i32, Vec<Listener>>,
    next: u64,
}

#[derive(Debug)]
struct Listener {
    token: u64,
    scope: ChangeScope,
    changes: Arc<Changes>,
    /// Whose changes of routes are none to be noted.
    own: Option<Arc<OwnPort>>,
}

/// Notes changes in a namespace for as long as it is kept.
#[derive(Debug)]
pub struct Subscription {
    shared: Arc<Shared>,
    number: i32,
    token: u64,
}

impl NamespaceEvents {
    /// Begins to listen. The runtime that calls drives it.
    ///
    /// # Errors
    ///
    /// When the kernel gives no namespace, or refuses the socket: it takes `CAP_SYS_ADMIN` and
    /// `CAP_NET_BROADCAST`.
    pub async fn open() -> Result<Self, KernelError> {
        let home = Netns::unnamed("events")?;
        let opened = home.enter(|| Ok::<_, io::Error>((listen()?, nsid::open()?))).await?;
        let opened = opened.and_then(|(socket, numbers)| Ok((register(socket)?, numbers)));
        let (socket, numbers) = opened.map_err(|source| refused(&home, source))?;
        let shared = Arc::new(Shared {
            numbers: Mutex::new(numbers),
            listeners: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let ending = Ending(Arc::clone(&shared));
        let task = spawn_noticed("namespace events", async move { hear(socket, &ending.0).await });

        Ok(Self { shared, task })
    }

    /// Tells whether changes are heard of. When they are no more, all places are noted as changed
    /// once.
    pub fn is_heard(&self) -> bool {
        !self.shared.ended.load(Ordering::Acquire)
    }

    /// Notes changes in a namespace as changes of `place`. It is not kept alive.
    ///
    /// # Errors
    ///
    /// When the kernel gives it no number.
    pub fn subscribe(
        &self,
        netns: &Netns,
        scope: ChangeScope,
        changes: &Arc<Changes>,
    ) -> Result<Subscription, KernelError> {
        self.subscribe_as(netns, scope, changes, None)
    }

    /// As [`NamespaceEvents::subscribe`], for whoever changes routes there by the connection with
    /// this port id and need not hear of those. Of all else that it does there it hears, because
    /// the kernel may do more than it was asked to: without a link or an address, routes go too.
    ///
    /// # Errors
    ///
    /// When the kernel gives it no number.
    pub fn subscribe_to_others(
        &self,
        netns: &Netns,
        scope: ChangeScope,
        changes: &Arc<Changes>,
        own: &Arc<OwnPort>,
    ) -> Result<Subscription, KernelError> {
        self.subscribe_as(netns, scope, changes, Some(Arc::clone(own)))
    }

    fn subscribe_as(
        &self,
        netns: &Netns,
        scope: ChangeScope,
        changes: &Arc<Changes>,
        own: Option<Arc<OwnPort>>,
    ) -> Result<Subscription, KernelError> {
        let number = nsid::number(&lock(&self.shared.numbers), netns.as_fd());
        let number = number.map_err(|source| refused(netns, source))?;
        let mut listeners = lock(&self.shared.listeners);
        listeners.next += 1;
        let token = listeners.next;
        let listener = Listener { token, scope, changes: Arc::clone(changes), own };
        listeners.by_number.entry(number).or_default().push(listener);

        Ok(Subscription { shared: Arc::clone(&self.shared), number, token })
    }
}

impl Drop for NamespaceEvents {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut listeners = lock(&self.shared.listeners);
        if let Some(these) = listeners.by_number.get_mut(&self.number) {
            these.retain(|listener| listener.token != self.token);
            if these.is_empty() {
                listeners.by_number.remove(&self.number);
            }
        }
    }
}

impl Listeners {
    /// Notes changes in the namespaces that were heard of, or in all.
    fn note(&self, burst: &Burst) {
        let everywhere = self.by_number.values().filter(|_| burst.is_incomplete).flatten();
        let somewhere = burst.origins.iter().flat_map(|(number, origin)| {
            let there = self.by_number.get(number).into_iter().flatten();
            there.filter(|listener| !listener.caused(*origin))
        });
        for listener in everywhere.chain(somewhere) {
            listener.changes.note(listener.scope);
        }
    }
}

impl Listener {
    /// Tells whether all that was heard from a namespace is its own doing.
    fn caused(&self, origin: Origin) -> bool {
        match (origin, &self.own) {
            (Origin::Routes(port), Some(own)) => own.is(port),
            (Origin::Routes(_), None) | (Origin::Any, _) => false,
        }
    }
}

/// Where all that was heard at once from one namespace comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    /// Requests to change routes, all by the socket with this port id.
    Routes(u32),
    /// Anything else, or several sockets.
    Any,
}

impl Origin {
    /// Reads a message's header; of one that is cut off nothing is known.
    fn of(header: &[u8]) -> Self {
        let kind = header.get(4..6).and_then(|bytes| bytes.first_chunk().copied());
        let port = header.get(12..16).and_then(|bytes| bytes.first_chunk().copied());
        match (kind.map(u16::from_ne_bytes), port.map(u32::from_ne_bytes)) {
            (Some(kind), Some(port)) if ROUTES.contains(&kind) => Self::Routes(port),
            (Some(_) | None, Some(_) | None) => Self::Any,
        }
    }
}

/// What was heard at once.
#[derive(Debug, Default)]
struct Burst {
    /// By the number of the namespace.
    origins: BTreeMap<i32, Origin>,
    is_incomplete: bool,
}

impl Burst {
    fn add(&mut self, number: i32, origin: Origin) {
        let known = self.origins.entry(number).or_insert(origin);
        if *known != origin {
            *known = Origin::Any;
        }
    }
}

/// Hears until the socket is of no more use.
async fn hear(socket: AsyncFd<OwnedFd>, shared: &Shared) {
    loop {
        let Ok(mut guard) = socket.readable().await else { return };
        let mut burst = Burst::default();
        // Reads until nothing is left, so that a burst is one change.
        while let Ok(read) = guard.try_io(|socket| receive(socket.get_ref())) {
            match read {
                Ok(Some((number, origin))) => burst.add(number, origin),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // More than there was room for.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    burst.is_incomplete = true
                }
                Err(error) => {
                    tracing::error!(%error, "The kernel's events cannot be read any more");
                    return;
                }
            }
        }
        lock(&shared.listeners).note(&burst);
    }
}

/// Reads one message, and returns the number of the namespace it is from, with its origin.
fn receive(socket: &OwnedFd) -> io::Result<Option<(i32, Origin)>> {
    let mut header = [0; HEADER];
    let mut control = nix::cmsg_space!(i32);
    let mut parts = [IoSliceMut::new(&mut header)];
    let received = socket::recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut control),
        MsgFlags::MSG_DONTWAIT,
    )?;
    let number = received.cmsgs()?.find_map(|message| {
        let ControlMessageOwned::Unknown(unknown) = message else { return None };
        let header = unknown.cmsg_header;
        let is_number =
            header.cmsg_level == SOL_NETLINK && header.cmsg_type == libc::NETLINK_LISTEN_ALL_NSID;

        is_number
            .then(|| unknown.data_bytes.first_chunk().copied().map(i32::from_ne_bytes))
            .flatten()
    });

    let len = received.bytes.min(HEADER);

    Ok(number.map(|number| (number, Origin::of(&header[..len]))))
}

fn listen() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket =
        socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    // What does not fit is heard of as a change everywhere.
    let _ = setsockopt(&socket, sockopt::RcvBufForce, &BURST);
    let groups = GROUPS.iter().fold(0, |mask, group| mask | 1 << (group - 1));
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    nsid::listen_all(socket.as_fd())?;

    Ok(socket)
}

fn refused(netns: &Netns, source: io::Error) -> KernelError {
    KernelError::Refused {
        action: "subscribe to",
        object: "changes".to_owned(),
        namespace: netns.label().to_owned(),
        source,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(unsafe_code, reason = "tokio offers no safe way to wait on a descriptor")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` is open, owned by nobody else, and stays the same descriptor until it is
    // dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::kernel::tests::rig::skipped;

    /// A listener with port id 7, for namespace 3.
    fn listeners() -> (Listeners, Arc<Changes>) {
        let (changes, own) = (Arc::<Changes>::default(), Arc::<OwnPort>::default());
        own.set(7);
        let noted = Arc::clone(&changes);
        let listener =
            Listener { token: 1, scope: ChangeScope::Network, changes: noted, own: Some(own) };

        (Listeners { by_number: BTreeMap::from([(3, vec![listener])]), next: 1 }, changes)
    }

    #[test]
    fn only_what_is_all_our_own_doing_is_not_noted() {
        let (ours, others) = (Origin::Routes(7), Origin::Routes(8));
        for (heard, is_incomplete, is_noted) in [
            (&[][..], false, false),
            (&[ours][..], false, false),
            (&[ours, ours], false, false),
            (&[others], false, true),
            (&[ours, others], false, true),
            (&[others, ours], false, true),
            (&[ours, Origin::Any], false, true),
            (&[Origin::Any, ours, ours], false, true),
            // What the kernel does by itself.
            (&[Origin::Routes(0)], false, true),
            // Something was lost.
            (&[ours], true, true),
        ] {
            let (listeners, changes) = listeners();
            let mut burst = Burst { is_incomplete, ..Burst::default() };
            heard.iter().for_each(|origin| burst.add(3, *origin));

            listeners.note(&burst);

            assert_eq!(!changes.take().is_empty(), is_noted, "{heard:?} {is_incomplete}");
        }
    }

    #[test]
    fn only_routes_have_an_origin() {
        let header = |kind: u16, port: u32| {
            let mut header = [0; HEADER];
            header[4..6].copy_from_slice(&kind.to_ne_bytes());
            header[12..].copy_from_slice(&port.to_ne_bytes());
            header
        };

        assert_eq!(Origin::of(&header(libc::RTM_NEWROUTE, 7)), Origin::Routes(7));
        assert_eq!(Origin::of(&header(libc::RTM_DELROUTE, 7)), Origin::Routes(7));
        assert_eq!(Origin::of(&header(libc::RTM_DELADDR, 7)), Origin::Any);
        assert_eq!(Origin::of(&header(libc::RTM_DELROUTE, 7)[..12]), Origin::Any);
        assert_eq!(Origin::of(&[]), Origin::Any);
    }

    #[tokio::test]
    async fn who_listens_hears_that_nothing_is_heard_any_more() {
        if skipped() {
            return;
        }
        let events = NamespaceEvents::open().await.expect("events");
        let changes = Arc::<Changes>::default();
        let home = Netns::unnamed("quiet").expect("a namespace");
        let _subscription =
            events.subscribe(&home, ChangeScope::Network, &changes).expect("subscribed");
        changes.take();
        assert!(events.is_heard());

        events.task.abort();

        timeout(Duration::from_secs(5), changes.changed()).await.expect("it is told");
        assert!(!events.is_heard());
    }
}
