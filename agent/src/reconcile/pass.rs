//! One pass over a network: container sides first, then the namespace, which lets their packets in.
//! A new namespace is brought to its value before that too, so that no endpoint ever comes into one
//! that pins no source. The network's guard and its policy are in force before all that. Where the
//! policy is not, no endpoint comes in, and where there is none of before either, nothing is
//! forwarded. Where the guard cannot be had, that is told; where it cannot be changed for the
//! moment, no new endpoint comes in.
//!
//! Where only routes are to be others, nobody else is known to have changed anything, and the
//! namespace was left as wanted, a pass is no more than the routes that differ.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use overlay_core::EndpointId;

use super::namespace_ops::NamespaceOps;
use super::{EndpointState, NetworkReport};
use crate::desired::NetworkDesired;
use crate::kernel::nft::{Enforced, FilterDesired, Guard, Guarded, NftError, NotEnforced};
use crate::kernel::{ChangeScope, KernelError, NamespaceDesired, NetworkInterface, SandboxDesired};
use crate::problem::explain;

/// Container sides looked into at each resync, turn by turn: each costs a netlink socket inside.
const SANDBOXES_A_RESYNC: usize = 32;

/// Why a pass is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// Something else is desired than before.
    Desired,
    /// The kernel said that something changed.
    Event,
    /// A resync was due.
    Resync,
}

/// How a pass went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PassOutcome {
    /// Whether all is as desired.
    pub(crate) is_complete: bool,
    /// Whether all of the namespace was read back.
    pub(crate) is_whole: bool,
    /// Whether anything had to be done for it.
    pub(crate) did_something: bool,
    /// How many resyncs it takes to look at all container sides.
    pub(crate) turns: usize,
}

/// What a worker remembers between passes.
#[derive(Debug, Default)]
pub(crate) struct Reconciler {
    /// The container sides that are in place, as they were made.
    attached: BTreeMap<EndpointId, SandboxDesired>,
    /// What the namespace was brought to, as far as that was possible: what differs from it later
    /// was changed by others.
    settled: Option<Arc<NetworkDesired>>,
    /// Whether that was possible in all.
    is_confirmed: bool,
    /// Where the last resync of container sides stopped.
    looked_at: Option<EndpointId>,
    /// Whether the namespace has been brought to a wanted value once: no endpoint comes into one
    /// that has not.
    prepared: bool,
    report: NetworkReport,
}

impl Reconciler {
    /// Returns how the network is doing since the last pass.
    pub(crate) fn report(&self) -> &NetworkReport {
        &self.report
    }

    /// Runs one pass; looks into the sandboxes in which something `changed` as well, and at the
    /// whole namespace if something did there. Returns how it went, and a new interface if the old
    /// one died.
    pub(crate) async fn run(
        &mut self,
        ops: &mut impl NamespaceOps,
        desired: &Arc<NetworkDesired>,
        cause: Cause,
        changed: &BTreeSet<ChangeScope>,
    ) -> (PassOutcome, Option<NetworkInterface>) {
        let is_gone = |id: &&EndpointId| !desired.sandboxes.contains_key(id);
        let gone: Vec<_> = self.attached.keys().filter(is_gone).copied().collect();
        self.attached.retain(|id, _| desired.sandboxes.contains_key(id));
        let due = self.due(desired, cause, changed);
        let is_quiet = due.is_empty() && !changed.contains(&ChangeScope::Network);
        let is_quick = cause == Cause::Desired && is_quiet && self.is_confirmed;
        let guarded = self.guard(ops, desired, is_quick).await;
        let enforced = self.enforce(ops, desired, &gone, is_quick).await;
        let mut pass = Pass::new(guarded, enforced);
        if is_quick
            && pass.policy.is_none()
            && let Some(steps) = self.reroute(ops, desired).await
        {
            pass.done += steps;
            return self.conclude(desired, pass);
        }
        pass.is_whole = true;
        pass.is_settled = self.settled.as_ref().is_some_and(|settled| *settled == *desired);
        let namespace = pass.namespace(desired);
        if !self.prepared {
            pass.reconcile(ops, &namespace).await;
            self.prepared = pass.problem.is_none();
        }
        self.attach_all(ops, due, desired, &mut pass).await;
        pass.reconcile(ops, &namespace).await;
        // Veth pairs that had gone are made again, and then need their routes.
        if !pass.missing.is_empty() && pass.policy.is_none() {
            let missing = std::mem::take(&mut pass.missing);
            self.attach_all(ops, missing, desired, &mut pass).await;
            pass.reconcile(ops, &namespace).await;
        }

        self.conclude(desired, pass)
    }

