//! The running agent, as the new program that is to take its place sees it: at the other end of
//! standard input.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use overlay_dataplane::EngineState;
use overlay_proto::v1;
use overlay_proto::v1::hand_over::Message;

use super::channel::{Channel, ChannelError, name};
use super::descriptor_store::{DescriptorStore, SharedDescriptors};
use super::encoding::decode;
use super::moments::Moments;
use super::{FORMAT, HandedNode};
use crate::config::Config;
use crate::kernel::passing;

/// How long the running agent may take to answer; it waits for calls that are under way.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is nothing to take over.
#[derive(Debug, thiserror::Error)]
pub enum NoPredecessor {
    /// Standard input leads to no agent.
    #[error("--take-over is for `overlayctl upgrade`: standard input is no running agent")]
    NotThere,
    /// The running agent is gone, silent, or says something else than what is due.
    #[error("the running agent")]
    Channel(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It has something that this program would have elsewhere.
    #[error(
        "the running agent has {what} {running}, this program would have {own}; a restart changes that"
    )]
    Differs {
        /// What differs.
        what: &'static str,
        /// There.
        running: String,
        /// Here.
        own: String,
    },
    /// What it gave cannot be used.
    #[error("{what} cannot be taken over")]
    Unusable {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A network does not come up.
    #[error("network {network} does not come up: {problem}")]
    Network {
        /// Which.
        network: String,
        /// What the kernel said.
        problem: String,
    },
    /// The networks did not come up in time.
    #[error("networks did not come up: {0}")]
    Slow(String),
    /// The lanes do not answer.
    #[error("the lanes take no commands")]
    Lanes,
}

impl From<ChannelError> for NoPredecessor {
    fn from(error: ChannelError) -> Self {
        Self::Channel(Box::new(error))
    }
}

/// The running agent.
#[derive(Debug)]
pub(crate) struct Predecessor {
    channel: Channel,
    /// How many lanes it has.
    lanes: usize,
}

