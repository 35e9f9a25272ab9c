//! The table of a network's [`Filter`], as the program `nft` puts it into the network's namespace.
//!
//! The table stays when this process ends: packets are judged as before until the next process has
//! made it anew. What it counted goes with it then.

use std::collections::BTreeMap;
use std::sync::Arc;

use overlay_core::Name;
use overlay_core::policy::Filter;

use super::edition::{Edition, Held, without_edition};
use super::filter_script::{
    self, DEFAULT, FORWARD, FRAME, Generation, INVALID, RULE_PREFIX, TABLE, TABLE_NAME, UNKNOWN,
};
use super::program::{Counter, NftError, Performed, Program};
use super::requests::lacks_nftables;
use crate::kernel::Netns;
use crate::kernel::sysctl;
use crate::kernel::tables::Sysctl;

/// TCP packets outside of the window that connection tracking has seen belong to their flow all the
/// same: it is theirs to say. Otherwise flows whose packets it missed would be cut.
const LIBERAL: (&str, &str) = ("netfilter/nf_conntrack_tcp_be_liberal", "1");

/// What a filter counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FilterCount {
    /// Packets: of what is refused every one, of what passes the first of each flow.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// All that a filter counted since its rules were put in place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FilterCounts {
    /// By rule.
    pub rules: BTreeMap<Name, FilterCount>,
    /// What no rule matches.
    pub default: FilterCount,
    /// Packets from or to addresses of which nothing is known; all refused.
    pub unknown: FilterCount,
    /// Packets that belong to no flow; all refused.
    pub invalid: FilterCount,
}

/// The table in one namespace.
#[derive(Debug)]
pub struct FilterTable {
    pub(super) program: Program,
    generation: Generation,
    held: Option<Held<Filter>>,
}

impl FilterTable {
    /// Takes over whatever table is in a namespace, without touching it. `bits` are random.
    pub fn new(netns: Netns, bits: u32) -> Self {
        Self { program: Program::new(netns), generation: Generation::from_random(bits), held: None }
    }

    /// Returns whether this filter is what was put in place last.
    pub fn holds(&self, filter: &Arc<Filter>) -> bool {
        self.held.as_ref().is_some_and(|held| held.content == *filter)
    }

    /// Makes the table that of a filter; does nothing where it is that already. A filter with the
    /// rules of the one before changes elements of sets alone, in one transaction, unless somebody
    /// else changed the table: then it is made anew.
    ///
    /// # Errors
    ///
    /// [`NftError`]; what was there is there.
    pub fn apply(&mut self, filter: Arc<Filter>) -> Result<(), NftError> {
        let is_foreign = self.is_foreign()?;
        let held = self.held.as_ref().map(|held| (Arc::clone(&held.content), held.edition));
        if let Some((before, edition)) = held.filter(|(before, _)| filter.has_rules_of(before))
            && !is_foreign
        {
            match self.update(edition, &before, &filter) {
                Err(NftError::Refused(_)) => {}
                updated => return updated,
            }
        }

        self.make(filter)
    }

    /// Makes the table anew if anybody else changed a table of the namespace since; returns whether
    /// that was so.
    ///
    /// # Errors
    ///
    /// [`NftError`]; what was there is there.
    pub fn heal(&mut self) -> Result<bool, NftError> {
        let Some(held) = self.held.as_ref().map(|held| Arc::clone(&held.content)) else {
            return Ok(false);
        };
        if !self.is_foreign()? {
            return Ok(false);
        }
        self.make(held)?;

        Ok(true)
    }

    /// Returns whether anybody else changed a table of the namespace since.
    fn is_foreign(&self) -> Result<bool, NftError> {
        let stamp = self.program.request(|requests| {
            set_liberal();
            requests.stamp()
        })?;

        Ok(!self.program.has_left(stamp))
    }

    fn make(&mut self, filter: Arc<Filter>) -> Result<(), NftError> {
        let next = self.generation.next();
        let script = filter_script::whole(&filter, next);
        let edition = self.program.make(&[FRAME], &script, set_liberal)?;
        self.generation = next;
        self.held = Some(Held { content: filter, edition });

        Ok(())
    }

    /// Changes elements of sets, which is all that is to be done.
    fn update(
        &mut self,
        edition: Edition,
        before: &Filter,
        filter: &Arc<Filter>,
    ) -> Result<(), NftError> {
        let next = filter.unsettles(before).then(|| self.generation.next());
        let generations = next.map(|next| (self.generation, next));
        if let Some(script) = filter_script::update(before, filter, generations) {
            self.program.amend(&edition.print(&script), set_liberal)?;
        }
        self.generation = next.unwrap_or(self.generation);
        self.held = Some(Held { content: Arc::clone(filter), edition });

        Ok(())
    }

    /// Takes the table away, without the program: everything passes, unlooked at. Returns whether
    /// there was one.
    ///
    /// # Errors
    ///
    /// [`NftError`]; the table is there then.
    pub fn remove(&mut self) -> Result<bool, NftError> {
        let removed = self.program.request(|requests| {
            let before = requests.stamp()?;
            let was_there = requests.remove_table(TABLE_NAME)?;
            let after = requests.stamp()?;
            Ok(was_there.then_some(Performed::one(before, after)))
        });
        let removed = match removed {
            Err(NftError::Kernel(error)) if lacks_nftables(&error) => None,
            removed => removed?,
        };
        self.held = None;
        if let Some(performed) = removed {
            self.program.note(performed);
        }

        Ok(removed.is_some())
    }

    /// Returns whether a table, whoever made it, decides about the packets of the namespace.
    ///
    /// # Errors
    ///
    /// [`NftError`].
    pub fn is_there(&self) -> Result<bool, NftError> {
        self.program.request(|requests| requests.has_chain(TABLE_NAME, FORWARD))
    }

    /// Reads what was counted.
    ///
    /// # Errors
    ///
    /// [`NftError`].
    pub fn counts(&self) -> Result<FilterCounts, NftError> {
        Ok(counts(self.program.counters(TABLE)?))
    }
}

/// Sets what connection tracking must be like, in the calling thread's namespace; without it flows
/// may be cut, and nothing passes that must not.
fn set_liberal() {
    let (path, wanted) = LIBERAL;
    let parameter = Sysctl::global(path);
    let is_set =
        sysctl::list([&parameter].into_iter()).get(&parameter).is_some_and(|v| v == wanted);
    if !is_set && let Err(error) = sysctl::set(&parameter, wanted) {
        tracing::debug!(%error, path, "Failed to set a parameter of connection tracking");
    }
}

fn counts(counters: Vec<Counter>) -> FilterCounts {
    let mut counts = FilterCounts::default();
    for Counter { name, packets, bytes } in counters {
        let name = without_edition(&name);
        let rule = name.strip_prefix(RULE_PREFIX).and_then(|rule| rule.parse().ok());
        let count = match (rule, name) {
            (Some(rule), _) => counts.rules.entry(rule).or_default(),
            (None, DEFAULT) => &mut counts.default,
            (None, UNKNOWN) => &mut counts.unknown,
            (None, INVALID) => &mut counts.invalid,
            // Somebody else's.
            (None, _) => continue,
        };
        // While the table is made anew, those of two editions are there.
        count.packets = count.packets.saturating_add(packets);
        count.bytes = count.bytes.saturating_add(bytes);
    }

    counts
}