    /// Keeps the containers to the guard. A quick pass does not look at it where nothing of it is
    /// to be another.
    async fn guard(
        &self,
        ops: &mut impl NamespaceOps,
        desired: &NetworkDesired,
        is_quick: bool,
    ) -> Guarded {
        let wanted = (&desired.namespace, &desired.sandboxes);
        let is_held = |settled: &Arc<NetworkDesired>| {
            Guard::is_alike((&settled.namespace, &settled.sandboxes), wanted)
        };
        if is_quick && self.settled.as_ref().is_some_and(is_held) {
            return Guarded::default();
        }

        ops.guard(Arc::new(Guard::new(wanted.0, wanted.1))).await
    }

    /// Keeps the network to its policy. Where that is known to be in force, a quick pass does not
    /// look whether it still is.
    async fn enforce(
        &self,
        ops: &mut impl NamespaceOps,
        desired: &NetworkDesired,
        gone: &[EndpointId],
        is_quick: bool,
    ) -> Enforced {
        let held = self.settled.as_ref().map(|settled| &settled.filter);
        let is_held = held == Some(&desired.filter);
        if is_held && (is_quick || desired.filter == FilterDesired::Open) {
            return Enforced::default();
        }
        if !is_held && desired.filter != FilterDesired::Open {
            // Its address may be another's from now on, with other rights.
            for id in gone.iter().filter(|id| !desired.namespace.strays.contains(**id)) {
                if let Err(error) = ops.detach(*id).await {
                    tracing::debug!(%error, endpoint = %id, "Failed to remove an interface");
                }
            }
        }

        ops.enforce(&desired.filter).await
    }

    /// Changes the routes that differ from what the namespace holds; nothing if that is not known
    /// or not enough. Returns the number of steps.
    async fn reroute(
        &self,
        ops: &mut impl NamespaceOps,
        desired: &NetworkDesired,
    ) -> Option<usize> {
        let held = self.settled.as_ref()?;

        Some(ops.reroute(&held.namespace, &desired.namespace).await?.len())
    }

    /// Lists the container sides to look into.
    fn due(
        &mut self,
        desired: &NetworkDesired,
        cause: Cause,
        changed: &BTreeSet<ChangeScope>,
    ) -> Vec<EndpointId> {
        let differ =
            desired.sandboxes.iter().filter(|(id, wanted)| self.attached.get(id) != Some(wanted));
        let in_sandbox = changed.iter().filter_map(|scope| match scope {
            ChangeScope::Network => None,
            ChangeScope::Sandbox(endpoint) => Some(*endpoint),
        });
        let mut due: BTreeSet<EndpointId> = differ.map(|(id, _)| *id).chain(in_sandbox).collect();
        if cause == Cause::Resync {
            let after =
                desired.sandboxes.keys().filter(|id| self.looked_at.is_none_or(|last| **id > last));
            let turn: Vec<_> = after.take(SANDBOXES_A_RESYNC).copied().collect();
            self.looked_at = turn.last().filter(|_| turn.len() == SANDBOXES_A_RESYNC).copied();
            due.extend(turn);
        }

        due.into_iter().collect()
    }

    /// Makes or heals container sides; none without the policy, and no new ones while the guard
    /// cannot be told of them: it would refuse all that they send.
    async fn attach_all(
        &mut self,
        ops: &mut impl NamespaceOps,
        ids: impl IntoIterator<Item = EndpointId>,
        desired: &NetworkDesired,
        pass: &mut Pass,
    ) {
        if pass.policy.is_some() {
            return;
        }
        let unguarded = pass.guard.as_ref().filter(|error| !error.is_lasting()).map(explain_guard);
        for id in ids {
            match &unguarded {
                Some(why) if !self.attached.contains_key(&id) => {
                    pass.failed.insert(id, EndpointState::Failed(why.clone()));
                }
                Some(_) | None => self.attach(ops, id, desired, pass).await,
            }
        }
    }

    /// Makes or heals one container side.
    async fn attach(
        &mut self,
        ops: &mut impl NamespaceOps,
        id: EndpointId,
        desired: &NetworkDesired,
        pass: &mut Pass,
    ) {
        let Some(wanted) = desired.sandboxes.get(&id) else { return };
        let was_in_place = self.attached.get(&id) == Some(wanted);
        let failure = match ops.attach(id, wanted).await {
            Ok(report) => {
                // A new one takes changes of the namespace, too.
                pass.is_settled &= was_in_place;
                pass.done += report.steps.len();
                pass.healed += if was_in_place { report.steps.len() } else { 0 };
                report.errors.first().map(refused)
            }
            Err(error) => Some(refused(&error)),
        };
        match failure {
            None => drop(self.attached.insert(id, wanted.clone())),
            Some(state) => {
                self.attached.remove(&id);
                pass.failed.insert(id, state);
            }
        }
    }

