//! `overlay-lab plugin`: acts as a relay between Docker and a plugin, or in place of Docker.

use std::io::{self, BufRead as _, Write as _};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1 as client;
use hyper::header::HOST;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};

/// What the relay prints once it is listening.
pub(crate) const READY: &str = "relaying";

/// The role of the tool.
#[derive(Clone, Debug, clap::Subcommand)]
pub(crate) enum PluginTool {
    /// Forward calls to a plugin, and print each with its answer and time as a line of JSON
    Relay {
        /// Where Docker looks for the plugin
        #[arg(long, value_name = "PATH")]
        listen: PathBuf,
        /// Where the plugin is
        #[arg(long, value_name = "PATH")]
        to: PathBuf,
        /// Delay of every answer, in milliseconds
        #[arg(long, default_value_t = 0)]
        delay_ms: u64,
        /// Hold the next answer to a call for so many milliseconds; each holds one answer
        #[arg(long, value_name = "CALL=MS")]
        hold: Vec<Hold>,
        /// Answer this call instead of the plugin, which does not receive it
        #[arg(long, value_name = "CALL")]
        lose: Vec<String>,
        /// Stop this process (SIGSTOP) for that time instead of holding the answer
        #[arg(long, value_name = "PID", requires = "hold")]
        stop: Option<i32>,
    },
    /// Make the calls on standard input, one per line of JSON, and print the answers
    Call {
        /// Where the plugin is
        #[arg(long, value_name = "PATH")]
        socket: PathBuf,
    },
}

/// An answer that is held once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hold {
    path: String,
    time: Duration,
}

impl FromStr for Hold {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (path, ms) = text.split_once('=').ok_or("not CALL=MS")?;
        let ms = ms.parse().map_err(|error| format!("{ms:?}: {error}"))?;

        Ok(Self { path: path.to_owned(), time: Duration::from_millis(ms) })
    }
}

/// What is delayed or lost, and how.
#[derive(Debug)]
struct Lateness {
    delay: Duration,
    lost: Vec<String>,
    holds: Mutex<Vec<Hold>>,
    stopped: Option<Pid>,
}

impl Lateness {
    /// Holds the answer to a call, or stops the process that waits for it.
    async fn wait(&self, path: &str) {
        tokio::time::sleep(self.delay).await;
        let held = {
            let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
            let at = holds.iter().position(|hold| hold.path == path);
            at.map(|at| holds.swap_remove(at))
        };
        match (held, self.stopped) {
            (None, _) => {}
            (Some(hold), None) => tokio::time::sleep(hold.time).await,
            (Some(hold), Some(pid)) => {
                // If the process has ended in the meantime, neither is needed.
                let _ = kill(pid, Signal::SIGSTOP);
                tokio::spawn(async move {
                    tokio::time::sleep(hold.time).await;
                    let _ = kill(pid, Signal::SIGCONT);
                });
            }
        }
    }
}

/// A call as `plugin call` reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Call {
    /// For example `/NetworkDriver.Join`.
    pub(crate) path: String,
    /// The body, which need not be JSON.
    pub(crate) body: String,
}

/// The result of a call, as `plugin call` and `plugin relay` print it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// The call.
    #[serde(flatten)]
    pub(crate) call: Call,
    /// The HTTP status; 0 if the plugin did not answer.
    pub(crate) status: u16,
    /// The body of the answer.
    pub(crate) answer: String,
    /// How long it took, in milliseconds.
    pub(crate) ms: f64,
}

/// Runs until killed, or until all calls are made.
///
/// # Errors
///
/// If a socket cannot be used.
pub(crate) fn run(tool: &PluginTool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match tool {
        PluginTool::Relay { listen, to, delay_ms, hold, lose, stop } => {
            let delay = Duration::from_millis(*delay_ms);
            let (holds, lost) = (Mutex::new(hold.clone()), lose.clone());
            let late = Lateness { delay, holds, lost, stopped: stop.map(Pid::from_raw) };
            runtime.block_on(relay(listen, to.clone(), Arc::new(late)))
        }
        PluginTool::Call { socket } => runtime.block_on(call_all(socket)),
    }
}

#[expect(clippy::print_stderr, reason = "this is a command line")]
async fn relay(listen: &Path, to: PathBuf, late: Arc<Lateness>) -> Result<()> {
    if let Some(folder) = listen.parent() {
        std::fs::create_dir_all(folder)?;
    }
    // A killed relay has left its socket.
    let _ = std::fs::remove_file(listen);
    let listener = UnixListener::bind(listen)
        .with_context(|| format!("cannot listen on {}", listen.display()))?;
    eprintln!("{READY}");
    loop {
        let (stream, _) = listener.accept().await?;
        let (to, late) = (to.clone(), Arc::clone(&late));
        let service = service_fn(move |request: Request<Incoming>| {
            let (to, late) = (to.clone(), Arc::clone(&late));
            async move {
                let path = request.uri().path().to_owned();
                let body =
                    request.into_body().collect().await.map_err(io::Error::other)?.to_bytes();
                let call = Call { path, body: String::from_utf8_lossy(&body).into_owned() };
                let answered = if late.lost.contains(&call.path) {
                    Answered { call, status: 200, answer: "{}".to_owned(), ms: 0.0 }
                } else {
                    make(&to, call).await
                };
                late.wait(&answered.call.path).await;
                print(&answered);
                // Docker must not mistake a missing answer of the plugin for one.
                let status = StatusCode::from_u16(answered.status).map_err(io::Error::other)?;
                let mut response = Response::new(Full::new(Bytes::from(answered.answer)));
                *response.status_mut() = status;
                Ok::<_, io::Error>(response)
            }
        });
        tokio::spawn(server::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn call_all(socket: &Path) -> Result<()> {
    for line in io::stdin().lock().lines() {
        let call: Call = serde_json::from_str(&line?).context("a line is no call")?;
        print(&make(socket, call).await);
    }

    Ok(())
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn print(answered: &Answered) {
    if let Ok(line) = serde_json::to_string(answered) {
        println!("{line}");
        // If nobody reads the output any more, that is no reason to stop.
        let _ = io::stdout().flush();
    }
}

async fn make(socket: &Path, call: Call) -> Answered {
    let start = Instant::now();
    let answer = exchange(socket, &call).await;
    let ms = start.elapsed().as_secs_f64() * 1_000.0;
    match answer {
        Ok((status, answer)) => Answered { call, status, answer, ms },
        Err(error) => Answered { call, status: 0, answer: format!("{error:#}"), ms },
    }
}

async fn exchange(socket: &Path, call: &Call) -> Result<(u16, String)> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot reach {}", socket.display()))?;
    let (mut sender, connection) = client::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = Request::post(&call.path)
        .header(HOST, "plugin")
        .body(Full::new(Bytes::from(call.body.clone())))?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();

    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
