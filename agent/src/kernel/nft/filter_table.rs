//! The table of a network's [`Filter`], as the program `nft` puts it into the network's namespace.
//!
//! The table stays when this process ends: packets are judged as before until the next process has
//! made it anew. What it counted goes with it then.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use nix::sys::memfd::{MFdFlags, memfd_create};
use overlay_core::Name;
use overlay_core::policy::Filter;
use serde::Deserialize;

use super::filter_script::{
    self, DEFAULT, FORWARD, Generation, INVALID, RULE_PREFIX, TABLE, TABLE_NAME, UNKNOWN,
};
use super::requests::{Requests, lacks_nftables};
use crate::kernel::Netns;
use crate::kernel::error::KernelError;
use crate::kernel::sysctl;
use crate::kernel::tables::Sysctl;

/// The program, found in the search path.
const PROGRAM: &str = "nft";
/// The most bytes of its complaint that are repeated.
const COMPLAINT: usize = 300;
/// TCP packets outside of the window that connection tracking has seen belong to their flow all the
/// same: it is theirs to say. Otherwise flows whose packets it missed would be cut.
const LIBERAL: (&str, &str) = ("netfilter/nf_conntrack_tcp_be_liberal", "1");

/// Why a filter is not in place; what was there before stays.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// The program is missing.
    #[error("policies need the program nft, which is not here: install the package nftables")]
    NoProgram,
    /// The namespace cannot be entered.
    #[error("the namespace of the network cannot be entered")]
    Namespace(#[source] KernelError),
    /// The program cannot be run.
    #[error("nft cannot be run")]
    Run(#[source] io::Error),
    /// The kernel or the program refused.
    #[error(
        "nft refused: {0}; policies need a kernel with nftables for inet, with sets, maps, \
         counters, conntrack and logs, and nft 1.0 or later"
    )]
    Refused(String),
    /// The kernel refused, without the program.
    #[error("the kernel's nftables do not answer")]
    Kernel(#[source] io::Error),
    /// What it answers is not understood.
    #[error("nft answers what is not understood")]
    Answer(#[source] serde_json::Error),
}

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
    netns: Netns,
    generation: Generation,
    held: Option<Arc<Filter>>,
    /// The number of the state in which the last transaction left the namespace's tables; nothing
    /// where somebody else had a hand in it.
    stamp: Option<u32>,
}

impl FilterTable {
    /// Takes over whatever table is in a namespace, without touching it. `bits` are random.
    pub fn new(netns: Netns, bits: u32) -> Self {
        Self { netns, generation: Generation::from_random(bits), held: None, stamp: None }
    }

    /// Returns whether this filter is what was put in place last.
    pub fn holds(&self, filter: &Arc<Filter>) -> bool {
        self.held.as_ref() == Some(filter)
    }

    /// Makes the table that of a filter, in one transaction; does nothing where it is that already.
    /// A filter with the rules of the one before changes elements of sets alone, unless somebody
    /// else changed the table: then it is made anew.
    ///
    /// # Errors
    ///
    /// [`FilterError`]; what was there is there.
    pub fn apply(&mut self, filter: Arc<Filter>) -> Result<(), FilterError> {
        match self.update(&filter) {
            Some(Ok(generation)) => self.generation = generation,
            Some(Err(FilterError::Refused(_))) | None => {
                let next = self.generation.next();
                self.load(&filter_script::replace(&filter, next))?;
                self.generation = next;
            }
            Some(Err(error)) => return Err(error),
        }
        self.held = Some(filter);

        Ok(())
    }

    /// Makes the table anew if anybody else changed a table of the namespace since; returns whether
    /// that was so.
    ///
    /// # Errors
    ///
    /// [`FilterError`]; what was there is there.
    pub fn heal(&mut self) -> Result<bool, FilterError> {
        let Some(held) = self.held.clone() else { return Ok(false) };
        let stamp = self.request(|requests| {
            set_liberal();
            requests.stamp()
        })?;
        if self.stamp == Some(stamp) {
            return Ok(false);
        }
        self.held = None;
        self.apply(held)?;

        Ok(true)
    }

