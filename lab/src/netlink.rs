//! Links, addresses, routes and neighbours of a lab, over netlink.

use std::future::Future;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use anyhow::{Context, Result};
use futures_util::TryStreamExt as _;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use netlink_packet_route::link::{InfoData, InfoVeth, LinkMessage};
use netlink_packet_route::route::{RouteAttribute, RouteMetric};
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use crate::namespace::raw;

/// Locks a route's MTU so that ICMP errors do not change it (the bit of `RTAX_MTU` in
/// `linux/rtnetlink.h`).
const LOCK_MTU: u32 = 1 << 2;

/// One netlink connection; it belongs to the network namespace in which it was opened.
pub(crate) struct NetlinkHandle {
    handle: Handle,
}

/// Runs `work`, which uses netlink, to completion on this thread.
///
/// # Errors
///
/// Those of `work`.
pub(crate) fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(work)
}

impl NetlinkHandle {
    /// Opens a connection to the namespace of this thread. Must be called inside [`block_on`].
    ///
    /// # Errors
    ///
    /// If the kernel provides no socket.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("cannot open a netlink socket")?;
        tokio::spawn(connection);

        Ok(Self { handle })
    }

    /// Makes a bridge that floods multicast and has no spanning tree, so its ports forward at once.
    pub(crate) async fn add_bridge(&self, name: &str, mtu: u32) -> Result<()> {
        let bridge = LinkBridge::new(name).mcast_snooping(false).mtu(mtu).up().build();

        self.handle
            .link()
            .add(bridge)
            .execute()
            .await
            .with_context(|| format!("cannot make bridge {name}"))
    }

    /// Makes a pair of links: `port` here, on `bridge` if given, and `peer` in another namespace.
    pub(crate) async fn add_port(
        &self,
        bridge: Option<&str>,
        port: &str,
        (peer, namespace): (&str, BorrowedFd<'_>),
        mtu: u32,
    ) -> Result<()> {
        let far = LinkMessageBuilder::<LinkUnspec>::new()
            .name(peer)
            .mtu(mtu)
            .setns_by_fd(raw(namespace))
            .build();
        let mut pair = LinkVeth::new(port, peer)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
            .mtu(mtu)
            .up();
        if let Some(bridge) = bridge {
            pair = pair.controller(self.index(bridge).await?);
        }

        self.handle
            .link()
            .add(pair.build())
            .execute()
            .await
            .with_context(|| format!("cannot make the link {port}"))
    }

    /// Sets a link up or down.
    pub(crate) async fn set_up(&self, name: &str, up: bool) -> Result<()> {
        let link = LinkUnspec::new_with_index(self.index(name).await?);
        let link = if up { link.up() } else { link.down() };

        self.handle
            .link()
            .set(link.build())
            .execute()
            .await
            .with_context(|| format!("cannot set {name} up or down"))
    }

    /// Sets a link's MTU.
    pub(crate) async fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        let link = LinkUnspec::new_with_index(self.index(name).await?).mtu(mtu).build();

        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .with_context(|| format!("cannot set the MTU of {name}"))
    }

    /// Sets how many packets a link's queue holds.
    pub(crate) async fn set_queue_len(&self, name: &str, packets: u32) -> Result<()> {
        let link = LinkUnspec::new_with_index(self.index(name).await?).txqueuelen(packets).build();

        self.handle
            .link()
            .set(link)
            .execute()
            .await
            .with_context(|| format!("cannot set the queue of {name}"))
    }

    /// Gives a link an address that is usable at once.
    pub(crate) async fn add_address(
        &self,
        name: &str,
        address: IpAddr,
        prefix_len: u8,
    ) -> Result<()> {
        let index = self.index(name).await?;
        let mut request = self.handle.address().add(index, address, prefix_len);
        if address.is_ipv6() {
            // Duplicate address detection would delay the address by a second.
            let message = request.message_mut();
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }

        request.execute().await.with_context(|| format!("cannot give {name} the address {address}"))
    }

    /// Adds a default route through `gateway`.
    pub(crate) async fn add_default_route(&self, gateway: IpAddr) -> Result<()> {
        let route = match gateway {
            IpAddr::V4(gateway) => {
                RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(gateway).build()
            }
            IpAddr::V6(gateway) => {
                RouteMessageBuilder::<std::net::Ipv6Addr>::new().gateway(gateway).build()
            }
        };

        self.handle
            .route()
            .add(route)
            .execute()
            .await
            .with_context(|| format!("cannot route via {gateway}"))
    }

    /// Adds a route to one host over a link, with an MTU of `mtu` bytes if given.
    pub(crate) async fn set_host_route(
        &self,
        link: &str,
        host: IpAddr,
        mtu: Option<u32>,
    ) -> Result<()> {
        let index = self.index(link).await?;
        let mut route = match host {
            IpAddr::V4(host) => RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(host, 32)
                .output_interface(index)
                .scope(netlink_packet_route::route::RouteScope::Link)
                .build(),
            IpAddr::V6(host) => RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(host, 128)
                .output_interface(index)
                .build(),
        };
        if let Some(mtu) = mtu {
            let metrics = vec![RouteMetric::Lock(LOCK_MTU), RouteMetric::Mtu(mtu)];
            route.attributes.push(RouteAttribute::Metrics(metrics));
        }

        self.handle
            .route()
            .add(route)
            .replace()
            .execute()
            .await
            .with_context(|| format!("cannot route to {host}"))
    }

    /// Adds a permanent neighbour entry with a link-layer address.
    pub(crate) async fn pin_neighbour(
        &self,
        name: &str,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<()> {
        let index = self.index(name).await?;
        let request =
            self.handle.neighbours().add(index, address).link_layer_address(&mac).replace();

        request.execute().await.with_context(|| format!("cannot pin the neighbour {address}"))
    }

    /// Removes a permanent neighbour entry, if there is one.
    pub(crate) async fn forget_neighbour(&self, name: &str, address: IpAddr) -> Result<()> {
        let index = self.index(name).await?;
        let mut request = self.handle.neighbours().add(index, address).replace();
        let message = request.message_mut().clone();

        match self.handle.neighbours().del(message).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::ENOENT => {
                Ok(())
            }
            other => other.with_context(|| format!("cannot forget the neighbour {address}")),
        }
    }

    async fn index(&self, name: &str) -> Result<u32> {
        Ok(self.link(name).await?.header.index)
    }

    async fn link(&self, name: &str) -> Result<LinkMessage> {
        let mut links = self.handle.link().get().match_name(name).execute();
        let link = links.try_next().await.with_context(|| format!("cannot find link {name}"))?;

        link.with_context(|| format!("there is no link {name}"))
    }
}
