//! One watcher's stream: first what it missed, then every change, with keepalives in between.

use std::sync::Arc;
use std::time::Duration;

use overlay_core::token_bucket::TokenBucket;
use overlay_core::{NodeId, Revision};
use overlay_proto::v1::watch_response::Event;
use overlay_proto::{Refusal, v1};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::end::WatchEnd;
use super::hub::{Hub, OpenWatch, WatchEvent};
use super::revocations::ToldRevocations;
use super::transfer::Part;
use crate::clock;
use crate::location::Location;

/// How often a watcher is told that control is alive.
pub(crate) const ALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long a watcher may leave a message unread before its watch ends; it then watches again from
/// the revision it has.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// Messages queued for a slow reader, beside the one that is made and the one that HTTP/2 sends: a
/// watcher that takes chunks and does not read costs control three of them, less than 1 MiB, and 24
/// bytes a row. Further changes coalesce in the state itself.
pub(crate) const QUEUE: usize = 1;
/// How long a watcher has to hear that its watch ended. HTTP/2 keeps what is sent for as long as
/// the other side does not read, so the connection of one that does not is closed.
const GRACE: Duration = Duration::from_secs(1);

/// Events with changes that a watcher gets at once: each change of a quiet cluster.
const EVENTS: u32 = 20;
/// The interval in which it then gets two more: what changes meanwhile comes together, so that one
/// node that changes something all the time does not keep all others busy.
const EVENT_INTERVAL: Duration = Duration::from_millis(100);

/// The sending side of a watch.
pub(crate) type WatchSender = mpsc::Sender<Result<v1::WatchResponse, Status>>;

/// Serves one watch.
pub(crate) struct WatchStream {
    /// The published state.
    pub(crate) hub: Arc<Hub>,
    /// Problems of control itself.
    pub(crate) problems: watch::Receiver<Vec<v1::ControlProblem>>,
    /// This watch, as the hub knows it.
    pub(crate) watch: Arc<OpenWatch>,
    /// The node that watches.
    pub(crate) node: NodeId,
    /// When the certificate that the watch was opened with expires, in seconds since 1970.
    pub(crate) expires: u64,
    /// The revision of the watcher's view.
    pub(crate) at: Option<Revision>,
    /// What the watcher knows of removed nodes; nothing if it does not listen to that.
    pub(crate) revocations: Option<ToldRevocations>,
    /// Where control can be reached.
    pub(crate) location: watch::Receiver<Location>,
    /// Whether the watcher takes chunks.
    pub(crate) chunks: bool,
    /// Closes the connection that the watch is on.
    pub(crate) cut: CancellationToken,
    /// Kept until nothing of the watch is left to be read.
    pub(crate) _turn: Option<OwnedSemaphorePermit>,
}

impl WatchStream {
    /// Serves the watch until the watcher disconnects, is too slow, or is no longer allowed to
    /// watch.
    pub(crate) async fn run(mut self, sender: WatchSender) {
        let end = self.serve(&sender).await;
        self.watch.over();
        self.hub.close(self.node, &self.watch, clock::now_unix());
        tracing::debug!(node = %self.node, reason = %end, "Watch ended");
        let told = async {
            // A reader that is gone has no use for the reason.
            let _ = sender.send(Err(Refusal::from(end).into())).await;
            sender.closed().await;
        };
        if timeout(GRACE, told).await.is_err() {
            let node = self.node;
            tracing::debug!(%node, "Closing the connection of a watch that is not read");
            self.cut.cancel();
        }
    }

