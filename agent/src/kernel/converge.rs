//! Read back, plan, perform: the same loop for a network's namespace and for a sandbox.

use std::collections::BTreeSet;

use super::error::KernelError;
use super::namespace_desired::TUN_NAME;
use super::netlink::Netlink;
use super::netns::Netns;
use super::plan::{missing_links, plan};
use super::settle::settle;
use super::sysctl;
use super::tables::{Actual, Desired, Step, Sysctl};

/// What the loop needs of a kernel.
pub(crate) trait Kernel {
    /// Reads back what matters to `desired`.
    async fn list(&mut self, desired: &Desired) -> Result<Actual, KernelError>;
    /// Writes parameters, and says of each how that went.
    async fn write(
        &mut self,
        parameters: &[(Sysctl, String)],
    ) -> Result<Vec<Result<(), KernelError>>, KernelError>;
    /// Performs one other step; a step that is already so is done.
    async fn perform(&mut self, step: &Step) -> Result<(), KernelError>;
    /// Waits until what was done has its effect.
    async fn settle(&mut self, done: &[Step]) -> Result<(), KernelError>;
}

/// What one convergence did.
#[derive(Debug, Default)]
pub(crate) struct Convergence {
    /// The steps that the kernel took.
    pub(crate) steps: Vec<Step>,
    /// The steps that it refused.
    pub(crate) errors: Vec<KernelError>,
    /// Wanted links that were not there.
    pub(crate) missing: BTreeSet<String>,
}

impl Convergence {
    fn note(&mut self, step: Step, done: Result<(), KernelError>) {
        match done {
            Ok(()) => self.steps.push(step),
            Err(error) => self.errors.push(error),
        }
    }
}

/// Brings a kernel to a wanted value. Every step is tried; what is left over is the next
/// convergence's.
pub(crate) async fn converge(
    kernel: &mut impl Kernel,
    desired: &Desired,
) -> Result<Convergence, KernelError> {
    let actual = kernel.list(desired).await?;
    let mut convergence =
        Convergence { missing: missing_links(desired, &actual), ..Convergence::default() };

    let mut parameters = Vec::new();
    let mut others = Vec::new();
    for step in plan(desired, &actual) {
        if let Step::SetSysctl(sysctl, value) = step {
            parameters.push((sysctl, value));
        } else {
            others.push(step);
        }
    }
    // They come before everything else, and each would cost a way into the namespace.
    if !parameters.is_empty() {
        let written = kernel.write(&parameters).await?;
        for ((sysctl, value), done) in parameters.into_iter().zip(written) {
            convergence.note(Step::SetSysctl(sysctl, value), done);
        }
    }
    let performed = perform_all(kernel, others).await;
    convergence.steps.extend(performed.steps);
    convergence.errors.extend(performed.errors);

    kernel.settle(&convergence.steps).await?;

    Ok(convergence)
}

/// Performs steps, none of which sets a parameter, and reads nothing back. Every step is tried.
pub(crate) async fn perform_all(kernel: &mut impl Kernel, steps: Vec<Step>) -> Convergence {
    let mut convergence = Convergence::default();
    for step in steps {
        let done = kernel.perform(&step).await;
        convergence.note(step, done);
    }

    convergence
}

/// A real namespace.
pub(crate) struct Namespace<'a> {
    pub(crate) netns: &'a Netns,
    pub(crate) netlink: &'a mut Netlink,
}

impl Kernel for Namespace<'_> {
    async fn list(&mut self, desired: &Desired) -> Result<Actual, KernelError> {
        let wanted: Vec<_> = desired.sysctls.keys().cloned().collect();
        let sysctls = self.netns.enter(move || sysctl::list(wanted.iter())).await?;
        // The names of links are needed to read the rest.
        let links = self.netlink.links().await?;

        Ok(Actual {
            sysctls,
            rules: if desired.rules.is_empty() {
                BTreeSet::new()
            } else {
                self.netlink.rules().await?
            },
            links,
            addresses: self.netlink.addresses().await?,
            routes: self.netlink.routes().await?,
        })
    }

    async fn write(
        &mut self,
        parameters: &[(Sysctl, String)],
    ) -> Result<Vec<Result<(), KernelError>>, KernelError> {
        let all = parameters.to_vec();
        let write = move || {
            all.iter().map(|(sysctl, value)| sysctl::set(sysctl, value)).collect::<Vec<_>>()
        };
        let written = self.netns.enter(write).await?;
        let refused = |sysctl: &Sysctl, value: &str, source| KernelError::Refused {
            action: "set",
            object: format!("{} to {value}", sysctl.path),
            namespace: self.netns.label().to_owned(),
            source,
        };
        let all = parameters.iter().zip(written);

        Ok(all
            .map(|((sysctl, value), done)| done.map_err(|source| refused(sysctl, value, source)))
            .collect())
    }

    async fn perform(&mut self, step: &Step) -> Result<(), KernelError> {
        match step {
            Step::AddRule(rule) => self.netlink.add_rule(rule).await,
            Step::SetLink(link, change) => self.netlink.set_link(link, *change).await,
            Step::AddAddress(address) => self.netlink.add_address(address).await,
            Step::SetRoute(key, hop) => self.netlink.set_route(*key, hop).await,
            Step::RemoveRoute(key) => self.netlink.remove_route(*key).await,
            Step::RemoveAddress(address) => self.netlink.remove_address(address).await,
            Step::RemoveLink(link) => self.netlink.remove_link(link).await,
            Step::RemoveRule(rule) => self.netlink.remove_rule(rule).await,
            // Parameters are written together; the owners of pin, TUN and veth pairs do theirs
            // themselves.
            Step::SetSysctl(..) | Step::MakeTun(_) | Step::Pin(_) | Step::MakeVeth(_) => Ok(()),
        }
    }

    async fn settle(&mut self, done: &[Step]) -> Result<(), KernelError> {
        settle(self.netns, done, |link| matches!(link, "lo" | TUN_NAME)).await
    }
}
