//! The state of a path's MTU, as another process found it.

use std::time::Instant;

use super::PathMtu;
use super::inquiry::{Inquiry, MIN_GROW_PAUSE};
use crate::state::PathState;
use crate::status::MtuSource;

impl PathMtu {
    /// Continues with what another process found. A search that was under way must start again.
    pub(crate) fn resume(&mut self, state: &PathState, now: Instant) {
        self.mtu = state.mtu.map_or(self.limit, |mtu| u32::from(mtu).min(self.limit));
        self.source = state.mtu_source;
        if state.mtu_source != MtuSource::Unprobed {
            let grow_at = now + MIN_GROW_PAUSE;
            self.inquiry = Some(Box::new(Inquiry {
                answers: state.answers_probes,
                grow_at,
                ..Inquiry::new(now)
            }));
        }
        if state.is_probing {
            // Probes are sent only once the first round, which never left, has timed out: nothing
            // is sealed here.
            self.start(now);
        }
    }

    /// Returns whether the peer has answered a probe.
    pub(crate) fn is_answered(&self) -> bool {
        self.inquiry.as_ref().is_some_and(|inquiry| inquiry.answers)
    }

    /// Returns whether a search is under way.
    pub(crate) fn is_asking(&self) -> bool {
        self.inquiry.as_ref().is_some_and(|inquiry| inquiry.search.is_some())
    }
}
