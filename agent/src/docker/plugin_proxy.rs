//! The plugin proxy holds the plugin socket in place of the agent, so that Docker never waits for
//! the agent when it starts.
//!
//! Docker calls the plugin while it boots and serves nobody until it is answered. A socket that is
//! missing costs it half a minute, one that nobody answers on costs it for ever. The proxy itself
//! answers the calls whose answer is always the same, forwards everything else to the agent, and
//! refuses calls soon while the agent does not answer. Containers that could not start for that are
//! started by the agent (`super::container_watcher::start_stranded`).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::plugin::{self, ACTIVATE, Answer, Answers, PluginSocket, forward};
use crate::descriptor_reserves::DescriptorReserves;
use crate::kernel::code_pages;
use crate::signals::Signals;

/// How long calls wait for an agent that does not answer, counted from when it was found absent: an
/// agent that is killed and restarted is back in less, and Docker's start takes no longer than
/// that.
const GRACE: Duration = Duration::from_millis(400);
/// How long the agent may take to answer a probe.
const PROBE: Duration = Duration::from_millis(300);
/// How often an agent that is away is looked for, while Docker calls.
const LOOK: Duration = Duration::from_millis(25);
/// How long after Docker's last call it is looked for: a host on which nothing asks for an agent
/// that is away rests.
const ATTENTION: Duration = Duration::from_secs(10);
/// How often an agent that takes long over a call is probed.
const DOUBT: Duration = Duration::from_millis(250);
/// How often one call is forwarded: an agent that was killed once may be killed again.
const ATTEMPTS: u32 = 3;

/// The words of a refusal by which the agent later recognises why a container did not start.
pub(super) const ABSENT: &str = "the agent of Overlay does not answer on this host";
/// What to do about it, whoever starts the agent.
const ADVICE: &str = "`overlayctl start` starts it, `overlayctl logs` says why it ended; \
    what Docker restarts by itself starts once it does";

/// Arguments of `overlayd door`.
#[derive(Debug, Clone, clap::Args)]
pub struct ProxyOptions {
    /// Where Docker looks for the plugin; taken from systemd where it holds it
    #[arg(long, value_name = "PATH", default_value = plugin::PATH)]
    listen: PathBuf,
    /// Where the agent serves Docker: its --docker-plugin
    #[arg(long, value_name = "PATH", default_value = "/run/overlay/docker.sock")]
    agent: PathBuf,
}

/// Why the proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DoorError {
    /// Docker's socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] plugin::PluginSocketError),
    /// Signals cannot be heard.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// Runs the proxy until a signal ends it; a socket that it made goes with it.
///
/// # Errors
///
/// When the socket cannot be opened.
pub async fn run(options: ProxyOptions, reserves: DescriptorReserves) -> Result<(), DoorError> {
    // The others are given back: nothing here needs them.
    let DescriptorReserves { plugin: reserve, .. } = reserves;
    let mut signals = Signals::new().map_err(DoorError::Signals)?;
    let socket = PluginSocket::open(&options.listen).await?;
    tracing::info!(socket = %options.listen.display(), agent = %options.agent.display(), "Keeping the door for Docker");
    let proxy = Arc::new(PluginProxy::new(options.agent));
    code_pages::release_and_tell();
    tokio::select! {
        () = signals.stop() => {}
        () = proxy.watch() => {}
        () = plugin::serve(socket, Arc::clone(&proxy), reserve) => {}
    }

    Ok(())
}

/// The proxy, and whether the agent answers.
#[derive(Debug)]
struct PluginProxy {
    agent: PathBuf,
    /// Since when the agent has not answered; `None` while it answers.
    away: watch::Sender<Option<Instant>>,
    /// When Docker called last.
    called: watch::Sender<Instant>,
}

impl PluginProxy {
    /// Creates a proxy for an agent that was not seen yet.
    fn new(agent: PathBuf) -> Self {
        let now = Instant::now();

        Self { agent, away: watch::Sender::new(Some(now)), called: watch::Sender::new(now) }
    }

    /// Looks for the agent whenever it is away and Docker calls.
    async fn watch(&self) {
        let (mut away, mut called) = (self.away.subscribe(), self.called.subscribe());
        loop {
            // The senders are this very value's.
            let _ = away.wait_for(Option::is_some).await;
            let attention = *called.borrow_and_update() + ATTENTION;
            if self.answers().await {
                self.away.send_replace(None);
            } else if Instant::now() < attention {
                sleep(LOOK).await;
            } else {
                let _ = called.changed().await;
            }
        }
    }

    /// Takes note of a call. An agent that nobody has asked for in a while is found away anew.
    fn note_call(&self) {
        let now = Instant::now();
        let last = self.called.send_replace(now);
        if now >= last + ATTENTION {
            self.away.send_modify(|away| *away = away.map(|_| now));
        }
    }

    async fn answers(&self) -> bool {
        matches!(timeout(PROBE, forward(&self.agent, ACTIVATE, Bytes::new())).await, Ok(Ok(_)))
    }

    /// Waits for an absent agent; tells whether it is there.
    async fn is_there(&self) -> bool {
        let mut away = self.away.subscribe();
        let Some(since) = *away.borrow_and_update() else { return true };

        timeout_at(since + GRACE, away.wait_for(Option::is_none))
            .await
            .is_ok_and(|back| back.is_ok())
    }

    /// Returns once the agent no longer answers probes.
    async fn doubt(&self) {
        loop {
            sleep(DOUBT).await;
            if !self.answers().await {
                return;
            }
        }
    }

    /// Forwards a call while the agent is there. Calls may be repeated: the agent gives the same
    /// answer.
    async fn relay(&self, path: &str, body: &Bytes) -> Option<Answer> {
        for _ in 0..ATTEMPTS {
            if !self.is_there().await {
                return None;
            }
            let answer = tokio::select! {
                answer = forward(&self.agent, path, body.clone()) => answer.ok(),
                () = self.doubt() => None,
            };
            if answer.is_some() {
                return answer;
            }
            self.away.send_if_modified(|away| {
                let is_news = away.is_none();
                away.get_or_insert_with(Instant::now);
                is_news
            });
        }

        None
    }
}

impl Answers for PluginProxy {
    async fn answer(&self, path: &str, body: Bytes) -> Answer {
        if let Some(reply) = plugin::constant(path) {
            return Answer::json(StatusCode::OK, &reply);
        }
        self.note_call();
        let answer = self.relay(path, &body).await;

        answer.unwrap_or_else(|| {
            tracing::info!(call = path, "Refused a call of Docker's: the agent does not answer");
            Answer::json(StatusCode::OK, &plugin::failure(&format!("{ABSENT}; {ADVICE}")))
        })
    }
}

#[cfg(test)]
#[path = "plugin_proxy_tests.rs"]
mod tests;
