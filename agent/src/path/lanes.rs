//! The agent's handle on all lanes: starts them, tells them what to carry, asks them how they are.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use overlay_core::{NetworkId, NodeId};
use overlay_dataplane::{EngineConfig, LaneId, Tables};
use overlay_host::port_owner::{self, PortOwner, Protocol};
use tokio::sync::{mpsc, oneshot};

use super::coalesce::Offload;
use super::command::{Busy, LaneCommand, Mailbox};
use super::lane::{Lane, LaneParts, LaneStart};
use super::queue::Queue;
use super::report::{LaneEvent, LaneReport};
use super::steering::LaneLoad;
use super::tun::TunQueue;
use super::udp::{LaneSockets, UdpSockets};
use crate::kernel::Tun;

/// More lanes than this add memory and handshakes, and no speed that was ever measured.
const MAX_DEFAULT_LANES: usize = 8;
/// How many events wait for the agent; about 100 KiB.
const MAX_EVENTS: usize = 1024;

/// How the lanes start.
#[derive(Debug, Clone)]
pub struct LanesConfig {
    /// The UDP port of each lane, so also how many there are; 0 takes any that is free. See
    /// [`consecutive_ports`].
    pub ports: Vec<u16>,
    /// The time since the Unix epoch, never less than any given before with the same keys: peers
    /// take a handshake with an older time for a replay.
    pub unix_time: Duration,
}

/// What a lane needs of a network's TUN device.
#[derive(Debug)]
pub struct TunQueues {
    /// One non-blocking queue a lane, with virtio headers of 10 bytes.
    pub queues: Vec<OwnedFd>,
    /// What the device takes and gives super-packets of.
    pub offload: Offload,
}

impl From<Tun> for TunQueues {
    fn from(tun: Tun) -> Self {
        Self { queues: tun.queues, offload: tun.offload.into() }
    }
}

