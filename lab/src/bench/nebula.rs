//! Nebula between two hosts: not WireGuard, but the best-known mesh of its kind.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::command::Running;
use crate::host::Host;
use crate::stock::is_installed;
use crate::wait_until;

/// The folder of its files on a host; each host has a `/run` of its own.
const FOLDER: &str = "/run/bench-nebula";
/// Its UDP port.
const PORT: u16 = 4242;
/// How long it may take to make its interface.
const PATIENCE: Duration = Duration::from_secs(10);

/// Both ends of a tunnel; they end with this value.
#[derive(Debug)]
pub(super) struct Nebula {
    _ends: [Running; 2],
}

impl Nebula {
    /// The name of its program.
    pub(super) const PROGRAM: &str = "nebula";

    /// Returns whether its programs are installed here.
    pub(super) fn is_installed() -> bool {
        is_installed(Self::PROGRAM) && is_installed("nebula-cert")
    }

    /// Starts both ends.
    pub(super) fn start(near: &Host, far: &Host) -> Result<Self> {
        for host in [near, far] {
            host.try_command("mkdir")?.args(["-p", FOLDER]).run()?;
        }
        certify(near, far)?;

        Ok(Self { _ends: [end(near, 0, far)?, end(far, 1, near)?] })
    }

    /// Returns where the far end is reached through the tunnel.
    #[expect(clippy::unused_self, reason = "there is such an address only while it runs")]
    pub(super) fn address(&self) -> String {
        address(1)
    }
}

/// Removes its files from a host.
pub(super) fn forget(host: &Host) -> Result<()> {
    host.try_command("rm")?.args(["-rf", FOLDER]).run().map(drop)
}

/// Addresses that are reserved for benchmarks (RFC 2544).
fn address(index: usize) -> String {
    format!("198.18.2.{}", index + 1)
}

/// Makes an authority and a certificate for each end on the near host, and copies the far end's
/// files.
fn certify(near: &Host, far: &Host) -> Result<()> {
    let sign = |args: &str| {
        near.try_command("sh")?.args(["-c", &format!("cd {FOLDER} && nebula-cert {args}")]).run()
    };
    sign("ca -name bench")?;
    for index in 0..2 {
        sign(&format!("sign -name end{index} -ip {}/24", address(index)))?;
    }
    for file in ["ca.crt", "end1.crt", "end1.key"] {
        let path = format!("{FOLDER}/{file}");
        far.write(&path, &near.try_command("cat")?.arg(&path).run()?.stdout)?;
    }

    Ok(())
}

fn end(host: &Host, index: usize, other: &Host) -> Result<Running> {
    let path = format!("{FOLDER}/config.yml");
    host.write(&path, &config(index, &other.address().to_string()))?;
    let mut running = host.try_command(Nebula::PROGRAM)?.args(["-config", &path]).spawn()?;

    let is_there = || {
        let shown = host.try_command("overlay-lab")?.args(["addresses", "nb0"]).run()?;
        Ok::<_, anyhow::Error>(!shown.stdout.is_empty())
    };
    wait_until(PATIENCE, "nebula makes its interface", || {
        !running.is_running() || is_there().unwrap_or(false)
    })?;
    ensure!(running.is_running(), "nebula ended: {}{}", running.stdout(), running.stderr());
    Ok(running)
}

/// Makes the configuration of one end. The queue is as long as that of every other competitor.
fn config(index: usize, underlay: &str) -> String {
    let other = address(1 - index);

    format!(
        "pki: {{ca: {FOLDER}/ca.crt, cert: {FOLDER}/end{index}.crt, key: {FOLDER}/end{index}.key}}
static_host_map: {{\"{other}\": [\"{underlay}:{PORT}\"]}}
lighthouse: {{am_lighthouse: false, interval: 60, hosts: []}}
listen: {{host: 0.0.0.0, port: {PORT}}}
punchy: {{punch: false}}
tun: {{dev: nb0, mtu: 1420, tx_queue: 4000}}
logging: {{level: warning, format: text}}
firewall:
  outbound: [{{port: any, proto: any, host: any}}]
  inbound: [{{port: any, proto: any, host: any}}]
"
    )
}
