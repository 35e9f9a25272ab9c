//! Other implementations of WireGuard on the hosts of a lab, as peers of our engine and for
//! comparison.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ipnet::IpNet;

use crate::command::Running;
use crate::host::Host;
use crate::wait_until;

/// The public keys of the private keys 0x11… and 0x22….
const KEY1: [u8; 32] = [
    0x7b, 0x4e, 0x90, 0x9b, 0xbe, 0x7f, 0xfe, 0x44, 0xc4, 0x65, 0xa2, 0x20, 0x03, 0x7d, 0x60, 0x8e,
    0xe3, 0x58, 0x97, 0xd3, 0x1e, 0xf9, 0x72, 0xf0, 0x7f, 0x74, 0x89, 0x2c, 0xb0, 0xf7, 0x3f, 0x13,
];
const KEY2: [u8; 32] = [
    0x0f, 0xaa, 0x68, 0x4e, 0xd2, 0x88, 0x67, 0xb9, 0x7f, 0x4a, 0x6a, 0x2d, 0xee, 0x5d, 0xf8, 0xce,
    0x97, 0x4e, 0x76, 0xb7, 0x01, 0x8e, 0x3f, 0x22, 0xa1, 0xc4, 0xcf, 0x26, 0x78, 0x57, 0x0f, 0x20,
];
/// How long an implementation may take to start.
const PATIENCE: Duration = Duration::from_secs(10);

/// A userspace implementation of WireGuard other than ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stock {
    /// The reference implementation in Go.
    WireguardGo,
    /// Cloudflare's implementation in Rust.
    Boringtun,
    /// Mullvad's implementation in Rust.
    Gotatun,
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
    /// The underlay address of the other end, if this end initiates.
    pub endpoint: Option<SocketAddr>,
    /// Its address inside the tunnel, with the prefix that is reached through it.
    pub address: IpNet,
    /// The largest packet inside the tunnel, in bytes.
    pub mtu: u32,
}

impl StockTunnel {
    /// Two pairs of private and public keys for tests and measurements, which protect no secrets.
    pub const KEYS: [([u8; 32], [u8; 32]); 2] = [([0x11; 32], KEY1), ([0x22; 32], KEY2)];
}

impl Stock {
    /// All implementations.
    pub const ALL: [Self; 3] = [Self::WireguardGo, Self::Boringtun, Self::Gotatun];

    /// Returns the name of its program.
    #[must_use]
    pub fn program(self) -> &'static str {
        match self {
            Self::WireguardGo => "wireguard-go",
            Self::Boringtun => "boringtun-cli",
            Self::Gotatun => "gotatun",
        }
    }

    /// Returns how to install its program.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::WireguardGo => "apt-get install wireguard-go",
            Self::Boringtun => "cargo install --locked boringtun-cli",
            Self::Gotatun => "cargo install --locked gotatun-cli",
        }
    }

    /// Returns the name of its interface on a host; all may run at the same time.
    #[must_use]
    pub fn interface(self) -> &'static str {
        match self {
            Self::WireguardGo => "wg0",
            Self::Boringtun => "wg1",
            Self::Gotatun => "wg2",
        }
    }

    /// Returns whether its program is installed here.
    #[must_use]
    pub fn is_installed(self) -> bool {
        is_installed(self.program())
    }

    /// Starts it on a host as one end of a tunnel; it ends with the returned value.
    ///
    /// # Errors
    ///
    /// If it does not start, or rejects its configuration.
    pub fn start(self, host: &Host, tunnel: &StockTunnel) -> Result<Running> {
        let interface = self.interface();
        let command = host.try_command(self.program())?;
        let command = match self {
            Self::WireguardGo => command.args(["-f", interface]).env("LOG_LEVEL", "error"),
            Self::Boringtun | Self::Gotatun => {
                command.args(["-f", interface, "--disable-drop-privileges"])
            }
        };
        let mut running = command.spawn()?;

        wait_until(PATIENCE, "it accepts its configuration", || {
            !running.is_running() || configure(host, interface, tunnel).is_ok()
        })?;
        ensure!(
            running.is_running(),
            "{} ended: {}{}",
            self.program(),
            running.stdout(),
            running.stderr()
        );
        let tool = |args: &[&str]| host.try_command("overlay-lab")?.args(args).run();
        tool(&["address", interface, &tunnel.address.to_string()])
            .context("cannot give it its address")?;
        tool(&["mtu", interface, &tunnel.mtu.to_string()])?;
        tool(&["link", interface, "up"])?;
        Ok(running)
    }
}

/// Returns whether a program is in `PATH`.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();

    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn configure(host: &Host, interface: &str, tunnel: &StockTunnel) -> Result<()> {
    let uapi = host.try_command("overlay-lab")?.args(["uapi", interface]);

    uapi.input(&request(tunnel))?.run().map(drop)
}

/// Returns the configuration in the format of the cross-platform userspace protocol.
fn request(tunnel: &StockTunnel) -> String {
    let mut text =
        format!("set=1\nprivate_key={}\nlisten_port={}\n", hex(&tunnel.private_key), tunnel.port);
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
        assert!(
            text.starts_with(&format!(
                "set=1\nprivate_key={}\nlisten_port=51820\n",
                "01".repeat(32)
            )),
            "{text}"
        );
        assert!(
            text.contains(&format!("public_key={}\nendpoint=192.0.2.11:7\n", "ab".repeat(32))),
            "{text}"
        );
        assert!(text.ends_with("allowed_ip=10.9.0.0/24\n\n"), "{text}");
    }
}
