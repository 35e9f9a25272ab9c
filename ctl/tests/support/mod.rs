//! An agent that only pretends: it answers over a real socket what a test tells it to, and
//! remembers what it was asked.
#![allow(dead_code, reason = "each test program uses a part of it")]

pub(crate) mod crowd;
mod fake;
pub(crate) mod fake_audit;
pub(crate) mod fake_policies;
mod fake_rows;
pub(crate) mod host;
pub(crate) mod terminal;
pub(crate) mod transcript;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_proto::v1::agent_server::AgentServer;
use overlay_proto::{Code, Refusal, v1};
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio_stream::wrappers::UnixListenerStream;

use self::fake::Fake;

/// The cluster, node and control of the pretended agent.
pub(crate) const CONTROL: &str = "192.0.2.1:7443";

/// What the pretended agent was asked, and what it answers.
#[derive(Default)]
pub(crate) struct Script {
    pub(crate) asked: Vec<String>,
    pub(crate) refuse: Option<Refusal>,
    pub(crate) attached: Vec<v1::AttachRequest>,
    pub(crate) joined: bool,
    pub(crate) lost_probes: bool,
    /// How many calls to leave break off before they are answered; whether the node has left all
    /// the same.
    pub(crate) breaking_leaves: u32,
    pub(crate) leaves_unheard: bool,
    /// What it lists, instead of a little of everything.
    pub(crate) crowd: Option<Crowd>,
    /// Whether it may see only a part of the policy.
    pub(crate) sees_part: bool,
    /// Whether a record of its audit log was altered; whether the oldest ones are not kept.
    pub(crate) alters_audit: bool,
    pub(crate) forgets_audit: bool,
    /// Where it says that it keeps its state.
    pub(crate) state_dir: String,
    pub(crate) problems: Vec<v1::Problem>,
}

/// What an agent lists that has seen much.
#[derive(Clone, Default)]
pub(crate) struct Crowd {
    pub(crate) status: v1::StatusResponse,
    pub(crate) peers: v1::PeersResponse,
    pub(crate) networks: v1::ListNetworksResponse,
    pub(crate) endpoints: v1::ListEndpointsResponse,
    pub(crate) nodes: v1::ListNodesResponse,
    pub(crate) tokens: v1::ListTokensResponse,
    pub(crate) control: v1::ListControlResponse,
    pub(crate) policies: v1::ListPoliciesResponse,
    pub(crate) events: Vec<v1::Event>,
}

/// A pretended agent on a socket of its own.
pub(crate) struct FakeAgent {
    socket: PathBuf,
    dir: Option<TempDir>,
    script: Arc<Mutex<Script>>,
    _runtime: Runtime,
}

impl FakeAgent {
    /// Starts an agent that is a node.
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let socket = dir.path().join("agent.sock");

        Self { dir: Some(dir), ..Self::at(&socket) }
    }

    /// Starts an agent that is a node, on a socket in a directory that is there.
    pub(crate) fn at(socket: &Path) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let script = Arc::new(Mutex::new(Script {
            joined: true,
            state_dir: "/somewhere/else".to_owned(),
            ..Script::default()
        }));
        let service = AgentServer::new(Fake(Arc::clone(&script)));
        let listener = {
            let _inside = runtime.enter();
            UnixListener::bind(socket).expect("a socket")
        };
        runtime.spawn(async move {
            let served = tonic::transport::Server::builder().add_service(service);
            served.serve_with_incoming(UnixListenerStream::new(listener)).await.expect("served");
        });

        Self { socket: socket.to_owned(), dir: None, script, _runtime: runtime }
    }

    /// Returns where it listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.socket.clone()
    }

    /// Opens its script.
    pub(crate) fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes it refuse every call from now on.
    pub(crate) fn refuse(&self, code: Code, message: &str) {
        self.script().refuse = Some(Refusal::new(code, message));
    }

    /// Prepares overlayctl against it.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = overlayctl(words);
        command.env("OVERLAY_SOCKET", self.socket());

        command
    }

    /// Runs overlayctl against it.
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        self.command(words).output().expect("overlayctl ran").into()
    }
}

/// Prepares a program that ends with the test, even with one that is killed.
pub(crate) fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);

    command
}

/// Prepares overlayctl without any agent.
pub(crate) fn overlayctl(words: &[&str]) -> Command {
    let mut command = mortal(env!("CARGO_BIN_EXE_overlayctl"));
    command.args(words).env_remove("OVERLAY_SOCKET").stdin(Stdio::null());

    command
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).trim_end().to_owned(),
        }
    }
}

impl Ran {
    /// Reads standard output as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A join line that parses.
pub(crate) fn join_line(control: &str) -> String {
    format!("ovl1-{}-{}-{}@{control}", "01".repeat(8), "5e".repeat(16), "03".repeat(32))
}
