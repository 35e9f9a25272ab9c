//! Lanes that another process takes over, and lanes that take over another process's.

use std::time::Duration;

use overlay_dataplane::EngineState;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::command::{Busy, LaneCommand};
use super::lane::LaneStart;
use super::lanes::{Lanes, LanesError};
use super::report::LaneEvent;
use super::udp::{LaneSockets, UdpSockets};

/// How long all lanes together may take to stop, or to take sessions over: they do either between
/// two turns of their loops.
const PATIENCE: Duration = Duration::from_millis(500);

impl Lanes {
    /// Starts lanes on the sockets of another process, one a lane. They take tables and networks,
    /// and carry nothing before [`Lanes::begin`]. `unix_time` is as in [`super::LanesConfig`].
    ///
    /// # Errors
    ///
    /// [`LanesError`]; nothing is then left running.
    pub fn take_over(
        sockets: Vec<LaneSockets>,
        unix_time: Duration,
    ) -> Result<(Self, mpsc::Receiver<LaneEvent>), LanesError> {
        if sockets.is_empty() {
            return Err(LanesError::NoLane);
        }
        let adopted: Result<Vec<_>, _> = sockets.into_iter().map(UdpSockets::adopt).collect();

        Self::launch(adopted.map_err(LanesError::System)?, unix_time, LaneStart::Waiting)
    }

    /// Lists the sockets of the lanes.
    pub fn sockets(&self) -> impl Iterator<Item = &LaneSockets> {
        self.lanes.iter().map(|lane| &lane.sockets)
    }

    /// Stops all lanes, which say what they know: one state a lane.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not stop in time. The others go on.
    pub async fn freeze(&self) -> Result<Vec<EngineState>, Busy> {
        let asked = self.lanes.iter().map(|lane| lane.ask(LaneCommand::Freeze)).collect();
        let states = answers(asked).await;
        if states.is_err() {
            let _ = self.thaw();
        }

        states
    }

    /// Has lanes go on that were stopped, where nobody took them over.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn thaw(&self) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::Thaw { forget: false })
    }

    /// As [`Lanes::thaw`], where another process may have used the sessions: they are forgotten
    /// before anything is sent, and handshakes make others.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn thaw_without_sessions(&self) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::Thaw { forget: true })
    }

    /// Has lanes that wait take over what another process's knew: one state a lane. Returns how
    /// many sessions they could not.
    ///
    /// # Errors
    ///
    /// [`Busy`] when there are more states than lanes, or a lane does not answer in time.
    pub async fn resume(&self, states: Vec<EngineState>) -> Result<usize, Busy> {
        if states.len() > self.lanes.len() {
            return Err(Busy);
        }
        let asked = self.lanes.iter().zip(states);
        let asked = asked.map(|(lane, state)| lane.ask(|reply| LaneCommand::Resume(state, reply)));

        Ok(answers(asked.collect()).await?.into_iter().sum())
    }

    /// Has lanes that wait carry packets from now on.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn begin(&self) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::Begin)
    }
}

/// Waits for the answers of lanes that were asked.
async fn answers<T>(asked: Result<Vec<oneshot::Receiver<T>>, Busy>) -> Result<Vec<T>, Busy> {
    let asked = asked?;
    let all = timeout(PATIENCE, async {
        let mut answers = Vec::with_capacity(asked.len());
        for answer in asked {
            answers.push(answer.await.map_err(|_| Busy)?);
        }
        Ok(answers)
    });

    all.await.unwrap_or(Err(Busy))
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::path::LanesConfig;

    const TIME: Duration = Duration::from_secs(1_800_000_000);

    fn lanes(count: usize) -> Lanes {
        let config = LanesConfig { ports: vec![0; count], unix_time: TIME };

        Lanes::start(&config).expect("free ports").0
    }

    fn shared(lanes: &Lanes) -> Vec<LaneSockets> {
        let clone = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");

        lanes
            .sockets()
            .map(|of| LaneSockets { v4: clone(&of.v4), v6: of.v6.as_ref().map(clone) })
            .collect()
    }

    #[tokio::test]
    async fn lanes_of_another_process_have_its_ports_and_wait() {
        let old = lanes(2);

        let (new, _events) = Lanes::take_over(shared(&old), TIME).expect("good sockets");
        let states = old.freeze().await.expect("both stop");
        let refused = new.resume(states).await.expect("both answer");
        new.begin().expect("they run");

        assert_eq!((new.ports(), refused), (old.ports(), 0));
        assert_eq!(new.report().await.len(), 2);
    }

    #[tokio::test]
    async fn lanes_that_stand_still_go_on_or_end() {
        let lanes = lanes(2);

        for _ in 0..3 {
            assert_eq!(lanes.freeze().await.expect("both stop").len(), 2);
            lanes.wake_peers().expect("taken note of");
            lanes.thaw().expect("they run");
            assert_eq!(lanes.report().await.len(), 2);
        }
        lanes.freeze().await.expect("both stop");
        lanes.shutdown();
    }

    #[tokio::test]
    async fn more_states_than_lanes_are_refused() {
        let (old, new) = (lanes(2), lanes(1));

        let states = old.freeze().await.expect("both stop");

        assert_eq!(new.resume(states).await, Err(Busy));
    }
}
