//! A tunnel of another userspace WireGuard implementation between two hosts of a lab, for
//! comparison.

use anyhow::{Context, Result};

use crate::command::Running;
use crate::host::Host;
use crate::stock::{Stock, StockTunnel};

/// The queue length of every TUN that is compared, in packets: that of ours. With the default of
/// 500, bursts of UDP are lost before any program can read them.
const QUEUE_LEN: &str = "4000";

/// Both ends of a tunnel of another implementation; they end with this value.
#[derive(Debug)]
pub(crate) struct CompetitorTunnel {
    stock: Stock,
    _ends: [Running; 2],
}

impl CompetitorTunnel {
    /// Starts both ends.
    ///
    /// # Errors
    ///
    /// If one of them does not start.
    pub(crate) fn start(stock: Stock, near: &Host, far: &Host) -> Result<Self> {
        Ok(Self { stock, _ends: [end(stock, near, 0, far)?, end(stock, far, 1, near)?] })
    }

    /// Returns which implementation it is.
    pub(crate) fn stock(&self) -> Stock {
        self.stock
    }

    /// Returns the address of the far end in the tunnel.
    pub(crate) fn address(&self) -> String {
        address(self.stock, 1)
    }

    /// Removes what killed implementations left on a host: their sockets.
    ///
    /// # Errors
    ///
    /// If the host is gone.
    pub(crate) fn forget(host: &Host) -> Result<()> {
        host.try_command("rm")?.args(["-rf", "/run/wireguard"]).run().map(drop)
    }
}

fn end(stock: Stock, host: &Host, index: usize, other: &Host) -> Result<Running> {
    let (private_key, _) = StockTunnel::KEYS[index];
    let (_, peer) = StockTunnel::KEYS[1 - index];
    let port = port(stock);
    let address = format!("{}/24", address(stock, index)).parse().context("an address")?;
    let endpoint = Some((other.address(), port).into());

    let running = stock
        .start(host, &StockTunnel { private_key, peer, port, endpoint, address, mtu: 1420 })?;
    host.try_command("overlay-lab")?.args(["queue-len", stock.interface(), QUEUE_LEN]).run()?;
    Ok(running)
}

fn port(stock: Stock) -> u16 {
    match stock {
        Stock::WireguardGo => 51_900,
        Stock::Boringtun => 51_901,
        Stock::Gotatun => 51_902,
    }
}

/// Addresses that are reserved for documentation or benchmarks (RFC 5737, RFC 2544).
fn address(stock: Stock, index: usize) -> String {
    let prefix = match stock {
        Stock::WireguardGo => "198.51.100",
        Stock::Boringtun => "203.0.113",
        Stock::Gotatun => "198.18.1",
    };

    format!("{prefix}.{}", index + 1)
}
