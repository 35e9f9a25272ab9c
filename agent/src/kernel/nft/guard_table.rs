//! The tables of a network's [`Guard`], as the program `nft` puts them into the network's
//! namespace.
//!
//! They stay when this process ends, as the policy's table does.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;

use super::edition::{Held, without_edition};
use super::filter_table::FilterCount;
use super::guard::{Guard, GuardReason};
use super::guard_script::{self, ARP_TABLE, FRAMES, TABLE, TABLE_NAME};
use super::program::{Counter, NftError, Program};
use super::requests::Requests;
use crate::kernel::Netns;

/// What the kernel counts by itself, as `/proc/net/snmp6` and `/proc/net/snmp` have it.
const KERNEL_V6: [&str; 3] = ["Ip6InHdrErrors", "Ip6InAddrErrors", "Ip6ReasmFails"];
const KERNEL_V4: [&str; 3] = ["InHdrErrors", "InAddrErrors", "ReasmFails"];

/// What a guard refused since it was put in place, by reason.
pub type GuardCounts = BTreeMap<GuardReason, FilterCount>;

/// The tables in one namespace.
#[derive(Debug)]
pub(crate) struct GuardTable {
    pub(super) program: Program,
    held: Option<Held<Guard>>,
}

impl GuardTable {
    /// Takes over whatever tables are in a namespace, without touching them.
    pub(crate) fn new(netns: Netns) -> Self {
        Self { program: Program::new(netns), held: None }
    }

    /// Makes the tables those of a guard, if they are not that already, or if anybody else changed
    /// a table of the namespace since. Returns which of them it was. A change of endpoints is one
    /// transaction.
    ///
    /// # Errors
    ///
    /// [`NftError`]; what was there is there.
    pub(crate) fn keep(&mut self, guard: &Arc<Guard>) -> Result<GuardChange, NftError> {
        let now = self.program.request(Requests::stamp)?;
        let Some(held) = self.held.take() else { return self.make(guard, GuardChange::Changed) };
        if !self.program.has_left(now) {
            return self.make(guard, GuardChange::Healed);
        }
        let change = match guard_script::update(&held.content, guard) {
            Some(script) if script.is_empty() => GuardChange::AsItWas,
            Some(script) if self.program.amend(&held.edition.print(&script), || ()).is_ok() => {
                GuardChange::Changed
            }
            _ => return self.make(guard, GuardChange::Changed),
        };
        self.held = Some(Held { content: Arc::clone(guard), edition: held.edition });

        Ok(change)
    }

    /// Takes the tables away, without the program.
    ///
    /// # Errors
    ///
    /// [`NftError`]; some table is there then.
    pub(crate) fn remove(&mut self) -> Result<(), NftError> {
        self.held = None;

        self.program.request(|requests| requests.remove_tables(TABLE_NAME))
    }

    /// Reads what was refused; nothing where there is no guard.
    ///
    /// # Errors
    ///
    /// [`NftError`].
    pub(crate) fn counts(&self) -> Result<Option<GuardCounts>, NftError> {
        if !self.program.request(|requests| requests.has_chain(TABLE_NAME, "input"))? {
            return Ok(None);
        }
        let mut counts: GuardCounts =
            GuardReason::ALL.iter().map(|reason| (*reason, FilterCount::default())).collect();
        let counters = self.program.counters(TABLE)?.into_iter();
        for Counter { name, packets, bytes } in counters.chain(self.program.counters(ARP_TABLE)?) {
            let reason = GuardReason::ALL
                .into_iter()
                .find(|reason| reason.as_str() == without_edition(&name));
            if let Some(count) = reason.and_then(|reason| counts.get_mut(&reason)) {
                count.packets = count.packets.saturating_add(packets);
                count.bytes = count.bytes.saturating_add(bytes);
            }
        }
        let malformed = self.program.within(|| malformed().unwrap_or_default())?;
        counts.insert(GuardReason::Malformed, FilterCount { packets: malformed, bytes: 0 });

        Ok(Some(counts))
    }

    fn make(&mut self, guard: &Arc<Guard>, change: GuardChange) -> Result<GuardChange, NftError> {
        let edition = self.program.make(&FRAMES, &guard_script::whole(guard), || ())?;
        self.held = Some(Held { content: Arc::clone(guard), edition });

        Ok(change)
    }
}

/// What it took to keep the tables as they are to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardChange {
    /// Nothing.
    AsItWas,
    /// A change, because something else is desired.
    Changed,
    /// Others had changed them.
    Healed,
}

/// Counts what the kernel refused by itself in the calling thread's namespace.
fn malformed() -> io::Result<u64> {
    let v6 = fs::read_to_string("/proc/thread-self/net/snmp6").unwrap_or_default();

    Ok(of_snmp(&fs::read_to_string("/proc/thread-self/net/snmp")?) + of_snmp6(&v6))
}

/// Adds up the kernel's counters in a table that names each in a line of its own.
fn of_snmp6(text: &str) -> u64 {
    let pairs = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        Some((words.next()?, words.next()?.parse::<u64>().ok()?))
    });

    pairs.filter(|(name, _)| KERNEL_V6.contains(name)).map(|(_, count)| count).sum()
}

/// Adds up the kernel's counters in a table with a line of names and a line of numbers.
fn of_snmp(text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, numbers) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let pairs = names.split_whitespace().zip(numbers.split_whitespace());
    let wanted = pairs.filter(|(name, _)| KERNEL_V4.contains(name));

    wanted.filter_map(|(_, count)| count.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_counters_are_found_by_their_names() {
        let v4 = "Ip: Forwarding InHdrErrors ReasmFails\nIp: 1 5 7\nIcmp: InHdrErrors\nIcmp: 9\n";
        let v6 = "Ip6InReceives    3\nIp6InHdrErrors    4\nIp6ReasmFails  x\n";

        assert_eq!((of_snmp(v4), of_snmp6(v6)), (12, 4));
        assert_eq!((of_snmp(""), of_snmp6("")), (0, 0));
    }
}
