//! The plugin proxy holds the plugin socket in place of the agent, so that Docker never waits for the agent when it starts.
//!
//! Docker calls the plugin while it boots and serves nobody until it is answered. A socket that is missing costs it half a minute,
//! one that nobody answers on costs it for ever. The doorkeeper answers by itself what is always answered alike, hands everything
//! else to the agent, and refuses soon while the agent does not answer. Containers that could not start for that are started
//! by the agent (`super::container_watcher::start_stranded`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::plugin::{self, ACTIVATE, Answer, Answers, MAX_BODY, PluginSocket};

/// How long calls wait for an agent that does not answer, counted from when it was found absent: an agent that is killed and
/// restarted is back in less, and Docker's start takes no longer than that.
const GRACE: Duration = Duration::from_millis(400);
/// How long the agent may take to answer a probe.
const PROBE: Duration = Duration::from_millis(300);
/// How often an absent agent is probed.
const LOOK: Duration = Duration::from_millis(25);
/// How often an agent that takes long over a call is probed.
const DOUBT: Duration = Duration::from_millis(250);
/// How often one call is forwarded: an agent that was killed once may be killed again.
const ATTEMPTS: u32 = 3;

/// The words of a refusal by which the agent later recognises why a container did not start.
pub(super) const ABSENT: &str = "the agent of Overlay does not answer on this host";
/// What to do about it.
const ADVICE: &str = "see systemctl status overlayd; what Docker restarts by itself starts once it does";

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

/// Runs the proxy until the task is dropped.
///
/// # Errors
///
/// When the socket cannot be opened.
pub async fn run(options: ProxyOptions) -> Result<(), plugin::PluginSocketError> {
    let socket = PluginSocket::open(&options.listen).await?;
    tracing::info!(socket = %options.listen.display(), agent = %options.agent.display(), "Keeping the door for Docker");
    let proxy = Arc::new(PluginProxy::new(options.agent));
    tokio::join!(proxy.watch(), plugin::serve(socket, Arc::clone(&proxy)));

    Ok(())
}

/// The proxy, and whether the agent answers.
#[derive(Debug)]
struct PluginProxy {
    agent: PathBuf,
    /// Since when the agent has not answered; `None` while it answers.
    away: watch::Sender<Option<Instant>>,
}

impl PluginProxy {
    /// Creates a proxy for an agent that was not seen yet.
    fn new(agent: PathBuf) -> Self {
        Self { agent, away: watch::Sender::new(Some(Instant::now())) }
    }

    /// Probes the agent while it is absent.
    async fn watch(&self) {
        let mut away = self.away.subscribe();
        loop {
            // The sender is a field of this value, so it outlives the wait.
            let _ = away.wait_for(Option::is_some).await;
            if self.answers().await {
                self.away.send_replace(None);
            } else {
                sleep(LOOK).await;
            }
        }
    }

    async fn answers(&self) -> bool {
        matches!(timeout(PROBE, hand_over(&self.agent, ACTIVATE, Bytes::new())).await, Ok(Ok(_)))
    }

    /// Waits for an absent agent; tells whether it is there.
    async fn is_there(&self) -> bool {
        let mut away = self.away.subscribe();
        let Some(since) = *away.borrow_and_update() else { return true };

        timeout_at(since + GRACE, away.wait_for(Option::is_none)).await.is_ok_and(|back| back.is_ok())
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

    /// Forwards a call while the agent is there. Calls may be repeated: the agent gives the same answer.
    async fn relay(&self, path: &str, body: &Bytes) -> Option<Answer> {
        for _ in 0..ATTEMPTS {
            if !self.is_there().await {
                return None;
            }
            let answer = tokio::select! {
                answer = hand_over(&self.agent, path, body.clone()) => answer.ok(),
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
        let answer = self.relay(path, &body).await;

        answer.unwrap_or_else(|| {
            tracing::info!(call = path, "Refused a call of Docker's: the agent does not answer");
            Answer::json(StatusCode::OK, &plugin::failure(&format!("{ABSENT}; {ADVICE}")))
        })
    }
}

/// The agent did not answer a call.
#[derive(Debug, thiserror::Error)]
enum Unanswered {
    /// Nobody listens, or the connection broke.
    #[error("the agent's socket")]
    Socket(#[from] std::io::Error),
    /// The connection ended early, or the answer was not HTTP.
    #[error("the agent's answer")]
    Answer(#[from] hyper::Error),
    /// The request is malformed.
    #[error("the request")]
    Request(#[from] hyper::http::Error),
    /// The answer is too long, or ends early.
    #[error("the agent's answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Forwards one call to the agent, on a connection of its own.
async fn hand_over(agent: &Path, path: &str, body: Bytes) -> Result<Answer, Unanswered> {
    let stream = UnixStream::connect(agent).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(path).header(HOST, "overlayd").body(Full::new(body))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(Unanswered::Body)?;
        Ok(Answer { status, body: body.to_bytes() })
    };
    tokio::pin!(exchange);

    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end as soon as it has handed over the answer.
        _ = connection => exchange.await,
    }
}

#[cfg(test)]
#[path = "plugin_proxy_tests.rs"]
mod tests;
