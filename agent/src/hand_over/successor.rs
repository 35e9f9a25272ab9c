//! The new program, as the running agent sees it: started, spoken with, and let go or ended.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use overlay_dataplane::EngineState;
use overlay_proto::v1;
use overlay_proto::v1::hand_over::Message;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::channel::{Channel, ChannelError, name};
use super::descriptor_store::SharedDescriptors;
use super::encoding::encode;
use super::moments::Moments;
use super::{FORMAT, HandedNode, TAKE_OVER};
use crate::kernel::passing::{self, MAX_DESCRIPTORS};

/// How long the new program may take to say that it is there, and whether it can do what this one
/// does.
const GREETING: Duration = Duration::from_secs(5);
/// How long it may take to bring up what this host has: thousands of endpoints are read back in
/// less.
const PREPARATION: Duration = Duration::from_secs(60);
/// How long packets may wait: what comes meanwhile has room in queues and buffers, also in those of
/// whoever gets it at once afterwards.
const PAUSE: Duration = Duration::from_millis(150);
/// By how much longer for each tunnel: ten times what it takes.
const PAUSE_PER_TUNNEL: Duration = Duration::from_micros(200);
/// How long a program that hung up may take to end, for its exit status to be told.
const LAST_BREATH: Duration = Duration::from_millis(500);

/// How this process was started, so that another can be started alike.
#[derive(Debug, Clone)]
pub struct Program {
    /// The program's file.
    pub binary: PathBuf,
    /// Its command line, with the name that it was called by.
    pub arguments: Vec<OsString>,
}

/// Why the new program does not take over.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoSuccessor {
    /// It cannot be started.
    #[error("{} cannot be started", binary.display())]
    Start {
        /// The file.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It failed at a stage.
    #[error("{} did not {stage}: {cause}", binary.display())]
    Failed {
        /// The file.
        binary: PathBuf,
        /// What it should have done.
        stage: &'static str,
        /// Why it did not.
        cause: String,
    },
}

/// A new program.
#[derive(Debug)]
pub(crate) struct Successor {
    binary: PathBuf,
    child: Child,
    channel: Channel,
    version: String,
    /// Whether it lives on without this value.
    is_free: bool,
}

impl Successor {
    /// Starts a program with this one's command line. It ends with this value, unless it is let go.
    pub(crate) fn start(own: &Program, binary: &Path) -> Result<Self, NoSuccessor> {
        let start = || -> io::Result<(Child, Channel)> {
            let [ours, theirs] = passing::pair()?;
            let mut command = Command::new(binary);
            let mut arguments = own.arguments.iter();
            if let Some(called) = arguments.next() {
                command.arg0(called);
            }
            command.args(arguments.filter(|word| *word != TAKE_OVER)).arg(TAKE_OVER);
            // What systemd handed to this process comes in another way.
            for variable in ["LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES"] {
                command.env_remove(variable);
            }
            let child = command.stdin(Stdio::from(theirs)).kill_on_drop(false).spawn()?;

            Ok((child, Channel::new(ours)?))
        };
        let (child, channel) =
            start().map_err(|source| NoSuccessor::Start { binary: binary.to_owned(), source })?;

        Ok(Self {
            binary: binary.to_owned(),
            child,
            channel,
            version: String::new(),
            is_free: false,
        })
    }

