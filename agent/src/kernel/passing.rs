//! Messages with descriptors between two processes, and secrets that nobody can change any more on
//! their way.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read as _, Seek as _, Write as _};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType, recvmsg,
    sendmsg, socketpair,
};
use zeroize::Zeroizing;

/// The most descriptors that one message takes. The kernel's limit is 253 (`SCM_MAX_FD`).
pub(crate) const MAX_DESCRIPTORS: usize = 200;
/// The largest message, in bytes.
pub(crate) const MAX_MESSAGE: usize = 64 << 10;
/// The largest secret, in bytes: 100,000 tunnels with four sessions each have 500 MB.
const MAX_SECRET: u64 = 1 << 30;

/// The seals without which a secret is not read: its size and contents stay as they are.
const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Makes two sockets that are connected to each other and keep messages apart. Neither blocks or is
/// inherited.
pub(crate) fn pair() -> io::Result<[OwnedFd; 2]> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;

    Ok([one, other])
}

/// Sends one message, and descriptors with it.
pub(crate) fn send(
    socket: BorrowedFd<'_>,
    message: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    if message.len() > MAX_MESSAGE || descriptors.len() > MAX_DESCRIPTORS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<_> = descriptors.iter().map(|descriptor| descriptor.as_raw_fd()).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[][..] } else { &rights };
    sendmsg::<()>(
        socket.as_raw_fd(),
        &[IoSlice::new(message)],
        control,
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;

    Ok(())
}

/// Receives one message, and the descriptors that came with it, which are not inherited. An empty
/// message is the end.
pub(crate) fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0; MAX_MESSAGE];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; MAX_DESCRIPTORS]);
    let mut parts = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg::<()>(
        socket.as_raw_fd(),
        &mut parts,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let (len, flags) = (received.bytes, received.flags);
    let mut descriptors = Vec::new();
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(raw) = message {
            descriptors.extend(raw.into_iter().map(owned));
        }
    }
    if flags.intersects(MsgFlags::MSG_TRUNC | MsgFlags::MSG_CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(len);

    Ok((bytes, descriptors))
}

#[expect(unsafe_code, reason = "the kernel hands descriptors over as numbers")]
fn owned(raw: std::os::fd::RawFd) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for this process, and nobody else has its
    // number.
    unsafe { OwnedFd::from_raw_fd(raw) }
}

/// Puts a secret where only whoever has the descriptor finds it, and nobody can change it.
pub(crate) fn seal(secret: &[u8]) -> io::Result<OwnedFd> {
    let memory = memfd_create(c"overlay", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?;
    let mut file = File::from(memory);
    file.write_all(secret)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SEALS))?;

    Ok(file.into())
}

/// Reads a secret that somebody sealed.
pub(crate) fn unseal(memory: OwnedFd) -> io::Result<Zeroizing<Vec<u8>>> {
    let seals = SealFlag::from_bits_truncate(fcntl(memory.as_fd(), FcntlArg::F_GET_SEALS)?);
    let mut file = File::from(memory);
    let len = file.metadata()?.len();
    if !seals.contains(SEALS) || len > MAX_SECRET {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut secret = Zeroizing::new(vec![0; len]);
    file.rewind()?;
    file.read_exact(&mut secret)?;

    Ok(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_apart_and_bring_their_descriptors() {
        let [one, other] = pair().expect("sockets");
        let null = File::open("/dev/null").expect("there");
        let many = vec![null.as_fd(); MAX_DESCRIPTORS];

        send(one.as_fd(), b"first", &many).expect("sent");
        send(one.as_fd(), b"second", &[]).expect("sent");

        let (first, descriptors) = receive(other.as_fd()).expect("received");
        assert_eq!((first.as_slice(), descriptors.len()), (&b"first"[..], MAX_DESCRIPTORS));
        let flags = fcntl(&descriptors[0], FcntlArg::F_GETFD).expect("flags");
        assert_eq!(flags & libc::FD_CLOEXEC, libc::FD_CLOEXEC);
        assert_eq!(receive(other.as_fd()).expect("received").0, b"second");
        assert_eq!(receive(other.as_fd()).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
        drop(one);
        assert!(receive(other.as_fd()).expect("the end").0.is_empty());
    }

    #[test]
    fn what_is_too_much_for_one_message_is_refused() {
        let [one, _other] = pair().expect("sockets");
        let null = File::open("/dev/null").expect("there");

        assert!(send(one.as_fd(), b"", &vec![null.as_fd(); MAX_DESCRIPTORS + 1]).is_err());
        assert!(send(one.as_fd(), &vec![0; MAX_MESSAGE + 1], &[]).is_err());
    }

    #[test]
    fn a_sealed_secret_is_read_and_cannot_be_changed() {
        let memory = seal(b"a secret").expect("sealed");
        let mut copy = File::from(memory.try_clone().expect("a descriptor"));

        assert!(copy.write_all(b"another").is_err());
        assert!(copy.set_len(2).is_err());
        assert_eq!(unseal(memory).expect("read").as_slice(), b"a secret");
    }

    #[test]
    fn what_is_not_sealed_is_not_read() {
        let memory = memfd_create(c"test", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
            .expect("memory");

        assert!(unseal(memory).is_err());
        assert!(unseal(File::open("/dev/null").expect("there").into()).is_err());
    }
}
