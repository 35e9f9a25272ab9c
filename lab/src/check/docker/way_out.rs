//! Published ports, no route out where there must be none, and transfers in both directions.

use anyhow::{Context, Result, ensure};

use super::pair::Pair;
use crate::check::{Notes, PATIENCE};
use crate::docker::IMAGE;
use crate::wait_until;

/// The sizes of the transfers in bytes: one packet, one that segmentation cuts, and one that is
/// long enough for the window to open.
const SIZES: [u32; 3] = [1_400, 65_536, 10_000_000];
/// The name of a server on the underlay, which stands for everything outside.
const OUTSIDE: &str = "outside";

pub(in crate::check) fn run(_: u32, notes: &mut Notes) -> Result<()> {
    let pair = Pair::new(notes, false)?;
    ports(&pair, notes)?;
    internal(&pair, notes)?;
    transfers(&pair, notes)?;

    pair.finish()
}

fn ports(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["net"])?;
    let address = pair.cluster.host(1).address().to_string();
    for (host, published) in [(0, "9090"), (1, "9091")] {
        let name = format!("published{}", host + 1);
        let port = format!("{published}:8080");
        pair.docker(host, &["run", "-d", "--name", &name, "--network", "net", "-p", &port, IMAGE])?;
    }
    for (host, other, port) in [(0, 1, "9091"), (1, 0, "9090")] {
        let target = format!("http://{}:{port}/peer", pair.cluster.host(other).address());
        let client = pair.cluster.host(host);
        let ask = || {
            Ok::<_, anyhow::Error>(
                client.try_command("curl")?.args(["-sS", "-m", "3", &target]).run()?.stdout,
            )
        };
        wait_until(PATIENCE, "the port answers", || ask().is_ok())?;
        let seen = ask()?;
        ensure!(
            seen.trim() == client.address().to_string(),
            "{target} saw {seen} instead of the client's address"
        );
    }
    // Docker provides the container's route out, too.
    let url = format!("http://{address}:9091/peer");
    let seen = pair.fetch(0, "published1", &url)?;
    ensure!(seen.trim() == pair.cluster.host(0).address().to_string(), "the way out shows {seen}");
    notes.say(
        "-p is reached from the other host, which the container sees by its own address; ways out show the host's",
    );

    Ok(())
}

/// `--internal`: no route out, while the network itself works across both hosts.
fn internal(pair: &Pair, notes: &mut Notes) -> Result<()> {
    let server = ["serve-http", "--listen", "0.0.0.0:8080", "--name", OUTSIDE];
    let outside = pair.cluster.host(1).try_command("overlay-lab")?.args(server).spawn()?;
    let url = format!("http://{}:8080/hello", pair.cluster.host(1).address());
    for ipam in [&[][..], &["--ipam-driver", "overlay-wg"]] {
        pair.create_on_both(&[ipam, &["--internal", "inner"]].concat())?;
        for (host, name) in [(0, "inner1"), (1, "inner2")] {
            pair.serve(host, "inner", name)?;
        }
        pair.reaches(0, "inner1", "inner2")?;
        pair.reaches(1, "inner2", "inner1")?;
        wait_until(PATIENCE, "the server outside answers others", || {
            pair.fetch(0, "published1", &url).is_ok()
        })?;
        for (host, name) in [(0, "inner1"), (1, "inner2")] {
            let refused = pair.refused(host, &["exec", name, "curl", "-sS", "-m", "2", &url])?;
            ensure!(refused.contains("curl:"), "{refused}");
            let routes = pair.docker(host, &["exec", name, "ip", "route"])?;
            ensure!(!routes.contains("default"), "{name} has a way out: {routes}");
            pair.docker(host, &["rm", "-f", name])?;
        }
        pair.docker(0, &["network", "rm", "inner"])?;
        pair.wait_for_removal(1, "inner")?;
    }
    drop(outside);
    notes.say("--internal has no route out and reaches nothing outside, on both hosts, with either address management");

    Ok(())
}

/// Sends random bytes there and back and compares checksums, in both directions and both families.
fn transfers(pair: &Pair, notes: &mut Notes) -> Result<()> {
    pair.create_on_both(&["--ipv6", "--subnet", "10.79.0.0/16", "--subnet", "fd79::/64", "bulk"])?;
    for (host, name) in [(0, "bulk1"), (1, "bulk2")] {
        let listen = ["/bin/overlay-lab", "serve-http", "--listen", "[::]:8080"];
        let run = ["run", "-d", "--name", name, "--network", "bulk", IMAGE];
        pair.docker(host, &[run.as_slice(), &listen].concat())?;
    }
    pair.reaches(0, "bulk1", "bulk2")?;
    pair.reaches(1, "bulk2", "bulk1")?;
    let mut right = 0;
    for (host, from, to) in [(0, "bulk1", "bulk2"), (1, "bulk2", "bulk1")] {
        for family in ["-4", "-6"] {
            for size in SIZES {
                let script = format!(
                    "dd if=/dev/urandom bs={size} count=1 iflag=fullblock of=/tmp/sent 2>/dev/null && \
                     curl {family} -sS -m 30 --data-binary @/tmp/sent -H Expect: -o /tmp/back http://{to}:8080/echo && \
                     sha256sum /tmp/sent /tmp/back"
                );
                let sums = pair
                    .docker(host, &["exec", from, "sh", "-c", &script])
                    .with_context(|| format!("{size} bytes {family}"))?;
                let sums: Vec<_> =
                    sums.lines().filter_map(|line| line.split_whitespace().next()).collect();
                ensure!(
                    sums.len() == 2 && sums[0] == sums[1],
                    "{size} bytes from {from}, {family}: {sums:?}"
                );
                right += 1;
            }
        }
    }
    notes.say(&format!(
        "1,400, 65,536 and 10,000,000 bytes there and back, from either host, IPv4 and IPv6: {right} checksums right"
    ));

    Ok(())
}
