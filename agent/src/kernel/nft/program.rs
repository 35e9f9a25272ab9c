//! The program `nft`, run inside one namespace, and the number by which it is known whether anybody
//! else changed the namespace's tables since.

use std::fs::File;
use std::io::{self, Seek as _, Write as _};
use std::process::{Command, Output, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use serde::Deserialize;

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
    /// That transaction, until our other tables are told of it.
    untold: Option<Performed>,
}

/// A transaction that the program performed: the numbers of the tables' states around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Performed {
    pub(super) before: u32,
    pub(super) after: u32,
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
    /// Tells whether nobody else changed the tables meanwhile.
    fn is_alone(self) -> bool {
        self.after == self.before.wrapping_add(1)
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

    /// Takes note of a transaction about the table.
    pub(super) fn note(&mut self, performed: Performed) {
        self.stamp = Stamp::left(performed);
        self.untold = Some(performed);
    }

    /// Is told, once, of the last transaction about another table of ours in the namespace, which
    /// is none of foreign hands.
    pub(super) fn follow(&mut self, other: &mut Self) {
        if let Some(performed) = other.untold.take() {
            self.stamp.follow(performed);
        }
    }

    /// Has the program perform a script, in one transaction, and does `along` inside the namespace.
    pub(super) fn load(
        &mut self,
        script: &str,
        along: impl FnOnce() + Send,
    ) -> Result<(), NftError> {
        self.stamp = Stamp::default();
        let before = self.request(Requests::stamp)?;
        self.run(&["-f", "-"], script)?;
        let after = self.request(|requests| {
            along();
            requests.stamp()
        })?;

        self.note(Performed { before, after });

        Ok(())
    }

    /// Reads the named counters of a table, such as `inet overlay`.
    pub(super) fn counters(&self, table: &str) -> Result<Vec<Counter>, NftError> {
        let listing = self.run(&["-j", &format!("list counters table {table}")], "")?;
        let listing: Listing = serde_json::from_slice(&listing).map_err(NftError::Answer)?;

        Ok(listing.nftables.into_iter().filter_map(|object| object.counter).collect())
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
    counter: Option<Counter>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_follows_our_own_transactions_and_no_others() {
        let own = Performed { before: 7, after: 8 };
        let mut stamp = Stamp::left(own);

        stamp.follow(Performed { before: 8, after: 9 });
        assert!(stamp.is(9), "ours, about another table");
        stamp.follow(Performed { before: 10, after: 11 });
        assert!(stamp.is(9), "somebody else's came before it");
        stamp.follow(Performed { before: 9, after: 11 });
        assert!(stamp.is(9), "somebody else's came in between");
        assert_eq!(Stamp::left(Performed { before: 9, after: 11 }), Stamp::default());
    }
}
