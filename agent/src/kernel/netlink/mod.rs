//! The kernel's routing tables over netlink, in our words. This folder is the only place that names
//! rtnetlink.
//!
//! One connection per namespace, opened inside it and used from tokio afterwards. The gate is the
//! exclusive borrow: every request takes `&mut self`, so two dumps never run on one socket. Whether
//! a change is needed is decided elsewhere; a change that is already so is done.

mod events;
mod nsid;
mod port;
mod wire;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use futures_util::{Stream, TryStreamExt};
use ipnet::Ipv4Net;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkAttribute, LinkExtentMask};
use rtnetlink::sys::AsyncSocket as _;
use rtnetlink::{Handle, IpVersion, LinkUnspec, LinkVeth};
use tokio::task::AbortHandle;

use super::error::KernelError;
use super::gso::GsoSize;
use super::netns::Netns;
use super::tables::{Address, Hop, LinkChange, LinkState, Route, RouteKey, Rule};

pub use events::{ChangeScope, Changes, NamespaceEvents, Subscription};
pub use port::OwnPort;

/// A connection to the kernel of one namespace.
#[derive(Debug)]
pub(crate) struct Netlink {
    handle: Handle,
    connection: AbortHandle,
    namespace: String,
    /// The kernel's number of the socket, unique among those of the namespace.
    port: u32,
    /// From the last list of links; a name that is not there is asked for.
    indexes: BTreeMap<String, u32>,
}

/// The far end of a veth pair, at birth.
pub(crate) struct VethPeer<'a> {
    /// The namespace it is born in.
    pub(crate) netns: BorrowedFd<'a>,
    /// Its name there.
    pub(crate) name: &'a str,
    /// Its hardware address.
    pub(crate) mac: [u8; 6],
}

impl Netlink {
    /// Opens a connection in a namespace. The runtime that calls drives it.
    pub(crate) async fn open(netns: &Netns) -> Result<Self, KernelError> {
        let runtime = tokio::runtime::Handle::current();
        let opened = netns
            .enter(move || {
                let _reactor = runtime.enter();
                let mut opened = rtnetlink::new_connection_with_strict_check()?;
                let port = opened.0.socket_mut().socket_mut().bind_auto()?.port_number();
                Ok::<_, io::Error>((opened, port))
            })
            .await?;
        let ((connection, handle, _unsolicited), port) =
            opened.map_err(|source| KernelError::Refused {
                action: "open",
                object: "a netlink socket".to_owned(),
                namespace: netns.label().to_owned(),
                source,
            })?;
        let connection = tokio::spawn(connection).abort_handle();

        Ok(Self {
            handle,
            connection,
            namespace: netns.label().to_owned(),
            port,
            indexes: BTreeMap::new(),
        })
    }

    /// Returns the socket's port id, which events say of what was asked for by it.
    pub(crate) fn port(&self) -> u32 {
        self.port
    }

    /// Says whether the connection has ended; it must be opened again then.
    pub(crate) fn is_closed(&self) -> bool {
        self.connection.is_finished()
    }

    /// Lists all links by name.
    pub(crate) async fn links(&mut self) -> Result<BTreeMap<String, LinkState>, KernelError> {
        let request = self
            .handle
            .link()
            .get()
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
        let messages = self.dump("links", request.execute()).await?;
        let links: BTreeMap<_, _> = messages.iter().filter_map(wire::link).collect();
        if !links.contains_key("lo") {
            // A connection that ends in the middle ends its lists too.
            return Err(self.refused("list", "links".to_owned(), rtnetlink::Error::RequestFailed));
        }
        self.indexes = links.iter().map(|(name, link)| (name.clone(), link.index)).collect();

        Ok(links)
    }

    /// Reads one link back; nothing if there is none of that name.
    pub(crate) async fn link(&mut self, name: &str) -> Result<Option<LinkState>, KernelError> {
        let request = self.handle.link().get().match_name(name);
        let found: Result<Vec<_>, _> = request.execute().try_collect().await;

        match found {
            Ok(messages) => Ok(messages.iter().find_map(wire::link).map(|(_, link)| link)),
            Err(error) if wire::is(&error, &[libc::ENODEV]) => Ok(None),
            Err(error) => Err(self.refused("read", format!("link {name}"), error)),
        }
    }

