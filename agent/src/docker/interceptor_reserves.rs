//! File descriptors that are kept back for the DNS interceptors of containers that Docker is
//! starting.
//!
//! An interceptor is opened after Docker was told that all is well: only then does the container's
//! namespace exist. If descriptors were used up by then, the container would run without any names.
//! So they are taken while the start can still be refused.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_core::EndpointId;
use overlay_daemon::reserve::Reserve;
use overlay_proto::Code;

use crate::dns::DnsInterceptor;
use crate::problem::explain;

/// How many containers may start at the same time with the descriptors set aside in advance;
/// further ones take what is free.
const STARTS: usize = 4;

/// There are no descriptors to keep back.
#[derive(Debug, thiserror::Error)]
#[error("this container would know no names of other hosts: {}", explain(.0))]
pub(crate) struct NotKeptBack(io::Error);

impl NotKeptBack {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        Code::Kernel
    }
}

/// The descriptors that are kept back.
#[derive(Debug)]
pub(crate) struct InterceptorReserves {
    /// For containers that have yet to start.
    pool: Reserve,
    /// For containers that are starting, by the endpoint with which the container joined a network.
    starting: Mutex<BTreeMap<EndpointId, Arc<Reserve>>>,
}

impl InterceptorReserves {
    /// Keeps back what a few starts at the same time take.
    pub(crate) fn new() -> Self {
        Self {
            pool: Reserve::new(STARTS * DnsInterceptor::DESCRIPTORS),
            starting: Mutex::default(),
        }
    }

    /// Keeps back what the interceptor of an endpoint's container takes, until [`Self::retain`]
    /// gives it up.
    ///
    /// # Errors
    ///
    /// When there are not that many descriptors.
    pub(super) fn keep_back(&self, endpoint: EndpointId) -> Result<(), NotKeptBack> {
        let mut starting = self.lock();
        if starting.contains_key(&endpoint) {
            return Ok(());
        }
        let reserve = self.pool.split_off(DnsInterceptor::DESCRIPTORS).map_err(NotKeptBack)?;
        starting.insert(endpoint, Arc::new(reserve));

        Ok(())
    }

    /// Returns what was kept back for one of a container's endpoints; an empty reserve where that
    /// is nothing.
    pub(super) fn of(&self, endpoints: &BTreeSet<EndpointId>) -> Arc<Reserve> {
        let starting = self.lock();

        endpoints.iter().find_map(|endpoint| starting.get(endpoint)).cloned().unwrap_or_default()
    }

    /// Gives up what was kept back for endpoints that do not need it any more. They are asked about
    /// while nothing else is kept back, so that none is judged by what was known before it came.
    pub(super) fn retain(&self, is_needed: impl Fn(EndpointId) -> bool) {
        let given_up: Vec<_> =
            self.lock().extract_if(.., |endpoint, _| !is_needed(*endpoint)).collect();
        for (_, reserve) in given_up {
            self.pool.take_back(&reserve);
        }
        self.pool.replenish();
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Arc<Reserve>>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use overlay_daemon::reserve::testing::NoDescriptors;

    use super::*;

    #[test]
    fn a_container_that_would_know_no_names_is_refused_with_cause_and_remedy() {
        let reserves = InterceptorReserves::new();
        let [first, last] = [1, 100].map(EndpointId::from_random);

        let lack = NoDescriptors::new().expect("lowered");
        let kept = (1..=STARTS as u64)
            .map(|n| reserves.keep_back(EndpointId::from_random(n)))
            .collect::<Vec<_>>();
        let (again, refused) = (reserves.keep_back(first), reserves.keep_back(last));
        reserves.retain(|endpoint| endpoint != first);
        let freed = reserves.keep_back(last);
        drop(lack);

        assert!(kept.iter().all(Result::is_ok), "{kept:?}");
        again.expect("what Docker asks twice is answered alike");
        let text = refused.expect_err("there are none").to_string();
        assert!(
            text.contains("Too many open files") && text.contains("raise LimitNOFILE="),
            "{text}"
        );
        freed.expect("the other one gave them up");
        assert!(reserves.of(&[last].into()).release() && !reserves.of(&[first].into()).release());
    }
}
