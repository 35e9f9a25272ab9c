//! One watcher's stream: first what it missed, then every change, and a sign of life in between.

use std::sync::Arc;
use std::time::Duration;

use overlay_core::instant::rfc3339;
use overlay_core::{NodeId, Revision};
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tonic::Status;

use super::hub::{Hub, News, Session};
use crate::clock;
use crate::place::Place;

/// How often a watcher is told that control lives.
pub(crate) const ALIVE: Duration = Duration::from_secs(5);
/// How long a watcher may leave a message unread before it is dropped; it asks again from where it stands.
const PATIENCE: Duration = Duration::from_secs(30);
/// Messages that wait for a slow reader: one being sent, one ready. Further changes coalesce in place.
pub(crate) const QUEUE: usize = 2;

/// What a watch is sent through.
pub(crate) type Outlet = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// One watch: whose, from where and how long.
pub(crate) struct Feed {
    /// The published present.
    pub(crate) hub: Arc<Hub>,
    /// What control itself cannot do.
    pub(crate) problems: watch::Receiver<Vec<v1::ControlProblem>>,
    /// This watch's place in it.
    pub(crate) session: Arc<Session>,
    /// Who watches.
    pub(crate) node: NodeId,
    /// When the certificate ends that the watch was opened with, in seconds since 1970.
    pub(crate) expires: u64,
    /// Where its view stands.
    pub(crate) at: Option<Revision>,
    /// Where control is found.
    pub(crate) place: watch::Receiver<Place>,
}

impl Feed {
    /// Serves the watch until the watcher goes, is too slow, or may not watch any longer.
    pub(crate) async fn run(mut self, outlet: Outlet) {
        let end = self.serve(&outlet).await;
        self.session.over();
        self.hub.close(self.node, &self.session, clock::now_unix());
        tracing::debug!(node = %self.node, reason = %end, "Watch ended");
        // A reader that is gone or does not read will not miss the reason.
        let _ = outlet.try_send(Err(end.into()));
    }

    async fn serve(&mut self, outlet: &Outlet) -> Refusal {
        let mut alive = interval_at(Instant::now() + ALIVE, ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(end) = self.send_news(outlet).await {
            return end;
        }
        if let Err(end) = self.send_alive(outlet).await {
            return end;
        }
        loop {
            let step = tokio::select! {
                biased;
                end = self.session.ended() => Err(end),
                () = outlet.closed() => Err(Refusal::new(Code::ControlAway, "the watcher went away")),
                _ = alive.tick() => self.send_alive(outlet).await,
                Ok(()) = self.problems.changed() => self.send_alive(outlet).await,
                () = self.session.prompted() => self.send_alive(outlet).await,
                // Its sender lives as long as control.
                Ok(()) = self.place.changed() => self.send_alive(outlet).await,
                () = self.session.rival_gone() => self.send_alive(outlet).await,
                () = self.session.woken() => self.send_news(outlet).await,
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    async fn send_news(&mut self, outlet: &Outlet) -> Result<(), Refusal> {
        let (at, event) = match self.hub.news(self.node, self.at) {
            News::Snapshot(view) => (view.revision, v1::watch_response::Event::Snapshot((&view).into())),
            News::Delta(delta) => (delta.to, v1::watch_response::Event::Delta(delta.into())),
        };
        self.send(outlet, event).await?;
        self.at = Some(at);
        self.hub.sent(self.node, at, clock::now_unix());

        Ok(())
    }

    async fn send_alive(&mut self, outlet: &Outlet) -> Result<(), Refusal> {
        let now = clock::now_unix();
        if now >= self.expires {
            return Err(Refusal::new(
                Code::NotAuthenticated,
                format!(
                    "the certificate of this watch ended at {}, control's clock says {}; watch again with the new one",
                    rfc3339(self.expires),
                    rfc3339(now)
                ),
            ));
        }
        // Changes that did not concern this watcher move it along too, so that history reaches back to it.
        if self.at != Some(self.hub.revision()) {
            self.send_news(outlet).await?;
        }

        let control = Some(v1::ControlPlace::from(&*self.place.borrow_and_update()));
        let problems = self.problems.borrow_and_update().clone();
        let alive = v1::Alive { control, problems, ..self.session.alive(now) };

        self.send(outlet, v1::watch_response::Event::Alive(alive)).await
    }

    async fn send(&self, outlet: &Outlet, event: v1::watch_response::Event) -> Result<(), Refusal> {
        let message = Ok(v1::WatchResponse { event: Some(event) });
        let slow = || Refusal::new(Code::WrongState, "the watcher reads too slowly; watch again");
        let gone = || Refusal::new(Code::ControlAway, "the watcher went away");
        tokio::select! {
            end = self.session.ended() => Err(end),
            sent = timeout(PATIENCE, outlet.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(gone()),
                Err(_) => Err(slow()),
            },
        }
    }
}