    /// Makes a veth pair: one end here, down and in an interface `group` (0 is the default one);
    /// the other born in another namespace, with super-packets of one send each.
    pub(crate) async fn add_veth(
        &mut self,
        name: &str,
        mtu: u32,
        group: u32,
        peer: VethPeer<'_>,
    ) -> Result<(), KernelError> {
        let gso = GsoSize::of_mtu(mtu);
        let far = LinkUnspec::new_with_name(peer.name)
            .mtu(mtu)
            .address(peer.mac.to_vec())
            .append_extra_attribute(LinkAttribute::GsoMaxSize(gso.v6))
            .append_extra_attribute(LinkAttribute::GsoIpv4MaxSize(gso.v4))
            .setns_by_fd(peer.netns.as_fd().as_raw_fd())
            .build();
        let message = LinkVeth::new(name, peer.name)
            .mtu(mtu)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .append_extra_attribute(LinkAttribute::Group(group))
            .build();
        self.indexes.remove(name);

        let made = self.handle.link().add(message).execute().await;
        made.map_err(|error| self.refused("add", format!("veth {name}"), error))
    }

    /// Changes a link.
    pub(crate) async fn set_link(
        &mut self,
        name: &str,
        change: LinkChange,
    ) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?);
        let message = match change {
            LinkChange::Mtu(mtu) => message.mtu(mtu),
            LinkChange::QueueLen(len) => message.txqueuelen(len),
            LinkChange::Up => message.up(),
            LinkChange::Group(group) => message.append_extra_attribute(LinkAttribute::Group(group)),
        };

        let set = self.handle.link().set(message.build()).execute().await;
        set.map_err(|error| self.refused("change", format!("link {name}"), error))
    }

    /// What foreign hands do; nothing of ours sets a link down.
    #[cfg(test)]
    pub(crate) async fn set_down(&mut self, name: &str) -> Result<(), KernelError> {
        let message = LinkUnspec::new_with_index(self.index(name).await?).down().build();

        let set = self.handle.link().set(message).execute().await;
        set.map_err(|error| self.refused("change", format!("link {name}"), error))
    }

    /// Removes a link; with a veth its other end goes too. One that is not there is removed
    /// already.
    pub(crate) async fn remove_link(&mut self, name: &str) -> Result<(), KernelError> {
        let Some(link) = self.link(name).await? else {
            return Ok(());
        };
        self.indexes.remove(name);

        let removed = self.handle.link().del(link.index).execute().await;
        self.done("remove", format!("link {name}"), removed, &[libc::ENODEV])
    }

    /// Lists addresses, without loopback ones and the link-local ones that the kernel makes.
    pub(crate) async fn addresses(&mut self) -> Result<BTreeSet<Address>, KernelError> {
        let request = self.handle.address().get();
        let messages = self.dump("addresses", request.execute()).await?;
        let names = self.names();

        Ok(messages.iter().filter_map(|message| wire::address(message, &names)).collect())
    }

    /// Adds an address.
    pub(crate) async fn add_address(&mut self, address: &Address) -> Result<(), KernelError> {
        let index = self.index(&address.link).await?;
        let mut request =
            self.handle.address().add(index, address.address.addr(), address.address.prefix_len());
        wire::usable_at_once(request.message_mut());

        let added = request.execute().await;
        self.done(
            "add",
            format!("address {} on {}", address.address, address.link),
            added,
            &[libc::EEXIST],
        )
    }

    /// Removes an address.
    pub(crate) async fn remove_address(&mut self, address: &Address) -> Result<(), KernelError> {
        let index = self.index(&address.link).await?;
        let message = wire::address_message(index, address);

        let removed = self.handle.address().del(message).execute().await;
        let gone = [libc::EADDRNOTAVAIL, libc::ENODEV];
        self.done(
            "remove",
            format!("address {} on {}", address.address, address.link),
            removed,
            &gone,
        )
    }

    /// Lists the main table of both families, without what the kernel put there.
    pub(crate) async fn routes(&mut self) -> Result<BTreeMap<RouteKey, Route>, KernelError> {
        let names = self.names();
        let mut routes = BTreeMap::new();

        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let request = self.handle.route().get(wire::main_table(family));
            let messages: Vec<_> = match request.execute().try_collect().await {
                Ok(messages) => messages,
                // The table is made with its first route.
                Err(error)
                    if wire::is(&error, &[libc::ENOENT, libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) =>
                {
                    continue;
                }
                Err(error) => return Err(self.refused("list", "routes".to_owned(), error)),
            };
            wire::collect_routes(&messages, &names, &mut routes);
        }

        Ok(routes)
    }

    /// Adds a route of ours, or replaces the one under its key.
    pub(crate) async fn set_route(&mut self, key: RouteKey, hop: &Hop) -> Result<(), KernelError> {
        let index = match hop.link() {
            Some(link) => Some(self.index(link).await?),
            None => None,
        };
        let message = wire::route_message(key, hop, index);

        let set = self.handle.route().add(message).replace().execute().await;
        set.map_err(|error| self.refused("set", format!("route {} {hop}", key.prefix), error))
    }

    /// Removes a route, whoever made it.
    pub(crate) async fn remove_route(&mut self, key: RouteKey) -> Result<(), KernelError> {
        let removed = self.handle.route().del(wire::route_key(key)).execute().await;

        self.done("remove", format!("route {}", key.prefix), removed, &[libc::ESRCH, libc::ENODEV])
    }

    /// Lists the prefixes that are reserved.
    pub(crate) async fn reserved(&mut self) -> Result<BTreeSet<Ipv4Net>, KernelError> {
        let request = self.handle.route().get(wire::main_table(AddressFamily::Inet));
        let messages = self.dump("routes", request.execute()).await?;

        Ok(messages.iter().filter_map(wire::reserved).collect())
    }

    /// Reserves a prefix.
    pub(crate) async fn reserve(&mut self, prefix: Ipv4Net) -> Result<(), KernelError> {
        let message = wire::reservation(prefix, self.index("lo").await?);

        let added = self.handle.route().add(message).execute().await;
        self.done("reserve", prefix.to_string(), added, &[libc::EEXIST])
    }

    /// Ends the reservation of a prefix.
    pub(crate) async fn release(&mut self, prefix: Ipv4Net) -> Result<(), KernelError> {
        let message = wire::reservation(prefix, self.index("lo").await?);

        let removed = self.handle.route().del(message).execute().await;
        self.done("release", prefix.to_string(), removed, &[libc::ESRCH])
    }

    /// Lists the IPv6 rules.
    pub(crate) async fn rules(&mut self) -> Result<BTreeSet<Rule>, KernelError> {
        let request = self.handle.rule().get(IpVersion::V6);
        let messages: Vec<_> = match request.execute().try_collect().await {
            Ok(messages) => messages,
            Err(error) if wire::is(&error, &[libc::EAFNOSUPPORT, libc::EOPNOTSUPP]) => Vec::new(),
            Err(error) => return Err(self.refused("list", "rules".to_owned(), error)),
        };

        Ok(messages.iter().map(wire::rule).collect())
    }

    /// Adds an IPv6 rule.
    pub(crate) async fn add_rule(&mut self, rule: &Rule) -> Result<(), KernelError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = wire::rule_message(rule, true);

        let added = request.execute().await;
        self.done("add", rule.to_string(), added, &[libc::EEXIST])
    }

    /// Removes an IPv6 rule, whoever made it.
    pub(crate) async fn remove_rule(&mut self, rule: &Rule) -> Result<(), KernelError> {
        let removed = self.handle.rule().del(wire::rule_message(rule, false)).execute().await;

        self.done("remove", rule.to_string(), removed, &[libc::ENOENT])
    }

    async fn index(&mut self, name: &str) -> Result<u32, KernelError> {
        if let Some(&index) = self.indexes.get(name) {
            return Ok(index);
        }
        let link = self.link(name).await?;
        let index = link.map(|link| link.index).ok_or_else(|| KernelError::Refused {
            action: "find",
            object: format!("link {name}"),
            namespace: self.namespace.clone(),
            source: io::Error::from_raw_os_error(libc::ENODEV),
        })?;
        self.indexes.insert(name.to_owned(), index);

        Ok(index)
    }

    fn names(&self) -> BTreeMap<u32, String> {
        self.indexes.iter().map(|(name, &index)| (index, name.clone())).collect()
    }

    async fn dump<T>(
        &self,
        object: &str,
        messages: impl Stream<Item = Result<T, rtnetlink::Error>>,
    ) -> Result<Vec<T>, KernelError> {
        messages.try_collect().await.map_err(|error| self.refused("list", object.to_owned(), error))
    }

    fn done(
        &self,
        action: &'static str,
        object: String,
        result: Result<(), rtnetlink::Error>,
        already: &[i32],
    ) -> Result<(), KernelError> {
        match result {
            Err(error) if !wire::is(&error, already) => Err(self.refused(action, object, error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn refused(
        &self,
        action: &'static str,
        object: String,
        error: rtnetlink::Error,
    ) -> KernelError {
        KernelError::Refused {
            action,
            object,
            namespace: self.namespace.clone(),
            source: wire::cause(error),
        }
    }
}

impl Drop for Netlink {
    /// The socket keeps the namespace alive, so it must not outlive its user by the time a task
    /// takes to notice.
    fn drop(&mut self) {
        self.connection.abort();
    }
}
