//! The network's TUN: made once, persistent, opened again by every process that follows.
//!
//! A process that attaches to a multi-queue TUN silently takes a share of its flows, so the caller
//! holds the namespace's lock first (`lock.rs`). Packet I/O on the queues is not here.

use std::ffi::{c_int, c_uint};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use super::namespace_desired::{TUN_NAME, TunDesired};

/// The most queues the kernel gives one TUN (`MAX_TAP_QUEUES`).
pub const MAX_QUEUES: usize = 256;

/// `struct ifreq` as far as `TUNSETIFF` reads it, padded to its full size.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: libc::c_short,
    padding: [u8; 22],
}

/// What the kernel may leave for us to do on packets that leave it: bigger than the MTU, with
/// checksums unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Offload {
    /// Nothing: whole packets only.
    None,
    /// Checksums.
    Checksum,
    /// Checksums and TCP segmentation.
    Tcp,
    /// Checksums, TCP and UDP segmentation (Linux 6.2).
    TcpUdp,
}

impl Offload {
    /// The ladder, best first.
    const LADDER: [Self; 4] = [Self::TcpUdp, Self::Tcp, Self::Checksum, Self::None];

    const fn bits(self) -> c_uint {
        match self {
            Self::None => 0,
            Self::Checksum => libc::TUN_F_CSUM,
            Self::Tcp => libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6,
            Self::TcpUdp => Self::Tcp.bits() | libc::TUN_F_USO4 | libc::TUN_F_USO6,
        }
    }
}

/// The open queues of a TUN. Every packet on them is preceded by a 10-byte `virtio_net_hdr`; none
/// by `tun_pi`.
#[derive(Debug)]
pub struct Tun {
    /// The interface's name.
    pub name: String,
    /// One descriptor a queue, non-blocking.
    pub queues: Vec<OwnedFd>,
    /// What was obtained; it holds for the whole device.
    pub offload: Offload,
    /// The MTU it will have after the first reconcile, in bytes.
    pub mtu: u32,
}

/// A network's interface as it was opened, for the backend that needs it.
#[derive(Debug)]
pub enum NetworkInterface {
    /// A TUN with its queues.
    Tun(Tun),
}

impl Tun {
    /// Opens the TUN with all its queues in the calling thread's namespace; makes it, persistent,
    /// if it is not there.
    pub(crate) fn open(desired: TunDesired) -> io::Result<Self> {
        let count = desired.queues.clamp(1, MAX_QUEUES);
        let queues = (0..count).map(|_| open_queue(TUN_NAME)).collect::<io::Result<Vec<_>>>()?;
        let first = &queues[0];

        ioctl(first, libc::TUNSETPERSIST, 1)?;
        let offload = obtain_offload(first)?;

        Ok(Self {
            name: TUN_NAME.to_owned(),
            queues: queues.into_iter().map(OwnedFd::from).collect(),
            offload,
            mtu: desired.mtu,
        })
    }
}

impl Tun {
    /// Goes on with queues that an earlier session opened; nothing when there are too few, or their
    /// device is gone.
    pub(crate) fn adopt(
        queues: Vec<OwnedFd>,
        offload: Offload,
        desired: TunDesired,
    ) -> Option<Self> {
        let is_enough = queues.len() >= desired.queues.clamp(1, MAX_QUEUES);

        (is_enough && queues.iter().all(is_attached)).then(|| Self {
            name: TUN_NAME.to_owned(),
            queues,
            offload,
            mtu: desired.mtu,
        })
    }
}

/// Says whether a queue still belongs to our device.
#[expect(unsafe_code, reason = "no crate wraps this ioctl")]
fn is_attached(queue: &OwnedFd) -> bool {
    let mut answer = IfReq { name: [0; libc::IFNAMSIZ], flags: 0, padding: [0; 22] };

    // SAFETY: the descriptor is open, and the answer points to a whole `ifreq`, which the kernel
    // writes.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNGETIFF, &raw mut answer) };
    let name = answer.name.split(|byte| *byte == 0).next();

    result >= 0 && name == Some(TUN_NAME.as_bytes())
}

fn obtain_offload(queue: &File) -> io::Result<Offload> {
    let mut refusal = io::Error::from_raw_os_error(libc::EINVAL);

    for offload in Offload::LADDER {
        match ioctl(queue, libc::TUNSETOFFLOAD, offload.bits().into()) {
            Ok(()) => return Ok(offload),
            Err(error) => refusal = error,
        }
    }

    Err(refusal)
}

#[expect(unsafe_code, reason = "no crate wraps this ioctl without also choosing offloads")]
fn open_queue(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open("/dev/net/tun")?;
    let flags = libc::IFF_TUN | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    let mut request = IfReq { name: [0; libc::IFNAMSIZ], flags, padding: [0; 22] };
    request.name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from);

    // SAFETY: the descriptor is open, and the request points to a whole `ifreq`, which the kernel
    // reads and writes.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }

    set_header_size(&file)?;
    Ok(file)
}

/// The header's size is the device's; a process before us may have changed it.
#[expect(unsafe_code, reason = "no crate wraps this ioctl")]
fn set_header_size(queue: &File) -> io::Result<()> {
    let size: c_int = 10;

    // SAFETY: the descriptor is open, and the argument points to an int that outlives the call.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const size) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Performs one of the ioctls that take a number.
#[expect(unsafe_code, reason = "no crate wraps these ioctls without also choosing offloads")]
fn ioctl(queue: &File, request: libc::Ioctl, value: libc::c_ulong) -> io::Result<()> {
    // SAFETY: the descriptor is open, and both requests made here take a plain number, not a
    // pointer.
    let result = unsafe { libc::ioctl(queue.as_raw_fd(), request, value) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
