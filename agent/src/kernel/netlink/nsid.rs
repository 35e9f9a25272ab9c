//! Numbers of namespaces (`nsid`): given and asked for by hand, for rtnetlink has no such request.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    self, AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType,
};

const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
/// `nlmsghdr`.
const HEADER: usize = 16;
/// `rtgenmsg`, padded.
const FAMILY: usize = 4;
/// An attribute with its header: all of ours hold four bytes.
const ATTRIBUTE: usize = 8;
/// Room for an answer.
const ANSWER: usize = 512;
/// "Any number" in a request, "no number" in an answer.
const NONE: i32 = -1;
/// `SOL_NETLINK`.
const SOL_NETLINK: libc::c_int = 270;

/// Opens a socket for requests in the calling thread's namespace, whose numbers they are about.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let socket =
        socket::socket(AddressFamily::Netlink, SockType::Raw, flags, SockProtocol::NetlinkRoute)?;
    socket::bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;

    Ok(socket)
}

/// Returns the number of a namespace, giving it one if it has none. The kernel answers at once.
pub(super) fn number(requests: &OwnedFd, netns: BorrowedFd<'_>) -> io::Result<i32> {
    let fd = (NETNSA_FD, netns.as_raw_fd());
    let known = ask(requests, RTM_GETNSID, NLM_F_REQUEST, &[fd])?;
    if let Some(number) = known {
        return Ok(number);
    }
    ask(requests, RTM_NEWNSID, NLM_F_REQUEST | NLM_F_ACK, &[(NETNSA_NSID, NONE), fd])?;

    ask(requests, RTM_GETNSID, NLM_F_REQUEST, &[fd])?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Lets a socket hear of all namespaces that have a number in its own.
#[expect(unsafe_code, reason = "no crate wraps this socket option")]
pub(super) fn listen_all(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    let len = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open, and the kernel reads `len` bytes at the address of `on`,
    // which is that large.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            SOL_NETLINK,
            libc::NETLINK_LISTEN_ALL_NSID,
            std::ptr::from_ref(&on).cast(),
            len,
        )
    };

    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel; the number in its answer, if there is one.
fn ask(
    requests: &OwnedFd,
    kind: u16,
    flags: u16,
    attributes: &[(u16, i32)],
) -> io::Result<Option<i32>> {
    let message = request(kind, flags, attributes);
    socket::send(requests.as_raw_fd(), &message, MsgFlags::empty())?;
    let mut answer = [0; ANSWER];
    let len = socket::recv(requests.as_fd().as_raw_fd(), &mut answer, MsgFlags::empty())?;

    read(answer.get(..len).unwrap_or_default())
}

fn request(kind: u16, flags: u16, attributes: &[(u16, i32)]) -> Vec<u8> {
    let len = HEADER + FAMILY + attributes.len() * ATTRIBUTE;
    let mut message = Vec::with_capacity(len);
    message.extend(u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one request is under way at a time, and the kernel knows who asks.
    message.extend([0; 8 + FAMILY]);
    for (kind, value) in attributes {
        message.extend(u16::try_from(ATTRIBUTE).unwrap_or(u16::MAX).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(value.to_ne_bytes());
    }

    message
}

fn read(answer: &[u8]) -> io::Result<Option<i32>> {
    let malformed = || io::Error::from(io::ErrorKind::InvalidData);
    let kind = answer
        .get(4..6)
        .and_then(|b| b.first_chunk().copied())
        .map(u16::from_ne_bytes)
        .ok_or_else(malformed)?;
    let word =
        |at: usize| answer.get(at..).and_then(|b| b.first_chunk().copied()).map(i32::from_ne_bytes);
    if kind == NLMSG_ERROR {
        return match word(HEADER).ok_or_else(malformed)? {
            0 => Ok(None),
            errno => Err(io::Error::from_raw_os_error(-errno)),
        };
    }
    let mut at = HEADER + FAMILY;
    while let Some(header) = answer.get(at..).and_then(|b| b.first_chunk::<4>().copied()) {
        let [len, kind] = [[header[0], header[1]], [header[2], header[3]]].map(u16::from_ne_bytes);
        if kind == NETNSA_NSID {
            return Ok(word(at + 4).filter(|number| *number != NONE));
        }
        at += usize::from(len).max(4).next_multiple_of(4);
    }

    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let message = request(RTM_NEWNSID, NLM_F_REQUEST, &[(NETNSA_NSID, NONE), (NETNSA_FD, 7)]);

        assert_eq!(message.len(), 36);
        assert_eq!(read(&message).expect("a message"), None, "any number");
        let numbered = request(RTM_NEWNSID, 0, &[(NETNSA_FD, 7), (NETNSA_NSID, 42)]);
        assert_eq!(read(&numbered).expect("a message"), Some(42));
    }

    #[test]
    fn what_is_cut_off_is_no_number() {
        let message = request(RTM_NEWNSID, 0, &[(NETNSA_NSID, 42)]);

        for len in 0..message.len() {
            assert_ne!(read(&message[..len]).ok().flatten(), Some(42), "{len} bytes");
        }
    }
}
