//! The program `nft`, run inside one namespace, and the number by which it is known whether anybody
//! else changed the namespace's tables since.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::process::{Command, Output, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

use super::edition::{Edition, NamedObject, ObjectKind, TableFrame};
use super::requests::{Requests, lacks_nftables};
use crate::kernel::Netns;
use crate::kernel::error::KernelError;

/// The program, found in the search path.
const PROGRAM: &str = "nft";
/// The most bytes of its complaint that are repeated.
const COMPLAINT: usize = 300;

/// Why a table is not in place; what was there before stays.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program is missing.
    #[error("the program nft is not here: install the package nftables")]
    NoProgram,
    /// The namespace cannot be entered.
    #[error("the namespace of the network cannot be entered")]
    Namespace(#[source] KernelError),
    /// The program cannot be run.
    #[error("nft cannot be run")]
    Run(#[source] io::Error),
    /// The kernel or the program refused.
    #[error(
        "nft refused: {0}; it takes a kernel with nftables for inet and arp, with sets, maps, \
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

impl NftError {
    /// Tells whether nothing is gained by trying again soon: the program is missing, or the kernel
    /// cannot do it.
    pub(crate) fn is_lasting(&self) -> bool {
        match self {
            Self::NoProgram | Self::Refused(_) => true,
            Self::Kernel(error) => lacks_nftables(error),
            Self::Namespace(_) | Self::Run(_) | Self::Answer(_) => false,
        }
    }
}

/// The program, inside one namespace, for one of our tables there.
#[derive(Debug)]
pub(super) struct Program {
    netns: Netns,
    /// What the last transaction about the table left.
    stamp: Stamp,
    /// The last transactions, until our other tables are told of them.
    untold: Option<Performed>,
}

/// Transactions that the program performed: the numbers of the tables' states around them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Performed {
    before: u32,
    after: u32,
    /// How many they were.
    count: u32,
}

/// The number of the state in which the tables of a namespace were left, if nobody else had a hand
/// in them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Stamp(Option<u32>);

/// A named counter as it stands.
#[derive(Debug, Deserialize)]
pub(super) struct Counter {
    pub(super) name: String,
    pub(super) packets: u64,
    pub(super) bytes: u64,
}

impl Stamp {
    /// Tells whether the tables are as they were left.
    pub(super) fn is(self, now: u32) -> bool {
        self.0 == Some(now)
    }

    /// Takes note of a transaction about the table that this is the stamp of.
    pub(super) fn left(performed: Performed) -> Self {
        Self(performed.is_alone().then_some(performed.after))
    }

    /// Takes note of a transaction that was ours, about another table.
    pub(super) fn follow(&mut self, performed: Performed) {
        if self.is(performed.before) && performed.is_alone() {
            *self = Self::left(performed);
        }
    }
}

impl Performed {
    /// Takes note of one transaction.
    pub(super) fn one(before: u32, after: u32) -> Self {
        Self { before, after, count: 1 }
    }

    /// Adds those that came after.
    fn then(self, next: Self) -> Self {
        Self { before: self.before, after: next.after, count: self.count.wrapping_add(next.count) }
    }

    /// Tells whether nobody else changed the tables meanwhile.
    fn is_alone(self) -> bool {
        self.after == self.before.wrapping_add(self.count)
    }
}

impl Program {
    pub(super) fn new(netns: Netns) -> Self {
        Self { netns, stamp: Stamp::default(), untold: None }
    }

    /// Tells whether the tables of the namespace are as the last transaction left them, by the
    /// number of their state now.
    pub(super) fn has_left(&self, now: u32) -> bool {
        self.stamp.is(now)
    }

    /// Takes note of a transaction after which the table is as it is to be, whatever it was before.
    pub(super) fn note(&mut self, performed: Performed) {
        self.stamp = Stamp::left(performed);
        self.untold = Some(self.untold.map_or(performed, |before| before.then(performed)));
    }

    /// Is told, once, of the last transactions about another table of ours in the namespace, which
    /// are none of foreign hands.
    pub(super) fn follow(&mut self, other: &mut Self) {
        if let Some(performed) = other.untold.take() {
            self.stamp.follow(performed);
        }
    }

    /// Makes tables anew, of a script that has all that is in them but the hooks, and does `along`
    /// inside the namespace. Packets that are under way are judged by what was there or by what is
    /// there now, and never by half of it.
    pub(super) fn make(
        &mut self,
        frames: &[TableFrame],
        script: &str,
        along: fn(),
    ) -> Result<Edition, NftError> {
        let (number, is_first) =
            self.request(|requests| Ok((requests.stamp()?, !requests.has_any_of(frames)?)))?;
        let edition = Edition(number);
        let text = edition.print(script);
        let emptied: String = frames.iter().map(TableFrame::emptied).collect();
        let script = emptied + &text;
        match self.load(&script, along) {
            // What is there may be somebody else's, and of another kind.
            Err(NftError::Refused(_)) => {
                let removed: String = frames.iter().map(TableFrame::removed).collect();
                self.load(&(removed + &script), along)?;
            }
            made => drop(made?),
        }
        // What is left over judges nothing, and goes with the next edition.
        if !is_first && let Err(error) = self.sweep(frames, edition) {
            tracing::warn!(%error, "Failed to remove what is left of a table");
        }

        Ok(edition)
    }

    /// Has the program change tables that are as the last transaction left them; where they are
    /// not, they are still foreign after it.
    pub(super) fn amend(&mut self, script: &str, along: fn()) -> Result<(), NftError> {
        let was = self.stamp;
        let performed = self.load(script, along)?;
        if !was.is(performed.before) {
            self.stamp = Stamp::default();
        }

        Ok(())
    }

    /// Takes away what is in the tables of other editions than this.
    fn sweep(&mut self, frames: &[TableFrame], edition: Edition) -> Result<(), NftError> {
        let mut script = String::new();
        for frame in frames {
            script += &frame.without_others(&self.objects(frame.table)?, edition);
        }

        if script.is_empty() { Ok(()) } else { self.amend(&script, || ()) }
    }

    /// Has the program perform a script, in one transaction, and does `along` inside the namespace.
    fn load(&mut self, script: &str, along: fn()) -> Result<Performed, NftError> {
        let before = self.request(Requests::stamp)?;
        self.run(&["-f", "-"], script)?;
        let after = self.request(|requests| {
            along();
            requests.stamp()
        })?;

        let performed = Performed::one(before, after);
        self.note(performed);

        Ok(performed)
    }

    /// Lists what has a name in a table, such as `inet overlay`.
    fn objects(&self, table: &str) -> Result<Vec<NamedObject>, NftError> {
        let listed = self.list(&["-j", "-t", &format!("list table {table}")])?;

        Ok(listed.into_iter().filter_map(Listed::object).collect())
    }

    /// Reads the named counters of a table, such as `inet overlay`.
    pub(super) fn counters(&self, table: &str) -> Result<Vec<Counter>, NftError> {
        let listed = self.list(&["-j", &format!("list counters table {table}")])?;

        Ok(listed.into_iter().filter_map(|object| object.counter).collect())
    }

    fn list(&self, arguments: &[&str]) -> Result<Vec<Listed>, NftError> {
        let listing = self.run(arguments, "")?;
        let listing: Listing = serde_json::from_slice(&listing).map_err(NftError::Answer)?;

        Ok(listing.nftables)
    }

    /// Asks the kernel, inside the namespace.
    pub(super) fn request<T: Send>(
        &self,
        ask: impl FnOnce(&Requests) -> io::Result<T> + Send,
    ) -> Result<T, NftError> {
        let asked = self.within(|| Requests::open().and_then(|requests| ask(&requests)))?;

        asked.map_err(NftError::Kernel)
    }

    /// Does something inside the namespace.
    pub(super) fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NftError> {
        self.netns.within(work).map_err(NftError::Namespace)
    }

    /// Runs the program inside the namespace, and returns its answer.
    fn run(&self, arguments: &[&str], input: &str) -> Result<Vec<u8>, NftError> {
        let output = self.within(|| run(arguments, input))?.map_err(|error| {
            if error.kind() == io::ErrorKind::NotFound {
                NftError::NoProgram
            } else {
                NftError::Run(error)
            }
        })?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let complaint: String =
            String::from_utf8_lossy(&output.stderr).chars().take(COMPLAINT).collect();

        Err(NftError::Refused(complaint.split_whitespace().collect::<Vec<_>>().join(" ")))
    }
}

fn run(arguments: &[&str], input: &str) -> io::Result<Output> {
    Command::new(PROGRAM).args(arguments).stdin(whole(input)?).output()
}

/// Holds all that the program is to read before it begins: if this process is killed, it has read
/// either all or nothing.
fn whole(input: &str) -> io::Result<Stdio> {
    let mut file = File::from(memfd_create(c"overlay-script", MFdFlags::MFD_CLOEXEC)?);
    file.write_all(input.as_bytes())?;
    file.rewind()?;

    Ok(file.into())
}

/// What `nft -j` lists.
#[derive(Debug, Deserialize)]
struct Listing {
    nftables: Vec<Listed>,
}

#[derive(Debug, Deserialize)]
struct Listed {
    chain: Option<Named>,
    set: Option<Named>,
    map: Option<Named>,
    counter: Option<Counter>,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
}

impl Listed {
    /// Returns what it is, if it is an object with a name and of a kind that our tables have.
    fn object(self) -> Option<NamedObject> {
        let kinds = [
            (ObjectKind::Chain, self.chain.map(|named| named.name)),
            (ObjectKind::Set, self.set.map(|named| named.name)),
            (ObjectKind::Map, self.map.map(|named| named.name)),
            (ObjectKind::Counter, self.counter.map(|counter| counter.name)),
        ];

        kinds.into_iter().find_map(|(kind, name)| name.map(|name| NamedObject { kind, name }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_follows_our_own_transactions_and_no_others() {
        let own = Performed::one(7, 8);
        let mut stamp = Stamp::left(own);

        stamp.follow(Performed::one(8, 9));
        assert!(stamp.is(9), "ours, about another table");
        stamp.follow(Performed::one(10, 11));
        assert!(stamp.is(9), "somebody else's came before it");
        stamp.follow(Performed::one(9, 11));
        assert!(stamp.is(9), "somebody else's came in between");
        assert_eq!(Stamp::left(Performed::one(9, 11)), Stamp::default());
    }
}
