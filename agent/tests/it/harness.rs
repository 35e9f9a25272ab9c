//! An agent of a test's own, in folders of its own.

use std::io::Read as _;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use overlay_proto::channel;
use overlay_proto::v1::agent_client::AgentClient;
use tempfile::TempDir;
use tonic::transport::Channel;

/// How long anything may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Folders for an agent, gone with the value.
pub(crate) struct Home {
    dir: TempDir,
}

/// A running agent; killed with the value.
pub(crate) struct Agent {
    child: Child,
    pub(crate) socket: PathBuf,
}

/// How an agent ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) log: String,
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("run/agent.sock")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let free = UdpSocket::bind("127.0.0.1:0")
            .and_then(|socket| socket.local_addr())
            .expect("a port")
            .port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_overlayd"));
        command
            // The plugin's path is one for the whole machine: agents of tests that run at once
            // would fight over it.
            .args(["--lanes", "1", "--port", &free.to_string(), "--docker", "off"])
            .arg("--state")
            .arg(self.state())
            .arg("--run-dir")
            .arg(self.dir.path().join("run"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());

        command
    }

    /// Starts an agent and waits until it answers.
    pub(crate) async fn start(&self) -> Agent {
        let child = self.command(&[]).spawn().expect("overlayd starts");
        let agent = Agent { child, socket: self.socket() };
        let deadline = Instant::now() + PATIENCE;
        while channel::agent(&agent.socket).await.is_err() {
            assert!(Instant::now() < deadline, "the agent did not open its socket");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }

        agent
    }

    /// Starts an agent that is expected to end at once.
    pub(crate) fn try_start(&self, arguments: &[&str]) -> Ended {
        let output = self.command(arguments).output().expect("overlayd starts");

        Ended {
            code: output.status.code(),
            log: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Agent {
    pub(crate) async fn client(&self) -> AgentClient<Channel> {
        AgentClient::new(channel::agent(&self.socket).await.expect("the agent listens"))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks the agent to stop and waits for it.
    pub(crate) fn stop(mut self) -> Ended {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.child.id()).expect("a pid"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        let status = self.child.wait().expect("it ends");
        let mut log = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            pipe.read_to_string(&mut log).expect("its log");
        }

        Ended { code: status.code(), log }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // One that has been stopped is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tries until something holds, within reason.
pub(crate) async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if holds().await {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    false
}
