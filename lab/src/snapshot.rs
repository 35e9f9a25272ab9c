//! What a machine or host has, for comparison with what it has later.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

use crate::binary::PROGRAMS;
use crate::namespace::within_network;
use crate::rootfs::BASES;
use crate::tool::processes::{pids, program};
use crate::wait_until;

/// The rule of a guard by which interfaces pass that the agent does not know.
const PASSING: &str = "iifname != @guarded accept";
/// What each edition of a table has once: that of a network's guard, and that of its policy.
const IN_EACH_EDITION: [&str; 2] = ["counter source {", "counter other-unknown {"];
/// How long what is being removed may take to disappear: the kernel does some of it later.
const SETTLE: Duration = Duration::from_secs(5);

/// The prefix length of a single IPv6 address, as the kernel writes it: hexadecimal.
const WHOLE: &str = "80";

/// Network namespaces, links, addresses, routes, nftables rules, mounts, processes of the
/// workspace's programs, and files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    parts: BTreeMap<String, BTreeSet<String>>,
}

impl Snapshot {
    /// Examines the machine or host that this process runs on; `folders` are listed with their
    /// contents.
    #[must_use]
    pub fn take(folders: &[&Path]) -> Self {
        Self::of(folders, None)
    }

    /// As [`Snapshot::take`], but counts only the processes of one lab.
    pub(crate) fn of(folders: &[&Path], lab: Option<&str>) -> Self {
        let mut files = BTreeSet::new();
        for folder in folders {
            list_files(folder, &mut files);
        }
        let mut parts = BTreeMap::from([
            ("network namespaces".to_owned(), names_in(Path::new("/run/netns"))),
            ("mounts".to_owned(), columns("/proc/self/mounts", mount_point)),
            ("processes".to_owned(), processes(lab)),
            ("files".to_owned(), files),
        ]);
        add_network("", &mut parts);

        Self { parts }
    }

    /// Adds the contents of the network namespaces that are pinned in `folder`.
    ///
    /// # Errors
    ///
    /// If a namespace there cannot be entered.
    pub(crate) fn with_pinned_networks(mut self, folder: &Path) -> Result<Self> {
        let home = File::open("/proc/thread-self/ns/net")?;
        for name in names_in(folder) {
            let inside = File::open(folder.join(&name))?;
            within_network(&inside, &home, || {
                add_network(&format!(" in {name}"), &mut self.parts);
                Ok(())
            })?;
        }

        Ok(self)
    }

    /// Keeps only the parts that restarts do not change: everything but processes and files.
    #[must_use]
    pub fn of_kernel(mut self) -> Self {
        self.parts.retain(|name, _| name != "processes" && name != "files");
        self
    }

    /// Returns what is not yet as it will be: an address, a guard that passes interfaces of which
    /// the agent knows nothing until it knows that it lacks no endpoint, or a table that is being
    /// made anew.
    pub(crate) fn unfinished(&self) -> Option<String> {
        let passing = |line: &&String| line.contains(PASSING);
        let passing = || self.parts.values().flatten().find(passing).cloned();

        self.unfinished_address().or_else(passing).or_else(|| self.unfinished_table())
    }

    /// Returns what there is in two editions of a table.
    fn unfinished_table(&self) -> Option<String> {
        let is_twice = |name: &str| {
            let has = |line: &&String| line.contains(name);
            self.parts.values().any(|part| part.iter().filter(has).count() > 1)
        };

        IN_EACH_EDITION.into_iter().find(|name| is_twice(name)).map(str::to_owned)
    }