/// The lanes could not start.
#[derive(Debug, thiserror::Error)]
pub enum LanesError {
    /// No port was given.
    #[error("a node needs at least one lane")]
    NoLane,
    /// More lanes than a node may have.
    #[error("too many lanes: {0}")]
    TooManyLanes(usize),
    /// Somebody else has the port.
    #[error("UDP port {port} is in use by {}; choose another with --port, or stop it", owner_text(owner.as_ref()))]
    PortTaken {
        /// The port.
        port: u16,
        /// Who holds it, where that can be seen.
        owner: Option<PortOwner>,
    },
    /// The kernel gives no socket.
    #[error("cannot open UDP port {port}")]
    Socket {
        /// The port.
        port: u16,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The kernel gives no thread, descriptor or entropy.
    #[error("cannot start a lane")]
    System(#[source] io::Error),
}

/// A network could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// A queue a lane is needed.
    #[error("the TUN device has {queues} queues for {lanes} lanes")]
    TooFewQueues {
        /// What there is.
        queues: usize,
        /// What there must be.
        lanes: usize,
    },
    /// The process may have no more descriptors.
    #[error("failed to hand the TUN to the lanes")]
    Descriptors(#[source] io::Error),
    /// A lane does not run.
    #[error(transparent)]
    Busy(#[from] Busy),
}

/// All lanes of this node. They end when this is dropped.
#[derive(Debug)]
pub struct Lanes {
    pub(super) lanes: Vec<Handle>,
    ports: Arc<[u16]>,
}

#[derive(Debug)]
pub(super) struct Handle {
    pub(super) mailbox: Arc<Mailbox>,
    /// To be given to another process.
    pub(super) sockets: LaneSockets,
    thread: Option<JoinHandle<()>>,
}

/// Returns how many lanes a node has unless told otherwise: one a core, at most 8.
pub fn default_lanes() -> usize {
    std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(MAX_DEFAULT_LANES)
}

/// Lists the ports of `lanes` lanes from `first` on; any free ones for 0, and where there are no
/// more ports.
pub fn consecutive_ports(first: u16, lanes: usize) -> Vec<u16> {
    let port = |lane: usize| {
        u16::try_from(lane).ok().and_then(|lane| first.checked_add(lane)).unwrap_or(0)
    };

    (0..lanes).map(|lane| if first == 0 { 0 } else { port(lane) }).collect()
}

impl Lanes {
    /// Opens the sockets and starts the threads. Packets flow once tables are published and
    /// networks added.
    ///
    /// # Errors
    ///
    /// [`LanesError`]; nothing is then left running.
    pub fn start(config: &LanesConfig) -> Result<(Self, mpsc::Receiver<LaneEvent>), LanesError> {
        if config.ports.is_empty() {
            return Err(LanesError::NoLane);
        }
        let sockets = config.ports.iter().map(|&port| bind(port)).collect::<Result<Vec<_>, _>>()?;

        Self::launch(sockets, config.unix_time, LaneStart::Running)
    }

    pub(super) fn launch(
        sockets: Vec<UdpSockets>,
        unix_time: Duration,
        start: LaneStart,
    ) -> Result<(Self, mpsc::Receiver<LaneEvent>), LanesError> {
        let lanes =
            u16::try_from(sockets.len()).map_err(|_| LanesError::TooManyLanes(sockets.len()))?;
        let ports: Arc<[u16]> = sockets.iter().map(UdpSockets::port).collect();
        let (sender, events) = mpsc::channel(MAX_EVENTS);
        let load = Arc::new(LaneLoad::new(sockets.len(), Instant::now()));

        let mut started =
            Self { lanes: Vec::with_capacity(sockets.len()), ports: Arc::clone(&ports) };
        for (lane, sockets) in (0..lanes).map(LaneId).zip(sockets) {
            let mailbox = Arc::new(Mailbox::new().map_err(LanesError::System)?);
            let shared = sockets.share().map_err(LanesError::System)?;
            let parts = LaneParts {
                engine: engine_config(lane, lanes, unix_time).map_err(LanesError::System)?,
                sockets,
                ports: Arc::clone(&ports),
                load: Arc::clone(&load),
                mailbox: Arc::clone(&mailbox),
                events: sender.clone(),
            };
            let thread = spawn(lane, parts, start).map_err(LanesError::System)?;
            started.lanes.push(Handle { mailbox, sockets: shared, thread: Some(thread) });
        }

        Ok((started, events))
    }

    /// Returns the UDP port of each lane.
    pub fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Returns how many lanes there are.
    pub fn count(&self) -> usize {
        self.lanes.len()
    }

    /// Swaps the tables: the first of `tables` goes to the first lane, and so on. A lane without
    /// one keeps what it has.
    pub fn publish(&self, tables: impl IntoIterator<Item = Arc<Tables>>) {
        for (lane, tables) in self.lanes.iter().zip(tables) {
            lane.mailbox.publish(tables);
        }
    }

    /// Serves a network's TUN device, in place of the one served before. `host` holds the addresses
    /// of this host itself in the network, if it is attached: its tunnel packets are kept out of
    /// there.
    ///
    /// # Errors
    ///
    /// [`AddError`]; a lane that was told before stays so, and adding again is safe.
    pub fn add_network(
        &self,
        network: NetworkId,
        tun: TunQueues,
        host: BTreeSet<IpAddr>,
    ) -> Result<(), AddError> {
        let (queues, lanes) = (tun.queues.len(), self.lanes.len());
        if queues < lanes {
            return Err(AddError::TooFewQueues { queues, lanes });
        }
        let host = Arc::new(host);
        let shared: Arc<[OwnedFd]> = tun.queues.into();
        for (own, lane) in self.lanes.iter().enumerate() {
            let tun = TunQueue::new(Arc::clone(&shared), own, tun.offload);
            let tun = tun.ok_or(AddError::TooFewQueues { queues, lanes })?;
            lane.mailbox
                .put(LaneCommand::AddQueue(network, Queue { tun, host: Arc::clone(&host) }))?;
        }

        Ok(())
    }

    /// Serves a network no longer and closes its queues.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn remove_network(&self, network: NetworkId) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::RemoveQueue(network))
    }

    /// Sends handshakes at once; for an agent that just started and whose peers still use old
    /// sessions.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn wake_peers(&self) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::WakePeers)
    }

    /// Finds out how peers see this node, if none has said: who is behind a translation must call
    /// first.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn greet(&self) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::Greet)
    }

    /// Tells the lanes the host's own addresses.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn know_own(&self, own: &Arc<BTreeSet<IpAddr>>) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::Own(Arc::clone(own)))
    }

    /// Tells every peer in use, inside the tunnel, that this node's address may be another one.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn announce(&self) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::Announce)
    }

    /// Looks for a node's silent lanes at once, because one of its lanes was heard again.
    ///
    /// # Errors
    ///
    /// [`Busy`] when a lane does not run.
    pub fn hurry(&self, node: NodeId) -> Result<(), Busy> {
        self.tell_all(|| LaneCommand::Hurry(node))
    }

    /// Asks every lane how it is doing. A lane that does not answer is left out.
    pub async fn report(&self) -> Vec<LaneReport> {
        let asked: Vec<_> =
            self.lanes.iter().filter_map(|lane| lane.ask(LaneCommand::Report).ok()).collect();
        let mut reports = Vec::with_capacity(asked.len());
        for answer in asked {
            reports.extend(
                tokio::time::timeout(REPORT_PATIENCE, answer).await.ok().and_then(Result::ok),
            );
        }

        reports
    }

    /// Ends all lanes and waits for them: a few milliseconds.
    pub fn shutdown(self) {
        drop(self);
    }

    pub(super) fn tell_all(&self, command: impl Fn() -> LaneCommand) -> Result<(), Busy> {
        // Every lane is told before the first refusal is returned.
        let told: Vec<_> = self.lanes.iter().map(|lane| lane.mailbox.put(command())).collect();

        told.into_iter().collect()
    }
}

