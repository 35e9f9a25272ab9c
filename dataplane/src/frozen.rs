//! An engine that is stopped, so that another process may take over.

use crate::engine::Engine;
use crate::state::EngineState;

/// An engine that does nothing, so that another process may take over its state.
///
/// Whoever continues with the result of [`FrozenEngine::state`] uses the counters of its sessions.
/// This engine must never be thawed then; while this value exists, nobody else has access to it.
#[derive(Debug)]
pub struct FrozenEngine<'e>(&'e mut Engine);

impl<'e> FrozenEngine<'e> {
    /// Returns the state of the engine about its peers.
    pub fn state(&self) -> EngineState {
        self.0.state()
    }

    /// Continues, if no other process took over.
    pub fn thaw(self) -> &'e mut Engine {
        self.0
    }
}

impl Engine {
    /// Stops the engine so that another process may take over. Its output must have been drained
    /// before.
    pub fn freeze(&mut self) -> FrozenEngine<'_> {
        FrozenEngine(self)
    }
}