    /// Returns an IPv6 address that does not accept packets yet, if there is one: the kernel adds
    /// its route once it knows that no neighbour has the address.
    fn unfinished_address(&self) -> Option<String> {
        let empty = BTreeSet::new();
        let pending = |(name, addresses): (&String, &BTreeSet<String>)| {
            let routes = self
                .parts
                .get(&format!("routes{}", name.strip_prefix("addresses")?))
                .unwrap_or(&empty);
            let is_pending = |line: &&String| {
                line.split_once(' ').is_some_and(|(address, link)| {
                    let route = format!("{link} {address} {WHOLE} ");
                    !routes.iter().any(|known| known.starts_with(&route))
                })
            };

            addresses.iter().find(is_pending).cloned()
        };

        self.parts.iter().find_map(pending)
    }

    /// Lists what `later` has in addition (`+`) and no longer has (`-`), one line each.
    #[must_use]
    pub fn differences(&self, later: &Self) -> Vec<String> {
        let empty = BTreeSet::new();
        let mut lines = Vec::new();
        for (name, before) in &self.parts {
            let after = later.parts.get(name).unwrap_or(&empty);
            lines.extend(after.difference(before).map(|item| format!("+ {name}: {item}")));
            lines.extend(before.difference(after).map(|item| format!("- {name}: {item}")));
        }

        lines
    }

    /// Returns how many things of each kind there are.
    pub fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.parts.iter().map(|(name, part)| (name.as_str(), part.len()))
    }

    /// Checks that `now` becomes equal to this, waiting up to 5 s for the kernel to finish.
    ///
    /// # Errors
    ///
    /// If differences remain; the error lists them.
    pub fn assert_unchanged(&self, mut now: impl FnMut() -> Result<Self>) -> Result<()> {
        let mut differences = Vec::new();
        let mut failure = None;
        let settled = wait_until(SETTLE, "all as before", || match now() {
            Ok(later) => {
                differences = self.differences(&later);
                differences.is_empty()
            }
            Err(error) => {
                failure = Some(error);
                true
            }
        });

        match (settled, failure) {
            (_, Some(error)) => Err(error),
            (Ok(_), None) => Ok(()),
            (Err(_), None) => bail!("not as before:\n{}", differences.join("\n")),
        }
    }
}

/// Adds the contents of the calling thread's network namespace.
fn add_network(place: &str, parts: &mut BTreeMap<String, BTreeSet<String>>) {
    let links = columns("/proc/thread-self/net/dev", |line| {
        Some(line.split_once(':')?.0.trim().to_owned())
    });
    for (name, part) in
        [("links", links), ("addresses", addresses()), ("routes", routes()), ("nft", nft())]
    {
        parts.insert(format!("{name}{place}"), part);
    }
}

fn names_in(folder: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(folder) else { return BTreeSet::new() };

    entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect()
}

fn columns(file: &str, pick: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    fs::read_to_string(file).unwrap_or_default().lines().filter_map(pick).collect()
}

fn mount_point(line: &str) -> Option<String> {
    let mut words = line.split(' ');
    let (source, target, kind) = (words.next()?, words.next()?, words.next()?);

    Some(format!("{target} ({kind} {source})"))
}

/// Returns the leaves of the kernel's table of local IPv4 addresses, and its list of IPv6
/// addresses.
fn addresses() -> BTreeSet<String> {
    let table = fs::read_to_string("/proc/thread-self/net/fib_trie").unwrap_or_default();
    let lines: Vec<_> = table.lines().map(str::trim).collect();
    let local = lines.windows(2).filter(|pair| pair[1].starts_with("/32 host LOCAL"));
    let v4 = local.filter_map(|pair| Some(pair[0].strip_prefix("|-- ")?.to_owned()));
    let v6 = columns("/proc/thread-self/net/if_inet6", |line| {
        let words: Vec<_> = line.split_whitespace().collect();
        Some(format!("{} {}", words.first()?, words.last()?))
    });

    v4.chain(v6).collect()
}

/// Returns the routes of both families, without their counters.
fn routes() -> BTreeSet<String> {
    let v4 = columns("/proc/thread-self/net/route", |line| pick_words(line, &[0, 1, 2, 7]));
    let v6 = columns("/proc/thread-self/net/ipv6_route", |line| pick_words(line, &[9, 0, 1, 4]));

    v4.into_iter().chain(v6).collect()
}

