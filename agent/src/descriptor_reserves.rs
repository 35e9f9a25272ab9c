//! The file descriptors that are kept back for what must work when no other is left.

use std::sync::Arc;

use overlay_daemon::descriptors::Descriptors;
use overlay_daemon::reserve::Reserve;

use crate::docker::interceptor_reserves::InterceptorReserves;
use crate::docker::plugin;

/// What is kept back, by purpose: none can use up what another needs.
#[derive(Debug)]
pub struct DescriptorReserves {
    /// For operators who ask what is wrong.
    pub(crate) descriptors: Arc<Descriptors>,
    /// For Docker's calls.
    pub(crate) plugin: Arc<Reserve>,
    /// For containers that Docker is starting.
    pub(crate) interceptors: Arc<InterceptorReserves>,
}

impl DescriptorReserves {
    /// Keeps descriptors back. Do this before anything else is opened: if the limit is lowered
    /// later, the higher numbers go first.
    pub fn new() -> Self {
        Self {
            descriptors: Arc::new(Descriptors::new()),
            plugin: Arc::new(Reserve::new(plugin::RESERVED)),
            interceptors: Arc::new(InterceptorReserves::new()),
        }
    }
}

impl Default for DescriptorReserves {
    fn default() -> Self {
        Self::new()
    }
}
