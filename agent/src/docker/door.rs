//! The doorkeeper: holds the plugin socket in the agent's place, so that Docker's boot never waits for the agent.
//!
//! Docker calls the plugin while it boots and serves nobody until it is answered. A socket that is missing costs it half a minute,
//! one that nobody answers on costs it for ever. The doorkeeper answers by itself what is always answered alike, hands everything
//! else to the agent, and refuses soon while the agent does not answer. Containers that could not start for that are started
//! by the agent (`super::roster::start_stranded`).

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

/// How long calls wait for an agent that does not answer, counted from when it was found so: an agent that is killed and
/// started again is back in less, and Docker's boot takes no longer by more.
const GRACE: Duration = Duration::from_millis(400);
/// How long the agent may take to say that it is there.
const PROBE: Duration = Duration::from_millis(300);
/// How often an agent that is away is looked for.
const LOOK: Duration = Duration::from_millis(25);
/// How often an agent that takes long over a call is asked whether it is there.
const DOUBT: Duration = Duration::from_millis(250);
/// How often one call is handed over: an agent that is killed once may be killed again.
const ATTEMPTS: u32 = 3;

/// By these words of a refusal the agent knows later why a container did not start.
pub(super) const ABSENT: &str = "the agent of Overlay does not answer on this host";
/// What to do about it.
const ADVICE: &str = "see systemctl status overlayd; what Docker restarts by itself starts once it does";

/// Arguments of `overlayd door`.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Where Docker looks for the plugin; taken from systemd where it holds it
    #[arg(long, value_name = "PATH", default_value = plugin::PATH)]
    listen: PathBuf,
    /// Where the agent serves Docker: its --docker-plugin
    #[arg(long, value_name = "PATH", default_value = "/run/overlay/docker.sock")]
    agent: PathBuf,
}

/// Keeps the door until the task is dropped.
///
/// # Errors
///
/// When the socket cannot be opened.
pub async fn run(options: Options) -> Result<(), plugin::PluginSocketError> {
    let socket = PluginSocket::open(&options.listen).await?;
    tracing::info!(socket = %options.listen.display(), agent = %options.agent.display(), "Keeping the door for Docker");
    let door = Arc::new(Doorkeeper::new(options.agent));
    tokio::join!(door.watch(), plugin::serve(socket, Arc::clone(&door)));

    Ok(())
}

/// Knows whether the agent answers.
#[derive(Debug)]
struct Doorkeeper {
    agent: PathBuf,
    /// Since when the agent does not answer; nothing while it does.
    away: watch::Sender<Option<Instant>>,
}

impl Doorkeeper {
    /// Stands before an agent that was not seen yet.
    fn new(agent: PathBuf) -> Self {
        Self { agent, away: watch::Sender::new(Some(Instant::now())) }
    }

    /// Looks for the agent whenever it is away.
    async fn watch(&self) {
        let mut away = self.away.subscribe();
        loop {
            // The sender is this very value's.
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

    /// Waits for an agent that is away; says whether it is there.
    async fn is_there(&self) -> bool {
        let mut away = self.away.subscribe();
        let Some(since) = *away.borrow_and_update() else { return true };

        timeout_at(since + GRACE, away.wait_for(Option::is_none)).await.is_ok_and(|back| back.is_ok())
    }

    /// Returns once the agent does not say any more that it is there.
    async fn doubt(&self) {
        loop {
            sleep(DOUBT).await;
            if !self.answers().await {
                return;
            }
        }
    }

    /// Hands a call over while the agent is there. Calls may be repeated: the agent answers as the first time.
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

impl Answers for Doorkeeper {
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
    /// It ended in the middle, or spoke something else.
    #[error("the agent's answer")]
    Answer(#[from] hyper::Error),
    /// The request has no form.
    #[error("the request")]
    Request(#[from] hyper::http::Error),
    /// The answer is too long, or ends early.
    #[error("the agent's answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Makes one call of the agent, on a connection of its own.
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
#[path = "door_tests.rs"]
mod tests;