fn pick_words(line: &str, which: &[usize]) -> Option<String> {
    let words: Vec<_> = line.split_whitespace().collect();
    let picked: Option<Vec<_>> = which.iter().map(|index| words.get(*index).copied()).collect();

    Some(picked?.join(" "))
}

/// Returns the ruleset without counters; nothing if there is no `nft`, or no permission to use it.
fn nft() -> BTreeSet<String> {
    let output = Command::new("nft")
        .args(["-s", "list", "ruleset"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(output) = output else { return BTreeSet::new() };

    // A rule may be in two chains, so each line has its number.
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = without_editions(&text).collect::<Vec<_>>();
    let lines = without_passing_elements(&lines);

    lines.enumerate().map(|(number, line)| format!("{number:04} {line}")).collect()
}

/// Leaves out the elements of sets that packets fill, which go by themselves.
fn without_passing_elements(rules: &[String]) -> impl Iterator<Item = &str> {
    let (mut is_dynamic, mut is_element) = (false, false);

    rules.iter().map(String::as_str).filter(move |line| {
        let words = line.trim_start();
        match words.split_once(' ') {
            Some(("set" | "map" | "chain", _)) => is_dynamic = false,
            Some(("flags", flags)) => is_dynamic = flags.contains("dynamic"),
            _ => {}
        }
        is_element |= is_dynamic && words.starts_with("elements = ");
        let is_left_out = is_element;
        is_element &= !words.ends_with('}');

        !is_left_out
    })
}

/// Takes the numbers of editions off the names in the overlay's tables: an agent that makes a table
/// anew, as each does that begins, gives it the next one.
fn without_editions(rules: &str) -> impl Iterator<Item = String> + '_ {
    let mut is_ours = false;

    rules.lines().map(move |line| {
        if line.starts_with("table ") {
            is_ours = line.contains(" overlay");
        }
        if !is_ours {
            return line.to_owned();
        }
        let words = line.split(' ').map(|word| {
            let name = word.trim_end_matches(['"', ',']);
            match name.rsplit_once('.') {
                Some((stem, edition))
                    if stem.contains(char::is_alphabetic)
                        && edition.bytes().all(|byte| byte.is_ascii_digit()) =>
                {
                    format!("{stem}{}", &word[name.len()..])
                }
                _ => word.to_owned(),
            }
        });
        words.collect::<Vec<_>>().join(" ")
    })
}

fn processes(lab: Option<&str>) -> BTreeSet<String> {
    let wanted = lab.map(|lab| format!("OVERLAY_LAB={lab}"));
    let belongs = |pid: i32| match &wanted {
        Some(wanted) => has_variable(pid, wanted),
        None => program(pid).is_some_and(|name| PROGRAMS.contains(&name.as_str()) && pid != 1),
    };
    let pids = pids().unwrap_or_default();

    pids.into_iter().filter(|pid| belongs(*pid)).map(describe).collect()
}

fn has_variable(pid: i32, wanted: &str) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();

    environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

fn describe(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();

    format!("{pid} {}", words.join(" ").trim_end())
}

fn list_files(path: &Path, files: &mut BTreeSet<String>) {
    // Others may change the machine's folders at any moment.
    if path == Path::new(BASES) {
        return;
    }
    let Ok(metadata) = fs::symlink_metadata(path) else { return };
    files.insert(path.display().to_string());
    if metadata.is_dir() {
        let Ok(entries) = fs::read_dir(path) else { return };
        entries.filter_map(Result::ok).for_each(|entry| list_files(&entry.path(), files));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(links: &[&str]) -> Snapshot {
        let links = links.iter().map(|&link| link.to_owned()).collect();

        Snapshot { parts: BTreeMap::from([("links".to_owned(), links)]) }
    }

    #[test]
    fn tables_of_the_overlay_are_the_same_whatever_edition_they_are() {
        let table = |name: &str, edition: &str| {
            format!(
                "table inet {name} {{\n\tchain judge4{edition} {{\n\t\tip daddr 10.0.0.7 counter \
                 name \
                 \"a-b{edition}\" goto pass{edition}\n\t\tmeta nfproto vmap {{ ipv4 : goto \
                 judge4{edition}, ipv6 : drop }}\n\t}}\n}}\n"
            )
        };
        let read = |name, edition| without_editions(&table(name, edition)).collect::<Vec<_>>();

        for name in ["overlay", "overlay_guard"] {
            assert_eq!(read(name, ".7"), read(name, ".123"));
            assert_eq!(read(name, ".7"), read(name, ""));
        }
        assert_ne!(read("foreign", ".7"), read("foreign", ".8"));
    }

    #[test]
    fn what_came_and_what_went_is_listed() {
        let differences = snapshot(&["lo", "eth0"]).differences(&snapshot(&["lo", "ovx"]));

        assert_eq!(differences, ["+ links: ovx", "- links: eth0"]);
    }

    #[test]
    fn an_address_without_its_route_is_unfinished() {
        let part = |name: &str, line: &str| (name.to_owned(), BTreeSet::from([line.to_owned()]));
        let addresses = part("addresses in 7", "fd000000000000000000000000000001 ovt");
        let route = |line| Snapshot {
            parts: BTreeMap::from([addresses.clone(), part("routes in 7", line)]),
        };

        let prefix_alone =
            route("ovt fd000000000000000000000000000000 40 00000000000000000000000000000000");
        let both =
            route("ovt fd000000000000000000000000000001 80 00000000000000000000000000000000");

        assert_eq!(
            prefix_alone.unfinished_address().as_deref(),
            Some("fd000000000000000000000000000001 ovt")
        );
        assert_eq!(both.unfinished_address(), None);
    }

    #[test]
    fn a_table_in_two_editions_is_unfinished() {
        let rules = |lines: &[&str]| Snapshot {
            parts: BTreeMap::from([(
                "nft in 7".to_owned(),
                lines.iter().map(|&line| line.to_owned()).collect(),
            )]),
        };

        assert_eq!(rules(&["0001 counter source {", "0005 counter mac {"]).unfinished(), None);
        let both = rules(&["0001 counter source {", "0005 counter source {"]);
        assert_eq!(both.unfinished().as_deref(), Some("counter source {"));
    }

    #[test]
    fn what_packets_put_into_a_set_is_no_change() {
        let rules = |flags: &str, elements: &str| {
            let text = format!("set a {{\n\tflags {flags}\n{elements}}}\nset b {{\n}}");
            let lines: Vec<_> = text.lines().map(str::to_owned).collect();
            without_passing_elements(&lines).map(str::to_owned).collect::<Vec<_>>()
        };
        let two = "\telements = { \"ov1\" limit rate over 1/second,\n\t\t\"ov2\" timeout 1s }\n";

        assert_eq!(rules("dynamic,timeout", two), rules("dynamic,timeout", ""));
        assert_ne!(rules("interval", two), rules("interval", ""));
    }

    #[test]
    fn what_settles_is_unchanged() {
        let mut states = [snapshot(&["lo", "ovx"]), snapshot(&["lo"])].into_iter();

        snapshot(&["lo"]).assert_unchanged(|| Ok(states.next().unwrap())).unwrap();
    }

    #[test]
    fn a_file_that_was_left_shows() {
        let folder = tempfile::tempdir().unwrap();
        let before = Snapshot::of(&[folder.path()], Some("none"));
        fs::write(folder.path().join("left"), "").unwrap();

        let differences = before.differences(&Snapshot::of(&[folder.path()], Some("none")));
        assert!(differences.iter().any(|line| line.ends_with("/left")), "{differences:?}");
    }
}
