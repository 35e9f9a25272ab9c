//! Keeps a network to its policy: puts the policy's table into the network's namespace, or says
//! that it is not there and whether that leaves the network without any.
//!
//! ```text
//!            open ──► no table
//!  a filter ───────► its table ── cannot be put in place ─┬─► a table of before decides
//!  one that is not understood ────────────────────────────┴─► there is none: nothing is forwarded
//! ```

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use overlay_core::policy::Filter;
use tokio::task::{JoinError, spawn_blocking};

use super::filter_table::{FilterError, FilterTable};
use crate::kernel::Netns;
use crate::kernel::lock::Lock;

/// What a network is to be kept to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum FilterDesired {
    /// Everything passes, unlooked at.
    #[default]
    Open,
    /// This filter.
    Filter(Arc<Filter>),
    /// A policy that this agent does not understand, with the reason.
    Unreadable(Arc<str>),
}

/// What came of keeping a network to its policy.
#[derive(Debug, Default)]
pub(crate) struct Enforced {
    /// Whether the namespace was changed for it.
    pub(crate) did_something: bool,
    /// Whether that put right what others had changed.
    pub(crate) healed: bool,
    /// Why the policy is not in force, if it is not.
    pub(crate) failure: Option<NotEnforced>,
}

/// A policy that is not in force.
#[derive(Debug)]
pub(crate) struct NotEnforced {
    /// The reason.
    pub(crate) cause: NotEnforcedCause,
    /// Whether a table of before decides. Otherwise nothing may be forwarded.
    pub(crate) has_earlier: bool,
}

/// Why a policy is not in force.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotEnforcedCause {
    /// It cannot be put in place.
    #[error("the network's policy cannot be put in place")]
    Table(#[source] FilterError),
    /// It is not understood.
    #[error("this agent does not understand the network's policy, upgrade it: {0}")]
    Unreadable(Arc<str>),
}

/// Keeps one network's namespace to its policy.
#[derive(Debug)]
pub(crate) struct Enforcement {
    table: Arc<Mutex<FilterTable>>,
    /// No other process comes to the namespace while the program still runs for this one.
    lock: Arc<Lock>,
}

impl Enforcement {
    /// Takes over whatever table is in the namespace, without touching it.
    pub(crate) fn new(netns: Netns, lock: Arc<Lock>) -> Self {
        let table = FilterTable::new(netns, rand::random());

        Self { table: Arc::new(Mutex::new(table)), lock }
    }

    /// Keeps the network to this from now on. What is in force already is looked at: somebody else
    /// may have changed it.
    pub(crate) async fn enforce(&self, desired: FilterDesired) -> Enforced {
        let (table, lock) = (Arc::clone(&self.table), Arc::clone(&self.lock));
        // Not in a thread for namespaces: it waits for a program.
        let done = spawn_blocking(move || {
            let enforced =
                enforce(&mut table.lock().unwrap_or_else(PoisonError::into_inner), desired);
            drop(lock);
            enforced
        });
        let failed = |error: JoinError| {
            let error = FilterError::Run(io::Error::other(error));
            Enforced::failed(NotEnforcedCause::Table(error), false)
        };

        done.await.unwrap_or_else(failed)
    }
}

impl Enforced {
    fn failed(cause: NotEnforcedCause, has_earlier: bool) -> Self {
        Self { failure: Some(NotEnforced { cause, has_earlier }), ..Self::default() }
    }
}

fn enforce(table: &mut FilterTable, desired: FilterDesired) -> Enforced {
    let done = match desired {
        FilterDesired::Open => {
            // What cannot be taken away may be there, and is no reason to forward nothing.
            return match table.remove() {
                Ok(did_something) => Enforced { did_something, ..Enforced::default() },
                Err(error) => Enforced::failed(NotEnforcedCause::Table(error), true),
            };
        }
        FilterDesired::Filter(filter) if table.holds(&filter) => {
            table.heal().map(|healed| (healed, healed))
        }
        FilterDesired::Filter(filter) => table.apply(filter).map(|()| (true, false)),
        FilterDesired::Unreadable(why) => {
            return Enforced::failed(NotEnforcedCause::Unreadable(why), is_there(table));
        }
    };

    match done {
        Ok((did_something, healed)) => Enforced { did_something, healed, failure: None },
        Err(error) => Enforced::failed(NotEnforcedCause::Table(error), is_there(table)),
    }
}

/// Returns whether some table decides; a kernel that does not say so has none.
fn is_there(table: &FilterTable) -> bool {
    table.is_there().unwrap_or(false)
}
