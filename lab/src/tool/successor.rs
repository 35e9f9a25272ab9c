//! `overlay-lab successor`: a program that is to take an agent's place and does not, at a stage of
//! its own.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::RawFd;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use nix::cmsg_space;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recvmsg, sendmsg};
use overlay_proto::v1;
use overlay_proto::v1::hand_over::Message;
use prost::Message as _;

/// Where the agent is: standard input.
const AGENT: RawFd = 0;
/// The format that agents of this version speak.
const FORMAT: u32 = 1;
/// The most bytes of a message, and descriptors with it.
const MAX_MESSAGE: usize = 64 << 10;
const MAX_DESCRIPTORS: usize = 253;

/// Where it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Stage {
    /// Says hello in a format that nobody understands
    OtherFormat,
    /// Says nothing at all
    Silent,
    /// Says something else than hello
    Nonsense,
    /// Refuses what is offered
    Refuses,
    /// Ends when it has all descriptors
    EndsWithDescriptors,
    /// Refuses when it has all descriptors
    RefusesDescriptors,
    /// Ends when it has the sessions
    EndsWithSessions,
    /// Is silent when it has the sessions
    SilentWithSessions,
    /// Refuses the sessions
    RefusesSessions,
}

/// Speaks with the agent at standard input up to a stage, and fails there.
///
/// # Errors
///
/// If standard input is no agent.
pub(crate) fn run(stage: Stage) -> Result<()> {
    if stage == Stage::Silent {
        return wait();
    }
    if stage == Stage::Nonsense {
        say(Message::Running(v1::HandOverRunning {}))?;
        return wait();
    }
    let format = if stage == Stage::OtherFormat { FORMAT + 98 } else { FORMAT };
    let version = "99.0.0".to_owned();
    say(Message::Hello(v1::HandOverHello {
        version,
        oldest_format: format,
        newest_format: format,
    }))?;
    let Message::Offer(_) = hear()? else { bail!("no offer") };
    if stage == Stage::Refuses {
        return say(Message::Refused("it does not like what is offered".to_owned()));
    }
    say(Message::Accepted(v1::HandOverAccepted {}))?;
    let Message::Proceed(_) = hear()? else { bail!("nothing to proceed with") };
    loop {
        let Message::More(more) = hear()? else { bail!("no descriptors") };
        if more.is_last {
            break;
        }
    }
    if stage == Stage::EndsWithDescriptors {
        return Ok(());
    }
    if stage == Stage::RefusesDescriptors {
        return say(Message::Refused("it does not like the descriptors".to_owned()));
    }
    say(Message::Prepared(v1::HandOverPrepared {}))?;
    let Message::State(_) = hear()? else { bail!("no sessions") };
    if stage == Stage::RefusesSessions {
        return say(Message::Refused("it does not like the sessions".to_owned()));
    }
    if stage == Stage::SilentWithSessions {
        return wait();
    }

    Ok(())
}

fn say(message: Message) -> Result<()> {
    let bytes = v1::HandOver { message: Some(message) }.encode_to_vec();
    sendmsg::<()>(AGENT, &[IoSlice::new(&bytes)], &[], MsgFlags::MSG_NOSIGNAL, None)
        .context("cannot say anything")?;

    Ok(())
}

/// Hears the next message. The descriptors with it stay open until the end.
fn hear() -> Result<Message> {
    readable()?;
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = cmsg_space!([RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(AGENT, &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let length = received.bytes;
    ensure!(length > 0, "the agent is gone");

    v1::HandOver::decode(&bytes[..length])?.message.context("an empty message")
}

fn readable() -> Result<()> {
    let input = io::stdin();
    let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(&input), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::NONE)?;

    Ok(())
}

/// Waits until the agent ends this program.
fn wait() -> Result<()> {
    loop {
        // Whatever is said is not answered.
        hear()?;
    }
}