/// A lane answers within a turn of its loop.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);

impl Drop for Lanes {
    fn drop(&mut self) {
        for lane in &self.lanes {
            let _ = lane.mailbox.put(LaneCommand::Shutdown);
        }
        for thread in self.lanes.iter_mut().filter_map(|lane| lane.thread.take()) {
            let _ = thread.join();
        }
    }
}

impl Handle {
    pub(super) fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<T>) -> LaneCommand,
    ) -> Result<oneshot::Receiver<T>, Busy> {
        let (sender, answer) = oneshot::channel();

        self.mailbox.put(command(sender)).map(|()| answer)
    }
}

fn bind(port: u16) -> Result<UdpSockets, LanesError> {
    UdpSockets::bind(port).map_err(|source| {
        if source.kind() == io::ErrorKind::AddrInUse {
            LanesError::PortTaken { port, owner: port_owner::find(Protocol::Udp, port) }
        } else {
            LanesError::Socket { port, source }
        }
    })
}

fn owner_text(owner: Option<&PortOwner>) -> String {
    owner.map_or_else(|| "another process".to_owned(), ToString::to_string)
}

fn engine_config(lane: LaneId, lanes: u16, unix_time: Duration) -> io::Result<EngineConfig> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other)?;

    Ok(EngineConfig { lane, lanes, seed, now: Instant::now(), unix_time })
}

fn spawn(lane: LaneId, parts: LaneParts, start: LaneStart) -> io::Result<JoinHandle<()>> {
    let lane_loop = Lane::new(parts)?;

    std::thread::Builder::new().name(format!("lane-{lane}")).spawn(move || {
        let guard = EndProcess(lane);
        let ended = lane_loop.run(start);
        match ended {
            Ok(()) => std::mem::forget(guard),
            Err(error) => tracing::error!(%lane, %error, "Lane cannot go on"),
        }
    })
}

/// Ends the process when a lane ends without having been told to: a node that looks alive and
/// carries nothing is worse than one that its supervisor starts again.
struct EndProcess(LaneId);

impl Drop for EndProcess {
    fn drop(&mut self) {
        tracing::error!(lane = %self.0, "Lane ended, ending the agent");
        std::process::abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(ports: Vec<u16>) -> LanesConfig {
        LanesConfig { ports, unix_time: Duration::from_secs(1_800_000_000) }
    }

    #[test]
    fn ports_count_up_from_the_first() {
        assert_eq!(consecutive_ports(51820, 3), [51820, 51821, 51822]);
        assert_eq!(consecutive_ports(0, 2), [0, 0]);
        assert_eq!(consecutive_ports(65535, 2), [65535, 0]);
    }

    #[test]
    fn a_taken_port_is_reported_with_its_holder() {
        let (lanes, _events) = Lanes::start(&config(vec![0])).expect("a free port");
        let port = lanes.ports()[0];

        let refusal = Lanes::start(&config(vec![port])).expect_err("a taken port");

        let text = refusal.to_string();
        assert!(text.contains(&format!("UDP port {port} is in use by ")), "{text}");
        assert!(text.contains(&format!("pid {}", std::process::id())), "{text}");
    }

    #[tokio::test]
    async fn every_lane_reports_and_ends_when_told() {
        let (lanes, _events) = Lanes::start(&config(vec![0, 0])).expect("free ports");

        let reports = lanes.report().await;

        assert_eq!(reports.iter().map(|report| report.port).collect::<Vec<_>>(), lanes.ports());
        lanes.shutdown();
    }

    #[test]
    fn a_device_with_too_few_queues_is_refused() {
        let (lanes, _events) = Lanes::start(&config(vec![0, 0])).expect("free ports");

        let tun = TunQueues { queues: Vec::new(), offload: Offload::default() };
        let refusal = lanes.add_network(NetworkId::FIRST, tun, BTreeSet::new());

        assert!(matches!(refusal, Err(AddError::TooFewQueues { queues: 0, lanes: 2 })));
    }
}