impl Predecessor {
    /// Greets the agent at standard input, and accepts what it offers if this program would do the
    /// same.
    pub(crate) async fn greet(config: &Config) -> Result<Self, NoPredecessor> {
        let mut new = Self {
            channel: Channel::new(standard_input()?).map_err(|_| NoPredecessor::NotThere)?,
            lanes: 0,
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let hello = v1::HandOverHello { version, oldest_format: FORMAT, newest_format: FORMAT };
        new.say(Message::Hello(hello)).await?;
        let offer = match new.channel.hear(PATIENCE).await? {
            (Message::Offer(offer), _) => offer,
            (other, _) => return Err(unexpected(&other)),
        };
        new.lanes = offer.ports.len();
        match check(&offer, config) {
            Ok(()) => new.say(Message::Accepted(v1::HandOverAccepted {})).await?,
            Err(differs) => {
                new.refuse(&differs.to_string()).await;
                return Err(differs);
            }
        }

        Ok(new)
    }

    /// Returns how many lanes the running agent has.
    pub(crate) fn lanes(&self) -> usize {
        self.lanes
    }

    /// Receives everything but the sessions.
    pub(crate) async fn receive(
        &self,
        store: &DescriptorStore,
    ) -> Result<HandedNode, NoPredecessor> {
        let node = match self.channel.hear(PATIENCE).await? {
            (Message::Proceed(node), _) => HandedNode::from_message(node),
            (other, _) => return Err(unexpected(&other)),
        };
        loop {
            let (more, descriptors) = match self.channel.hear(PATIENCE).await? {
                (Message::More(more), descriptors) => (more, descriptors),
                (other, _) => return Err(unexpected(&other)),
            };
            let mut descriptors = VecDeque::from(descriptors);
            for entry in more.kept {
                let count =
                    usize::try_from(entry.count).unwrap_or(usize::MAX).min(descriptors.len());
                let list = descriptors.drain(..count).collect();
                store.receive(entry.name, SharedDescriptors { list, note: entry.note });
            }
            if more.is_last {
                return Ok(node);
            }
        }
    }

    /// Says that everything is up.
    pub(crate) async fn prepared(&self) -> Result<(), NoPredecessor> {
        self.say(Message::Prepared(v1::HandOverPrepared {})).await
    }

    /// Receives the sessions.
    pub(crate) async fn sessions(&self) -> Result<Vec<EngineState>, NoPredecessor> {
        let memory = match self.channel.hear(PATIENCE).await? {
            (Message::State(_), descriptors) => descriptors.into_iter().next(),
            (other, _) => return Err(unexpected(&other)),
        };
        let unusable =
            |source| NoPredecessor::Unusable { what: "the state of the sessions", source };
        let memory = memory.ok_or_else(|| unusable(io::ErrorKind::InvalidData.into()))?;
        let bytes = passing::unseal(memory).map_err(unusable)?;
        let moments = Moments::now().map_err(unusable)?;

        decode(&bytes, &moments).map_err(|error| unusable(io::Error::other(error)))
    }

    /// Says that the sessions were taken over, but for so many.
    pub(crate) async fn ready(&self, refused: usize) -> Result<(), NoPredecessor> {
        let refused = u32::try_from(refused).unwrap_or(u32::MAX);
        self.say(Message::Ready(v1::HandOverReady { refused })).await
    }

    /// Waits to be let go on in the running agent's place.
    pub(crate) async fn released(&self) -> Result<(), NoPredecessor> {
        match self.channel.hear(PATIENCE).await? {
            (Message::Go(_), _) => Ok(()),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Says that packets are carried.
    pub(crate) async fn running(&self) -> Result<(), NoPredecessor> {
        self.say(Message::Running(v1::HandOverRunning {})).await
    }

    /// Says why this program does not take over, if anybody still listens.
    pub(crate) async fn refuse(&self, why: &str) {
        let _ = self.channel.say(Message::Refused(why.to_owned()), &[]).await;
    }

    /// Waits until the running agent is gone.
    pub(crate) async fn gone(&self) {
        // It says nothing any more, so whatever ends the wait is its end.
        let _ = self.channel.hear(PATIENCE).await;
    }

    async fn say(&self, message: Message) -> Result<(), NoPredecessor> {
        Ok(self.channel.say(message, &[]).await?)
    }
}

fn unexpected(message: &Message) -> NoPredecessor {
    ChannelError::Unexpected(name(message)).into()
}

/// Takes the socket from standard input, which leads nowhere afterwards.
fn standard_input() -> Result<OwnedFd, NoPredecessor> {
    let not_there = |_| NoPredecessor::NotThere;
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(not_there)?;
    // A pair's ends have the credentials of whoever made it.
    let peer =
        getsockopt(&socket, sockopt::PeerCredentials).map_err(|_| NoPredecessor::NotThere)?;
    let own = nix::unistd::geteuid().as_raw();
    if peer.uid() != 0 && peer.uid() != own {
        return Err(NoPredecessor::NotThere);
    }
    let nowhere = File::open("/dev/null").map_err(not_there)?;
    nix::unistd::dup2_stdin(nowhere).map_err(|_| NoPredecessor::NotThere)?;

    Ok(socket)
}

/// Checks that this program would have everything where the running agent has it.
fn check(offer: &v1::HandOverOffer, config: &Config) -> Result<(), NoPredecessor> {
    let same = |what, running: &str, own: String| {
        let running = running.to_owned();
        if running == own { Ok(()) } else { Err(NoPredecessor::Differs { what, running, own }) }
    };
    same("its state in", &offer.state_dir, config.state.display().to_string())?;
    same("its namespaces in", &offer.run_dir, config.run_dir.display().to_string())?;
    same("its socket at", &offer.socket, config.socket().display().to_string())?;
    let listed =
        |ports: &[u16]| ports.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let running: Vec<_> = offer.ports.iter().filter_map(|port| u16::try_from(*port).ok()).collect();
    if running.is_empty() {
        return Ok(());
    }
    let own = crate::path::consecutive_ports(config.port.get(), config.lanes().into());

    same("lanes on UDP ports", &listed(&running), listed(&own))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::config::Arguments;

    fn config(words: &[&str]) -> Config {
        Arguments::try_parse_from(
            [&["overlayd", "--state", "/s", "--run-dir", "/r"], words].concat(),
        )
        .expect("arguments")
        .config
    }

    fn offer() -> v1::HandOverOffer {
        v1::HandOverOffer {
            state_dir: "/s".to_owned(),
            run_dir: "/r".to_owned(),
            socket: "/r/agent.sock".to_owned(),
            ports: vec![51820, 51821],
            ..v1::HandOverOffer::default()
        }
    }

    #[test]
    fn what_would_be_elsewhere_is_refused() {
        let same = config(&["--lanes", "2"]);
        assert!(check(&offer(), &same).is_ok());
        assert!(
            check(&v1::HandOverOffer { ports: Vec::new(), ..offer() }, &config(&["--lanes", "3"]))
                .is_ok()
        );

        let refusal =
            |config: &Config| check(&offer(), config).expect_err("it differs").to_string();
        assert_eq!(
            refusal(&config(&["--lanes", "3"])),
            "the running agent has lanes on UDP ports 51820, 51821, this program would have 51820, 51821, 51822; \
             a restart changes that"
        );
        assert!(refusal(&config(&["--lanes", "2", "--port", "7"])).contains("UDP ports"));
        assert!(refusal(&config(&["--lanes", "2", "--socket", "/x"])).contains("its socket at"));
    }

    #[tokio::test]
    async fn a_standard_input_that_is_no_agent_is_refused() {
        assert!(matches!(standard_input(), Err(NoPredecessor::NotThere)));
    }
}