    /// Returns the version that the new program says it is.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Returns its pid; 0 when it has ended.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id().unwrap_or_default()
    }

    /// Waits until it is there, and offers it what is to be taken over. Nothing here depends on it
    /// yet.
    pub(crate) async fn greet(&mut self, offer: v1::HandOverOffer) -> Result<(), NoSuccessor> {
        let stage = "say that it is there";
        let heard = self.hear(stage, GREETING).await?;
        let said = name(&heard);
        let Message::Hello(hello) = heard else { return Err(self.unexpected(stage, said)) };
        if !(hello.oldest_format..=hello.newest_format).contains(&FORMAT) {
            let (oldest, newest) = (hello.oldest_format, hello.newest_format);
            let cause = format!(
                "version {} understands hand-overs of format {oldest} to {newest}, this agent speaks {FORMAT}",
                hello.version
            );
            return Err(self.failed("understand this agent", cause));
        }
        self.version = hello.version;
        let stage = "accept what is to be taken over";
        self.say(stage, Message::Offer(v1::HandOverOffer { format: FORMAT, ..offer }), &[]).await?;
        let heard = self.hear(stage, GREETING).await?;
        if matches!(heard, Message::Accepted(_)) {
            Ok(())
        } else {
            Err(self.unexpected(stage, name(&heard)))
        }
    }

    /// Gives it everything but the sessions, and waits until it has brought all networks up.
    pub(crate) async fn prepare(
        &mut self,
        node: &HandedNode,
        kept: &[(String, SharedDescriptors)],
    ) -> Result<(), NoSuccessor> {
        let stage = "bring up what this host has";
        self.say(stage, Message::Proceed(node.to_message()), &[]).await?;
        let mut batches = batches(kept).into_iter().peekable();
        while let Some(batch) = batches.next() {
            let entry = |(name, descriptors): &(String, SharedDescriptors)| v1::HandOverKept {
                name: name.clone(),
                count: u32::try_from(descriptors.list.len()).unwrap_or(u32::MAX),
                note: descriptors.note.clone(),
            };
            let more = v1::HandOverMore {
                kept: batch.iter().map(entry).collect(),
                is_last: batches.peek().is_none(),
            };
            let descriptors: Vec<BorrowedFd<'_>> = batch
                .iter()
                .flat_map(|(_, of)| of.list.iter().map(std::os::fd::AsFd::as_fd))
                .collect();
            self.say(stage, Message::More(more), &descriptors).await?;
        }
        let heard = self.hear(stage, PREPARATION).await?;
        if matches!(heard, Message::Prepared(_)) {
            Ok(())
        } else {
            Err(self.unexpected(stage, name(&heard)))
        }
    }

    /// Gives it the sessions. Returns how many it could not take over.
    pub(crate) async fn give(&mut self, states: Vec<EngineState>) -> Result<u32, NoSuccessor> {
        let stage = "take the sessions over";
        let links =
            states.iter().flat_map(|state| &state.networks).flat_map(|network| &network.links);
        let tunnels = links.filter(|link| link.tunnel.is_some()).count();
        let pause = PAUSE + PAUSE_PER_TUNNEL * u32::try_from(tunnels).unwrap_or(u32::MAX);
        let sealed = Moments::now().and_then(|moments| passing::seal(&encode(states, &moments)));
        let memory = sealed.map_err(|error| self.failed(stage, error))?;
        self.say(stage, Message::State(v1::HandOverState {}), &[memory.as_fd()]).await?;
        let heard = self.hear(stage, pause).await?;
        if let Message::Ready(ready) = heard {
            Ok(ready.refused)
        } else {
            Err(self.unexpected(stage, name(&heard)))
        }
    }

    /// Lets it go on in this one's place. If this fails, nobody knows whether it does.
    pub(crate) async fn go(&mut self) -> Result<(), NoSuccessor> {
        let stage = "carry packets";
        self.say(stage, Message::Go(v1::HandOverGo {}), &[]).await?;
        let heard = self.hear(stage, PAUSE).await?;
        self.is_free = matches!(heard, Message::Running(_));
        if self.is_free { Ok(()) } else { Err(self.unexpected(stage, name(&heard))) }
    }

    /// Says that this process cannot hand something over.
    pub(crate) fn unable(&self, why: impl std::fmt::Display) -> NoSuccessor {
        self.failed("take over", why)
    }

    /// Ends it, and waits until it is gone: what it held is free then.
    pub(crate) async fn end(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "Failed to end the program that did not take over");
        }
    }

    async fn say(
        &mut self,
        stage: &'static str,
        message: Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), NoSuccessor> {
        match self.channel.say(message, descriptors).await {
            Ok(()) => Ok(()),
            Err(error) => Err(self.cause(stage, error).await),
        }
    }

    async fn hear(
        &mut self,
        stage: &'static str,
        patience: Duration,
    ) -> Result<Message, NoSuccessor> {
        match self.channel.hear(patience).await {
            Ok((message, _)) => Ok(message),
            Err(error) => Err(self.cause(stage, error).await),
        }
    }

    fn unexpected(&self, stage: &'static str, said: &'static str) -> NoSuccessor {
        self.failed(stage, ChannelError::Unexpected(said))
    }

    fn failed(&self, stage: &'static str, cause: impl std::fmt::Display) -> NoSuccessor {
        NoSuccessor::Failed { binary: self.binary.clone(), stage, cause: cause.to_string() }
    }

    /// Says why it failed; of one that ended, how.
    async fn cause(&mut self, stage: &'static str, error: ChannelError) -> NoSuccessor {
        if !matches!(error, ChannelError::Ended) {
            return self.failed(stage, error);
        }
        match timeout(LAST_BREATH, self.child.wait()).await {
            Ok(Ok(status)) => {
                self.failed(stage, format!("it ended with {status}; the log has its last words"))
            }
            Ok(Err(_)) | Err(_) => self.failed(stage, error),
        }
    }
}

impl Drop for Successor {
    fn drop(&mut self) {
        if !self.is_free {
            // Whoever holds this reaps it, or ends with it.
            let _ = self.child.start_kill();
        }
    }
}

/// Splits what is kept so that each part goes into one message.
fn batches(kept: &[(String, SharedDescriptors)]) -> Vec<&[(String, SharedDescriptors)]> {
    let mut batches = Vec::new();
    let (mut begin, mut count) = (0, 0);
    for (index, (_, descriptors)) in kept.iter().enumerate() {
        if index > begin && count + descriptors.list.len() > MAX_DESCRIPTORS {
            batches.push(&kept[begin..index]);
            (begin, count) = (index, 0);
        }
        count += descriptors.list.len();
    }
    batches.push(&kept[begin..]);

    batches
}
