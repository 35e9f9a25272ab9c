//! Other implementations of WireGuard on the hosts of a lab: as peers of our engine, and to compare with.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use crate::command::Running;
use crate::host::Host;
use crate::wait::wait_until;

/// The interface they make.
const INTERFACE: &str = "wg0";
/// How long one may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// A userspace implementation of WireGuard that is not ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// The reference in Go.
    WireguardGo,
    /// Cloudflare's in Rust.
    Boringtun,
}

/// One end of a tunnel.
#[derive(Clone, Debug)]
pub struct StockTunnel {
    /// Its private key.
    pub private_key: [u8; 32],
    /// The other end's public key.
    pub peer: [u8; 32],
    /// The UDP port it listens on.
    pub port: u16,
    /// Where the other end is, if it is this end that calls.
    pub endpoint: Option<SocketAddr>,
    /// Its address inside the tunnel, with the prefix that is reached through it.
    pub address: IpNet,
    /// The largest packet inside the tunnel.
    pub mtu: u32,
}

impl Stock {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::WireguardGo, Self::Boringtun];

    /// The name of its program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
        }
    }

    /// Whether its program is installed here.
    #[must_use]
    pub fn is_installed(self) -> bool {
        let path = std::env::var_os("PATH").unwrap_or_default();

        std::env::split_paths(&path).any(|folder| folder.join(self.program()).is_file())
    }

    /// Starts it on a host as one end of a tunnel; it ends with the returned value.
    ///
    /// # Errors
    ///
    /// When it does not start, or refuses its configuration.
    pub fn start(self, host: &Host, tunnel: &StockTunnel) -> Result<Running> {
        let command = host.try_command(self.program())?;
        let command = match self {
            Self::WireguardGo => command.args(["-f", INTERFACE]).env("LOG_LEVEL", "error"),
            Self::Boringtun => command.args(["-f", INTERFACE, "--disable-drop-privileges"]),
        };
        let mut running = command.spawn()?;

        wait_until(PATIENCE, "it takes its configuration", || {
            !running.is_running() || configure(host, tunnel).is_ok()
        })?;
        ensure!(running.is_running(), "{} ended: {}{}", self.program(), running.stdout(), running.stderr());
        let tool = |args: &[&str]| host.try_command("overlay-lab")?.args(args).run();
        tool(&["address", INTERFACE, &tunnel.address.to_string()]).context("cannot give it its address")?;
        tool(&["mtu", INTERFACE, &tunnel.mtu.to_string()])?;
        tool(&["link", INTERFACE, "up"])?;
        Ok(running)
    }
}

fn configure(host: &Host, tunnel: &StockTunnel) -> Result<()> {
    let uapi = host.try_command("overlay-lab")?.args(["uapi", INTERFACE]);

    uapi.input(&request(tunnel))?.run().map(drop)
}

/// The configuration in the words of the cross-platform userspace protocol.
fn request(tunnel: &StockTunnel) -> String {
    let mut text = format!("set=1\nprivate_key={}\nlisten_port={}\n", hex(&tunnel.private_key), tunnel.port);
    let _ = write!(text, "replace_peers=true\npublic_key={}\n", hex(&tunnel.peer));
    if let Some(endpoint) = tunnel.endpoint {
        let _ = writeln!(text, "endpoint={endpoint}");
    }
    let _ = write!(text, "replace_allowed_ips=true\nallowed_ip={}\n\n", tunnel.address.trunc());

    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_is_described_as_the_protocol_wants() {
        let tunnel = StockTunnel {
            private_key: [1; 32],
            peer: [0xAB; 32],
            port: 51820,
            endpoint: Some("192.0.2.11:7".parse().unwrap()),
            address: "10.9.0.2/24".parse().unwrap(),
            mtu: 1420,
        };

        let text = request(&tunnel);
        assert!(text.starts_with(&format!("set=1\nprivate_key={}\nlisten_port=51820\n", "01".repeat(32))), "{text}");
        assert!(text.contains(&format!("public_key={}\nendpoint=192.0.2.11:7\n", "ab".repeat(32))), "{text}");
        assert!(text.ends_with("allowed_ip=10.9.0.0/24\n\n"), "{text}");
    }
}
