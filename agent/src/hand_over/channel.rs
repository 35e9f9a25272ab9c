//! What the two processes of a hand-over say to each other, one message at a time.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use overlay_proto::v1;
use overlay_proto::v1::hand_over::Message;
use prost::Message as _;
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::kernel::passing;

/// Why the other process does not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelError {
    /// It says so itself.
    #[error("{0}")]
    Refused(String),
    /// It is gone.
    #[error("it ended without a word")]
    Ended,
    /// It is silent.
    #[error("it said nothing for {} ms", .0.as_millis())]
    Silent(Duration),
    /// It says something else than what is due.
    #[error("it said {0}, which nobody asked")]
    Unexpected(&'static str),
    /// The kernel refuses.
    #[error("the socket between the two programs")]
    Io(#[from] io::Error),
}

/// One end.
#[derive(Debug)]
pub(crate) struct Channel {
    socket: UnixDatagram,
}

impl Channel {
    /// Takes one end of [`passing::pair`].
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        // It keeps messages apart as well; only its end is another.
        Ok(Self { socket: UnixDatagram::from_std(socket.into())? })
    }

    /// Says something, and gives descriptors with it.
    pub(crate) async fn say(
        &self,
        message: Message,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), ChannelError> {
        let bytes = v1::HandOver { message: Some(message) }.encode_to_vec();
        let send = || passing::send(self.socket.as_fd(), &bytes, descriptors);
        match self.socket.async_io(Interest::WRITABLE, send).await {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(ChannelError::Ended),
            sent => Ok(sent?),
        }
    }

    /// Hears what is said next, within `patience`.
    pub(crate) async fn hear(
        &self,
        patience: Duration,
    ) -> Result<(Message, Vec<OwnedFd>), ChannelError> {
        let (bytes, descriptors) = timeout(patience, self.receive())
            .await
            .map_err(|_| ChannelError::Silent(patience))??;
        let message = v1::HandOver::decode(bytes.as_slice()).ok().and_then(|heard| heard.message);
        match message {
            Some(Message::Refused(why)) => Err(ChannelError::Refused(why)),
            Some(message) => Ok((message, descriptors)),
            None => Err(ChannelError::Unexpected("something that is no message")),
        }
    }

    async fn receive(&self) -> Result<(Vec<u8>, Vec<OwnedFd>), ChannelError> {
        match self
            .socket
            .async_io(Interest::READABLE, || passing::receive(self.socket.as_fd()))
            .await
        {
            Ok((bytes, _)) if bytes.is_empty() => Err(ChannelError::Ended),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                Err(ChannelError::Ended)
            }
            received => Ok(received?),
        }
    }
}

/// Names a message, for a refusal.
pub(crate) fn name(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "hello",
        Message::Offer(_) => "offer",
        Message::Accepted(_) => "accepted",
        Message::Proceed(_) => "proceed",
        Message::More(_) => "more",
        Message::Prepared(_) => "prepared",
        Message::State(_) => "state",
        Message::Ready(_) => "ready",
        Message::Go(_) => "go",
        Message::Running(_) => "running",
        Message::Refused(_) => "refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn ends() -> [Channel; 2] {
        passing::pair().expect("sockets").map(|socket| Channel::new(socket).expect("a runtime"))
    }

    #[tokio::test]
    async fn what_is_said_is_heard_with_its_descriptors() {
        let [one, other] = ends();
        let null = std::fs::File::open("/dev/null").expect("there");

        one.say(Message::State(v1::HandOverState {}), &[null.as_fd()]).await.expect("said");

        let (message, descriptors) = other.hear(SOON).await.expect("heard");
        assert_eq!((name(&message), descriptors.len()), ("state", 1));
    }

    #[tokio::test]
    async fn a_refusal_an_end_and_silence_are_told_apart() {
        let [one, other] = ends();

        one.say(Message::Refused("no room".to_owned()), &[]).await.expect("said");
        let refused = other.hear(SOON).await.expect_err("refused").to_string();
        let silent = other.hear(Duration::ZERO).await.expect_err("nothing");
        drop(one);
        let ended = other.hear(SOON).await.expect_err("the end");

        assert_eq!(refused, "no room");
        assert!(matches!(silent, ChannelError::Silent(_)));
        assert!(matches!(ended, ChannelError::Ended));
        assert!(matches!(
            other.say(Message::Go(v1::HandOverGo {}), &[]).await,
            Err(ChannelError::Ended)
        ));
    }
}
