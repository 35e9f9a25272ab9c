//! The table of a network's [`Filter`], as the program `nft` puts it into the network's namespace.
//!
//! The table stays when this process ends: packets are judged as before until the next process has
//! made it anew. What it counted goes with it then.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::process::{Command, Output, Stdio};

use overlay_core::Name;
use overlay_core::policy::Filter;
use serde::Deserialize;

use super::filter_script::{self, DEFAULT, Generation, INVALID, RULE_PREFIX, TABLE, UNKNOWN};
use crate::kernel::Netns;
use crate::kernel::error::KernelError;

/// The program, found in the search path.
const PROGRAM: &str = "nft";
/// The most bytes of its complaint that are repeated.
const COMPLAINT: usize = 300;

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
    #[error("nft refused: {0}")]
    Refused(String),
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
    held: Option<Filter>,
}

impl FilterTable {
    /// Takes over whatever table is in a namespace, without touching it. `bits` are random.
    pub fn new(netns: Netns, bits: u32) -> Self {
        Self { netns, generation: Generation::from_random(bits), held: None }
    }

    /// Makes the table that of a filter, in one transaction; does nothing where it is that already.
    /// A filter with the rules of the one before changes elements of sets alone, unless somebody
    /// else changed the table: then it is made anew.
    ///
    /// # Errors
    ///
    /// [`FilterError`]; what was there is there.
    pub fn apply(&mut self, filter: Filter) -> Result<(), FilterError> {
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

    /// Changes elements of sets, if that is all that is to be done, and returns their generation.
    fn update(&self, filter: &Filter) -> Option<Result<Generation, FilterError>> {
        let held = self.held.as_ref().filter(|held| filter.has_rules_of(held))?;
        let next = filter.unsettles(held).then(|| self.generation.next());
        let generations = next.map(|next| (self.generation, next));
        let script = filter_script::update(held, filter, generations);
        let done = script.map_or(Ok(()), |script| self.load(&script));

        Some(done.map(|()| next.unwrap_or(self.generation)))
    }

    /// Takes the table away: everything passes, unlooked at.
    ///
    /// # Errors
    ///
    /// [`FilterError`]; the table is there then.
    pub fn remove(&mut self) -> Result<(), FilterError> {
        self.load(&filter_script::remove())?;
        self.held = None;

        Ok(())
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
    fn load(&self, script: &str) -> Result<(), FilterError> {
        self.run(&["-f", "-"], script).map(drop)
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
    let mut child = Command::new(PROGRAM)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    // It reads all before it writes anything.
    let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;

    match written {
        // It had read enough to refuse.
        Err(error) if output.status.success() => Err(error),
        Ok(()) | Err(_) => Ok(output),
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
