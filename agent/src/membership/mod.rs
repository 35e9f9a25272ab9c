//! All communication between the agent and control.
//!
//! `join` makes this host a node. From then on `watch` keeps one connection and follows the
//! membership on it; `announce`, `publish`, `network_membership` and `renewal` use that connection
//! while it lasts. Nothing here is on a packet's way: all of it may fail for hours.

pub(crate) mod address_book;
pub(crate) mod admission;
pub(crate) mod announce;
pub(crate) mod candidates;
pub(crate) mod changed_rows;
pub(crate) mod connection;
pub(crate) mod connection_loss;
pub(crate) mod control_error;
pub(crate) mod control_link;
pub(crate) mod join;
pub(crate) mod network_membership;
pub(crate) mod per_network;
pub(crate) mod prefix_clash;
pub(crate) mod publish;
pub(crate) mod renewal;
pub(crate) mod view_cache;
pub(crate) mod watch;

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use overlay_core::{Change, Delta, Gap, View};

use changed_rows::ChangedRows;

/// The membership as this node knows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Membership {
    /// The rows.
    pub(crate) view: Arc<View>,
    /// Whether control said so since this process started. Until then the view is the one kept on
    /// disk: good enough to carry packets by, not to remove anything by.
    pub(crate) live: bool,
    /// Which rows changed lately.
    pub(crate) changed: ChangedRows,
}

impl Membership {
    /// Begins with the rows that were kept on disk.
    pub(crate) fn kept(view: View) -> Self {
        Self { view: Arc::new(view), ..Self::default() }
    }

    /// Goes one delta further: in place, unless somebody still reads the view as it was. Whole
    /// views are most of what an agent holds while many nodes join.
    ///
    /// # Errors
    ///
    /// [`Gap`] when the delta does not start at the view's revision; nothing is changed then.
    pub(crate) fn go_on(&mut self, delta: Delta) -> Result<(), Gap> {
        let keys: Vec<_> = delta.changes.iter().map(Change::key).collect();
        Arc::make_mut(&mut self.view).apply_delta(delta)?;
        self.changed.note(keys);

        Ok(())
    }
}

/// Pauses between attempts: from 0.2 s to 2 s, jittered, so that changes reach a control that
/// returns within seconds and a thousand nodes do not return to it at once.
pub(crate) fn back_off() -> ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(2))
        .without_max_times()
        .with_jitter()
        .build()
}
