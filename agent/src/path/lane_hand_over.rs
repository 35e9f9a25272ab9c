//! A lane that stands still while another process takes its place, and one that waits to take
//! another's.

use std::io;
use std::time::Instant;

use overlay_dataplane::{EngineState, Tables};
use tokio::sync::oneshot;

use super::command::{LaneCommand, PendingUpdates};
use super::lane::{Flow, Lane};

impl Lane {
    /// Says what the engine knows, and does nothing until it is told to go on; returns what else it
    /// was told meanwhile. Nothing when it is to end.
    ///
    /// The frozen engine is borrowed all the while, so nothing can be sealed or accepted.
    pub(super) fn stand_still(
        &mut self,
        reply: oneshot::Sender<EngineState>,
    ) -> io::Result<Option<PendingUpdates>> {
        let frozen = self.engine.freeze();
        let mut meanwhile = PendingUpdates::default();
        if reply.send(frozen.state()).is_err() {
            // The caller has given up.
            frozen.thaw();
            return Ok(Some(meanwhile));
        }
        loop {
            self.mailbox.wait()?;
            let pending = self.mailbox.take();
            if pending.commands.iter().any(|command| matches!(command, LaneCommand::Shutdown)) {
                return Ok(None);
            }
            let thaw = pending.commands.iter().find_map(|command| {
                if let LaneCommand::Thaw { forget } = command { Some(*forget) } else { None }
            });
            meanwhile.add(pending);
            if let Some(forget) = thaw {
                let engine = frozen.thaw();
                if forget {
                    // Before any tables that came meanwhile, with which the sessions would stay.
                    engine.publish(&Tables::default(), Instant::now());
                }
                return Ok(Some(meanwhile));
            }
        }
    }

    /// Takes tables, queues and sessions, and sends and reads nothing, until it is told to begin.
    pub(super) fn await_turn(&mut self) -> io::Result<Flow> {
        loop {
            self.mailbox.wait()?;
            let pending = self.mailbox.take();
            if let Some(tables) = pending.tables {
                self.engine.publish(&tables, Instant::now());
            }
            let mut has_begun = false;
            for command in pending.commands {
                match command {
                    LaneCommand::Resume(state, reply) => {
                        // The caller may have given up.
                        let _ = reply.send(self.engine.resume(state, Instant::now()));
                    }
                    LaneCommand::Begin => has_begun = true,
                    LaneCommand::Shutdown => return Ok(Flow::End),
                    // Peers need not be called by a lane that is about to know them.
                    LaneCommand::WakePeers
                    | LaneCommand::Greet
                    | LaneCommand::Announce
                    | LaneCommand::Hurry(_) => {}
                    LaneCommand::Freeze(_) | LaneCommand::Thaw { .. } => {}
                    command @ (LaneCommand::AddQueue(..)
                    | LaneCommand::RemoveQueue(_)
                    | LaneCommand::Own(_)
                    | LaneCommand::Report(_)) => self.carry_out(command),
                }
            }
            if has_begun {
                self.empty_engine();
                return Ok(Flow::Continue);
            }
        }
    }
}