    /// Changes elements of sets, if that is all that is to be done, and returns their generation.
    fn update(&mut self, filter: &Filter) -> Option<Result<Generation, FilterError>> {
        let held = self.held.clone().filter(|held| filter.has_rules_of(held))?;
        let next = filter.unsettles(&held).then(|| self.generation.next());
        let generations = next.map(|next| (self.generation, next));
        let script = filter_script::update(&held, filter, generations);
        let done = script.map_or(Ok(()), |script| self.load(&script));

        Some(done.map(|()| next.unwrap_or(self.generation)))
    }

    /// Takes the table away, without the program: everything passes, unlooked at. Returns whether
    /// there was one.
    ///
    /// # Errors
    ///
    /// [`FilterError`]; the table is there then.
    pub fn remove(&mut self) -> Result<bool, FilterError> {
        let removed = self.request(|requests| requests.remove_table(TABLE_NAME));
        let was_there = match removed {
            Err(FilterError::Kernel(error)) if lacks_nftables(&error) => false,
            removed => removed?,
        };
        self.held = None;

        Ok(was_there)
    }

    /// Returns whether a table, whoever made it, decides about the packets of the namespace.
    ///
    /// # Errors
    ///
    /// [`FilterError`].
    pub fn is_there(&self) -> Result<bool, FilterError> {
        self.request(|requests| requests.has_chain(TABLE_NAME, FORWARD))
    }

    /// Reads what was counted.
    ///
    /// # Errors
    ///
    /// [`FilterError`].
    pub fn counts(&self) -> Result<FilterCounts, FilterError> {
        let listing = self.run(&["-j", &format!("list counters table {TABLE}")], "")?;
        let listing: Listing = serde_json::from_slice(&listing).map_err(FilterError::Answer)?;

        Ok(listing.counts())
    }

    /// Has the program perform a script, in one transaction.
    fn load(&mut self, script: &str) -> Result<(), FilterError> {
        let before = self.request(Requests::stamp)?;
        self.stamp = None;
        self.run(&["-f", "-"], script)?;
        let after = self.request(|requests| {
            set_liberal();
            requests.stamp()
        })?;
        self.stamp = (after == before.wrapping_add(1)).then_some(after);

        Ok(())
    }

    /// Asks the kernel, inside the namespace.
    fn request<T: Send>(
        &self,
        ask: impl FnOnce(&Requests) -> io::Result<T> + Send,
    ) -> Result<T, FilterError> {
        let asked = self.netns.within(|| Requests::open().and_then(|requests| ask(&requests)));

        asked.map_err(FilterError::Namespace)?.map_err(FilterError::Kernel)
    }

    /// Runs the program inside the namespace, and returns its answer.
    fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, FilterError> {
        let ran = self.netns.within(|| run(arguments, input)).map_err(FilterError::Namespace)?;
        let output = ran.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                FilterError::NoProgram
            } else {
                FilterError::Run(error)
            }
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let complaint: String =
            String::from_utf8_lossy(&output.stderr).chars().take(COMPLAINT).collect();

        Err(FilterError::Refused(complaint.split_whitespace().collect::<Vec<_>>().join(" ")))
    }
}

fn run(arguments: &[&str], input: &str) -> io::Result<Output> {
    Command::new(PROGRAM).args(arguments).stdin(whole(input)?).output()
}

/// Holds all that the program is to read before it begins: if this process is killed, it has read
/// either all or nothing.
fn whole(input: &str) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create(c"overlay-policy", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(input.as_bytes())?;
    file.rewind()?;

    Ok(file.into())
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

/// What `nft -j` lists.
#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Listed>,
}

impl Listing {
    fn counts(self) -> FilterCounts {
        let mut counts = FilterCounts::default();
        for Counter { name, packets, bytes } in
            self.nftables.into_iter().filter_map(|object| object.counter)
        {
            let count = FilterCount { packets, bytes };
            let rule = name.strip_prefix(RULE_PREFIX).and_then(|rule| rule.parse().ok());
            match (rule, name.as_str()) {
                (Some(rule), _) => drop(counts.rules.insert(rule, count)),
                (None, DEFAULT) => counts.default = count,
                (None, UNKNOWN) => counts.unknown = count,
                (None, INVALID) => counts.invalid = count,
                // Somebody else's.
                (None, _) => {}
            }
        }

        counts
    }
}

#[derive(Debug, Deserialize)]
struct Listed {
    counter: Option<Counter>,
}

#[derive(Debug, Deserialize)]
struct Counter {
    name: String,
    packets: u64,
    bytes: u64,
}
