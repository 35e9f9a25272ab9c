//! What [`hostile`] tries in a namespace, in a real container: root with raw sockets, on networks
//! whose addresses Docker gives, and on those whose addresses we give.

use anyhow::{Result, ensure};
use overlay_traffic::hostile::READY;

use super::pair::Pair;
use crate::check::hostile::{self, Ground, NETWORK, PREFIXES};
use crate::check::{Notes, PATIENCE};
use crate::cluster::Cluster;
use crate::command::Running;
use crate::docker::IMAGE;
use crate::wait_until;

/// The containers of an attack.
const CONTAINERS: [(usize, &str); 5] =
    [(0, "attacker"), (0, "near"), (0, "neighbour"), (1, "far"), (1, "visitor")];

pub(in crate::check) fn run(rounds: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    for (whose, ipam) in [("Docker", &[][..]), ("Overlay", &["--ipam-driver", "overlay-wg"])] {
        notes.say(&format!("addresses are given by {whose}"));
        let options = [ipam, &["--ipv6"], &PREFIXES, &[NETWORK]].concat();
        pair.create_on_both(&options)?;
        for (host, name) in [(0, "neighbour"), (1, "visitor")] {
            pair.serve(host, NETWORK, name)?;
        }
        hostile::attack(&Containers(&pair), rounds, notes)?;
        for (host, name) in CONTAINERS {
            pair.docker(host, &["rm", "-f", name])?;
        }
        pair.docker(0, &["network", "rm", NETWORK])?;
        pair.wait_for_removal(1, NETWORK)?;
    }

    pair.finish()
}

/// Hosts whose containers are those of their Docker engines.
struct Containers<'a>(&'a Pair);

impl Ground for Containers<'_> {
    fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    fn start(&self, host: usize, name: &str, tool: &[&str]) -> Result<Running> {
        let rights = ["--user", "0", "--cap-add", "NET_RAW", "--cap-add", "NET_ADMIN"];
        let run = [&["run", "--name", name, "--network", NETWORK][..], &rights].concat();
        let command = self.0.engines[host].docker(&run)?.args([IMAGE, "/bin/overlay-lab"]);
        let mut running = command.args(tool).spawn()?;
        wait_until(PATIENCE, READY, || running.stdout().contains(READY) || !running.is_running())?;
        ensure!(running.is_running(), "{name} ended: {}{}", running.stdout(), running.stderr());

        Ok(running)
    }

    fn fetch(&self) -> Result<()> {
        self.0.fetch(1, "visitor", "http://neighbour:8080/hello").map(drop)
    }

    fn gateway(&self) -> Option<String> {
        let format = "{{range .IPAM.Config}}{{.Gateway}} {{end}}";
        let told = self.0.docker(0, &["network", "inspect", "-f", format, NETWORK]).ok()?;
        let is_v4 = |word: &&str| word.parse::<std::net::Ipv4Addr>().is_ok();

        told.split_whitespace().find(is_v4).map(str::to_owned)
    }
}
