//! Keeps a network to its guard and to its policy: puts their tables into the network's namespace,
//! or says that they are not there and whether that leaves the network without a policy.
//!
//! ```text
//!            open ──► no table
//!  a filter ───────► its table ── cannot be put in place ─┬─► a table of before decides
//!  one that is not understood ────────────────────────────┴─► there is none: nothing is forwarded
//! ```

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use overlay_core::policy::Filter;
use tokio_util::task::TaskTracker;

use super::filter_table::FilterTable;
use super::guard::Guard;
use super::guard_table::{GuardChange, GuardTable};
use super::program::NftError;
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

/// What came of keeping a network to its guard.
#[derive(Debug, Default)]
pub(crate) struct Guarded {
    /// Whether the namespace was changed for it.
    pub(crate) did_something: bool,
    /// Whether that put right what others had changed.
    pub(crate) healed: bool,
    /// Why the guard is not there, if it is not.
    pub(crate) failure: Option<NftError>,
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
    Table(#[source] NftError),
    /// It is not understood.
    #[error("this agent does not understand the network's policy, upgrade it: {0}")]
    Unreadable(Arc<str>),
}

/// Keeps one network's namespace to its policy.
#[derive(Debug)]
pub(crate) struct Enforcement {
    tables: Arc<Mutex<Tables>>,
    /// No other process comes to the namespace while the program still runs for this one.
    lock: Arc<Lock>,
    /// What still runs, also for callers that no longer wait for it.
    runs: TaskTracker,
}

impl Enforcement {
    /// Takes over whatever table is in the namespace, without touching it. `runs` knows of every
    /// run of the program, and when it has ended the lock is free.
    pub(crate) fn new(netns: Netns, lock: Arc<Lock>, runs: TaskTracker) -> Self {
        let tables = Tables {
            guard: GuardTable::new(netns.clone()),
            filter: FilterTable::new(netns, rand::random()),
        };

        Self { tables: Arc::new(Mutex::new(tables)), lock, runs }
    }

    /// Keeps the network to this guard from now on.
    pub(crate) async fn guard(&self, desired: Arc<Guard>) -> Guarded {
        let done = self.perform(move |tables| tables.guard(&desired)).await;

        done.unwrap_or_else(|error| Guarded { failure: Some(error), ..Guarded::default() })
    }

    /// Keeps the network to this from now on. What is in force already is looked at: somebody else
    /// may have changed it.
    pub(crate) async fn enforce(&self, desired: FilterDesired) -> Enforced {
        let done = self.perform(|tables| tables.enforce(desired)).await;

        done.unwrap_or_else(|error| Enforced::failed(NotEnforcedCause::Table(error), false))
    }

    /// Does something with the tables. Not in a thread for namespaces: it waits for a program.
    async fn perform<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tables) -> T + Send + 'static,
    ) -> Result<T, NftError> {
        let (tables, lock) = (Arc::clone(&self.tables), Arc::clone(&self.lock));
        let done = self.runs.spawn_blocking(move || {
            let done = work(&mut tables.lock().unwrap_or_else(PoisonError::into_inner));
            drop(lock);
            done
        });

        done.await.map_err(|error| NftError::Run(io::Error::other(error)))
    }
}

/// All our tables of one namespace. Each is told of the others' transactions, or it would take them
/// for those of foreign hands.
#[derive(Debug)]
struct Tables {
    guard: GuardTable,
    filter: FilterTable,
}

impl Tables {
    fn guard(&mut self, desired: &Arc<Guard>) -> Guarded {
        let kept = self.guard.keep(desired);
        self.filter.program.follow(&mut self.guard.program);
        match kept {
            Ok(kept) => Guarded {
                did_something: kept != GuardChange::AsItWas,
                healed: kept == GuardChange::Healed,
                failure: None,
            },
            Err(error) => {
                if matches!(error, NftError::NoProgram) {
                    // What cannot be changed any more would shut out whoever comes.
                    let _removed_or_never_there = self.guard.remove();
                }
                Guarded { failure: Some(error), ..Guarded::default() }
            }
        }
    }

    fn enforce(&mut self, desired: FilterDesired) -> Enforced {
        let enforced = enforce(&mut self.filter, desired);
        self.guard.program.follow(&mut self.filter.program);

        enforced
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
