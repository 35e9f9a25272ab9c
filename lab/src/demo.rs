//! `overlay-lab demo`: shows all of Overlay on two hosts, with the real programs, in half a minute.

mod build;
mod reporter;
mod steps;

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use crate::lab::Lab;
use crate::snapshot::Snapshot;
use reporter::Reporter;

/// Options of `demo`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Use the programs as they are, without asking Cargo to build them
    #[arg(long)]
    no_build: bool,
    /// Seconds of the throughput measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
}

/// Runs the demo; returns whether every step has passed.
///
/// # Errors
///
/// If the demo cannot even start.
pub(crate) fn run(options: &Options) -> Result<bool> {
    if !options.no_build {
        build::build_programs()?;
    }
    check_system()?;

    let mut reporter = Reporter::new();
    reporter.say("Overlay on two hosts made of Linux namespaces: real programs, real packets, nothing stays.");
    let before = machine(None);
    let lab = reporter.step("two hosts on a switch", |step| {
        let lab = Lab::new(2)?;
        for host in lab.hosts() {
            let addresses: Vec<_> =
                host.plan().addresses().map(|address| address.to_string()).collect();
            step.say(&format!("{}  {}", host.name(), addresses.join("  ")));
        }
        Ok(lab)
    });
    if let Some(lab) = lab {
        steps::play(&mut reporter, &lab, options.seconds);
        reporter.step("the machine is as it was", |step| {
            let id = lab.topology().id.clone();
            lab.finish()?;
            let counts: Vec<_> =
                before.counts().map(|(name, count)| format!("{count} {name}")).collect();
            let after = || machine(Some(&id));
            if before.assert_unchanged(|| Ok(after())).is_err() {
                let (ours, others): (Vec<_>, Vec<_>) =
                    before.differences(&after()).into_iter().partition(|line| is_ours(line));
                ensure!(ours.is_empty(), "left behind:\n{}", ours.join("\n"));
                others.iter().for_each(|line| {
                    step.say(&format!("changed by another program meanwhile: {line}"))
                });
            }
            step.say(&format!("as before: {}", counts.join(", ")));
            Ok(())
        });
    }

    Ok(reporter.finish())
}

/// Returns what this machine has; of its processes only those of the demo, because others may come
/// and go.
fn machine(lab: Option<&str>) -> Snapshot {
    Snapshot::of(
        &[Path::new("/run/overlay"), Path::new("/var/lib/overlay")],
        Some(lab.unwrap_or("-")),
    )
}

/// Returns whether a difference can be caused by the demo: whatever its hosts make on the machine
/// has one of these names.
fn is_ours(difference: &str) -> bool {
    let (kind, item) = difference[2..].split_once(": ").unwrap_or((difference, ""));

    match kind {
        "processes" | "files" => true,
        "links" | "network namespaces" | "routes" => {
            item.starts_with("ov") || item.starts_with("lab")
        }
        _ => item.contains("overlay-lab") || item.contains("/overlay"),
    }
}

fn check_system() -> Result<()> {
    let tun = std::fs::File::options().read(true).write(true).open("/dev/net/tun");
    tun.context(
        "cannot open /dev/net/tun, which the overlay needs: `modprobe tun` as root, or give it to this container",
    )?;
    for program in ["overlayd", "overlay-control", "overlayctl"] {
        if let Err(error) = crate::bin(program) {
            bail!("{error:#}");
        }
    }

    Ok(())
}