    fn conclude(
        &mut self,
        desired: &Arc<NetworkDesired>,
        pass: Pass,
    ) -> (PassOutcome, Option<NetworkInterface>) {
        let usable = pass.problem.is_none() && !pass.is_closed();
        let is_in_force = pass.policy.is_none();
        let state = |id: &EndpointId| match pass.failed.get(id) {
            Some(state) => Some(state.clone()),
            None if !usable => Some(EndpointState::HeldUp),
            None if self.attached.contains_key(id) => Some(EndpointState::Ready),
            None => (!is_in_force).then_some(EndpointState::HeldUp),
        };
        self.report = NetworkReport {
            endpoints: desired.sandboxes.keys().filter_map(|id| Some((*id, state(id)?))).collect(),
            drift_healed: self
                .report
                .drift_healed
                .saturating_add(u32::try_from(pass.healed).unwrap_or(u32::MAX)),
            policy: pass.policy.as_ref().map(not_enforced),
            guard: pass.guard.as_ref().filter(|_| pass.policy.is_none()).map(not_guarded),
            problem: pass.problem,
        };
        let usable = usable && is_in_force;
        self.settled = usable.then(|| Arc::clone(desired));
        let may_recover = pass.guard.as_ref().is_some_and(|error| !error.is_lasting());
        self.is_confirmed =
            usable && !may_recover && pass.failed.is_empty() && pass.missing.is_empty();
        let outcome = PassOutcome {
            is_complete: self.is_confirmed,
            is_whole: pass.is_whole,
            did_something: pass.done > 0,
            turns: desired.sandboxes.len().div_ceil(SANDBOXES_A_RESYNC),
        };

        (outcome, pass.interface)
    }
}

/// What one pass has seen so far.
#[derive(Debug, Default)]
struct Pass {
    failed: BTreeMap<EndpointId, EndpointState>,
    missing: BTreeSet<EndpointId>,
    /// Whether all of the namespace is read back.
    is_whole: bool,
    /// Whether what differs in the namespace was changed by others.
    is_settled: bool,
    /// Steps taken.
    done: usize,
    /// Those of them that put right what others had changed.
    healed: usize,
    problem: Option<String>,
    /// Why the policy is not in force.
    policy: Option<NotEnforced>,
    /// Why the guard is not there.
    guard: Option<NftError>,
    interface: Option<NetworkInterface>,
}

impl Pass {
    /// Begins with what came of the guard and the policy.
    fn new(guarded: Guarded, enforced: Enforced) -> Self {
        Self {
            done: usize::from(enforced.did_something) + usize::from(guarded.did_something),
            healed: usize::from(enforced.healed || guarded.healed),
            policy: enforced.failure,
            guard: guarded.failure,
            ..Self::default()
        }
    }

    /// Tells whether no policy at all is in force, though there is one.
    fn is_closed(&self) -> bool {
        self.policy.as_ref().is_some_and(|failure| !failure.has_earlier)
    }

    /// Returns what the namespace is brought to.
    fn namespace<'a>(&self, desired: &'a NetworkDesired) -> Cow<'a, NamespaceDesired> {
        if self.is_closed() {
            Cow::Owned(NamespaceDesired { forwards: false, ..desired.namespace.clone() })
        } else {
            Cow::Borrowed(&desired.namespace)
        }
    }

    async fn reconcile(&mut self, ops: &mut impl NamespaceOps, desired: &NamespaceDesired) {
        match ops.reconcile(desired).await {
            Ok(report) => {
                self.done += report.steps.len();
                self.healed += if self.is_settled { report.steps.len() } else { 0 };
                self.interface = report.interface.or(self.interface.take());
                self.problem = report.errors.first().map(|error| explain(error));
                self.missing =
                    report.missing.into_iter().filter(|id| !self.failed.contains_key(id)).collect();
            }
            Err(error) => self.problem = Some(explain(&error)),
        }
    }
}

/// Says that a policy is not in force, and what that means.
fn not_enforced(failure: &NotEnforced) -> String {
    let meanwhile = if failure.has_earlier {
        "the policy of before decides, and new endpoints stay closed"
    } else {
        "nothing is forwarded in the network, and new endpoints stay closed"
    };

    format!("{}; until then {meanwhile}", explain(&failure.cause))
}

/// Says why an endpoint stays outside.
fn explain_guard(error: &NftError) -> String {
    format!("what it sends cannot be guarded: {}", explain(error))
}

/// Says that the guard is not there, and what that means.
fn not_guarded(error: &NftError) -> String {
    format!(
        "what containers send is not guarded: {}; forged sources get nowhere all the same, but \
         are not counted",
        explain(error)
    )
}

fn refused(error: &KernelError) -> EndpointState {
    let text = explain(error);

    if matches!(error, KernelError::SandboxGone { .. }) {
        EndpointState::Gone(text)
    } else {
        EndpointState::Failed(text)
    }
}

#[cfg(test)]
#[path = "pass_tests.rs"]
mod tests;