    async fn serve(&mut self, sender: &WatchSender) -> WatchEnd {
        let mut alive = interval_at(Instant::now() + ALIVE_INTERVAL, ALIVE_INTERVAL);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        if let Err(end) = self.send_event(sender).await {
            return end;
        }
        if let Err(end) = self.send_alive(sender).await {
            return end;
        }
        let mut pace = Pace::new(Instant::now());
        loop {
            let sent = tokio::select! {
                biased;
                end = self.watch.ended() => Err(end),
                () = sender.closed() => Err(WatchEnd::Gone),
                _ = alive.tick() => self.send_alive(sender).await,
                Ok(()) = self.problems.changed() => self.send_alive(sender).await,
                () = self.watch.prompted() => self.send_alive(sender).await,
                // Its sender lives as long as control.
                Ok(()) = self.location.changed() => self.send_alive(sender).await,
                () = self.watch.duplicate_gone() => self.send_alive(sender).await,
                () = pace.woken(&self.watch) => {
                    pace.sent(Instant::now());
                    self.send_event(sender).await
                }
            };
            if let Err(end) = sent {
                return end;
            }
        }
    }

    async fn send_event(&mut self, sender: &WatchSender) -> Result<(), WatchEnd> {
        // Before the change that takes the nodes out of the watcher's view.
        let news = self.revocations.as_mut().and_then(|told| told.next(&self.hub));
        if let Some(news) = news {
            self.send(sender, Event::Revocations(news)).await?;
        }
        let at = if self.chunks {
            self.send_parts(sender).await?
        } else {
            let (at, event) = match self.hub.next_event(self.node, self.at) {
                WatchEvent::Snapshot(view) => (view.revision, Event::Snapshot((&view).into())),
                WatchEvent::Delta(delta) => (delta.to, Event::Delta(delta.into())),
            };
            self.send(sender, event).await?;
            at
        };
        self.at = Some(at);
        self.hub.sent(self.node, at, clock::now_unix());

        Ok(())
    }

    async fn send_parts(&self, sender: &WatchSender) -> Result<Revision, WatchEnd> {
        let mut transfer = self.hub.transfer(self.node, self.at);
        loop {
            let (event, is_last) = match self.hub.next_part(self.node, &mut transfer) {
                Part::Delta(delta) => (Event::Delta(delta.into()), true),
                Part::Chunk(chunk) => {
                    let is_last = chunk.last;
                    (Event::Chunk(chunk), is_last)
                }
            };
            self.send(sender, event).await?;
            if is_last {
                return Ok(transfer.reached());
            }
        }
    }

    async fn send_alive(&mut self, sender: &WatchSender) -> Result<(), WatchEnd> {
        let now = clock::now_unix();
        if now >= self.expires {
            return Err(WatchEnd::CertificateExpired { expired: self.expires, now });
        }
        // Changes that do not concern this watcher advance it, too, so that the change log reaches
        // back to its revision.
        if self.at != Some(self.hub.revision()) {
            self.send_event(sender).await?;
        }

        let control = Some(v1::ControlPlace::from(&*self.location.borrow_and_update()));
        let problems = self.problems.borrow_and_update().clone();
        let alive = v1::Alive { control, problems, ..self.watch.alive(now) };

        self.send(sender, Event::Alive(alive)).await
    }

    async fn send(&self, sender: &WatchSender, event: Event) -> Result<(), WatchEnd> {
        let message = Ok(v1::WatchResponse { event: Some(event) });
        tokio::select! {
            end = self.watch.ended() => Err(end),
            sent = timeout(SEND_TIMEOUT, sender.send(message)) => match sent {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(WatchEnd::Gone),
                Err(_) => Err(WatchEnd::TooSlow),
            },
        }
    }
}

/// How fast a watcher is told of changes.
struct Pace {
    bucket: TokenBucket,
    next: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { bucket: TokenBucket::new(EVENTS, EVENT_INTERVAL, now.into_std()), next: now }
    }

    /// Waits until something has changed and the watcher may be told.
    async fn woken(&self, watch: &OpenWatch) {
        // In this order: a change that is waited for and then given up would be forgotten.
        sleep_until(self.next).await;
        watch.woken().await;
    }

    /// Notes that the watcher is told.
    fn sent(&mut self, now: Instant) {
        let pause = self.bucket.take_some(1, now.into_std()).err();
        self.next = now + pause.unwrap_or_default();
    }
}
