//! `capture`: counts the frames on the wire and looks for a marker in each of them.

use std::fmt;
use std::fs::File;
use std::io::{BufWriter, IoSliceMut, Write};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, recvmsg, setsockopt,
    socket, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::signal::{is_stopped, stop_on_signal};
use crate::wait::poll_timeout;

/// What the tool prints once it misses no frame any more.
pub const READY: &str = "capturing";
/// The longest frame that is examined completely, in bytes. Frames that segmentation offload has
/// not cut yet are 64 KiB long.
const MAX_FRAME: usize = 256 * 1024;
/// How many bytes of frames may wait while one is examined.
const QUEUE: usize = 64 << 20;

/// Options of `capture`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Capture only on this link, in both directions; otherwise on all links, each frame once, on
    /// entry
    #[arg(long, short)]
    interface: Option<String>,
    /// With --interface: count only incoming frames
    #[arg(long, requires = "interface")]
    incoming: bool,
    /// Count the frames that contain this text
    #[arg(long, value_name = "TEXT")]
    marker: Option<String>,
    /// With --marker: count those that also contain this text separately
    #[arg(long, value_name = "TEXT", requires = "marker")]
    except: Option<String>,
    /// Write the frames to this file, for Wireshark or tcpdump
    #[arg(long, short, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Stop after this many seconds; otherwise on Ctrl-C
    #[arg(long)]
    seconds: Option<f64>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// The result of a capture.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaptureReport {
    /// Frames seen; a frame that segmentation offload has not cut yet counts once.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that contained the marker.
    pub marked: u64,
    /// Frames that contained the marker and the text that makes an exception.
    pub excepted: u64,
    /// Frames that contained a fragment of an IP packet.
    pub fragments: u64,
    /// Frames that came too fast to be examined. A proof needs 0 of them.
    pub missed: u64,
    /// Frames that were too long to be examined completely. A proof needs 0 of them.
    pub truncated: u64,
}

/// Captures until stopped, then prints the result. `bridge` joins the links: it would repeat what
/// they receive, and is left out where no link is named.
///
/// # Errors
///
/// If there is no such link, or no permission.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub fn run(options: &Options, bridge: &str) -> Result<()> {
    stop_on_signal()?;
    let deadline = options
        .seconds
        .map(Duration::try_from_secs_f64)
        .transpose()?
        .map(|wait| Instant::now() + wait);
    let mut sniffer = Sniffer::open(options, bridge)?;
    writeln!(std::io::stderr(), "{READY}")?;

    while !is_stopped() && deadline.is_none_or(|deadline| Instant::now() < deadline) {
        sniffer.wait()?;
        sniffer.take_all()?;
    }
    sniffer.take_all()?;
    let report = sniffer.finish()?;

    if options.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        println!("{report}");
    }
    Ok(())
}

impl CaptureReport {
    /// Returns whether every single frame was examined completely.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.missed == 0 && self.truncated == 0
    }
}

impl fmt::Display for CaptureReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frames, bytes, marked, excepted: _, fragments, missed, truncated } = self;
        write!(formatter, "{frames} frames, {bytes} bytes, {marked} with the marker")?;
        if *fragments > 0 {
            write!(formatter, ", {fragments} fragments")?;
        }
        if !self.is_complete() {
            write!(formatter, " ({missed} missed, {truncated} not looked at whole)")?;
        }

        Ok(())
    }
}

struct Sniffer {
    socket: OwnedFd,
    wanted: Wanted,
    marker: Option<Vec<u8>>,
    except: Option<Vec<u8>>,
    file: Option<BufWriter<File>>,
    buffer: Vec<u8>,
    report: CaptureReport,
}

/// The frames that are counted.
enum Wanted {
    /// Those on one link, in both directions or only incoming.
    Link { index: usize, incoming: bool },
    /// Those that enter on any link. The bridge itself would repeat what its ports have received.
    Incoming { bridge: Option<usize> },
}

impl Sniffer {
    fn open(options: &Options, bridge: &str) -> Result<Self> {
        let index = |name: &str| if_nametoindex(name).map(|index| index as usize);
        let wanted = match &options.interface {
            Some(name) => {
                let index = index(name).with_context(|| format!("there is no link {name}"))?;
                Wanted::Link { index, incoming: options.incoming }
            }
            None => Wanted::Incoming { bridge: index(bridge).ok() },
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
            .context("cannot open a packet socket (are you root?)")?;
        if setsockopt(&socket, sockopt::RcvBufForce, &QUEUE).is_err() {
            setsockopt(&socket, sockopt::RcvBuf, &QUEUE)?;
        }
        let file = options.write.as_deref().map(start_file).transpose()?;
        let marker = options.marker.clone().map(String::into_bytes);
        let except = options.except.clone().map(String::into_bytes);

        Ok(Self {
            socket,
            wanted,
            marker,
            except,
            file,
            buffer: vec![0; MAX_FRAME],
            report: CaptureReport::default(),
        })
    }

    fn wait(&self) -> Result<()> {
        const LOOK_UP: Duration = Duration::from_millis(100);

        match poll(
            &mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)],
            poll_timeout(LOOK_UP),
        ) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(errno).context("cannot wait for frames"),
        }
    }

    /// Reads the frames that are waiting.
    fn take_all(&mut self) -> Result<()> {
        loop {
            let mut slices = [IoSliceMut::new(&mut self.buffer)];
            let message = match recvmsg::<LinkAddr>(
                self.socket.as_raw_fd(),
                &mut slices,
                None,
                MsgFlags::MSG_TRUNC,
            ) {
                Ok(message) => message,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(Errno::EINTR) => continue,
                // A link that goes down is reported once, through the socket.
                Err(Errno::ENETDOWN) => continue,
                Err(errno) => return Err(errno).context("cannot receive frames"),
            };
            let (length, address) = (message.bytes, message.address);
            if address.is_some_and(|address| self.wanted.covers(&address)) {
                self.count(length)?;
            }
        }
    }

    fn count(&mut self, length: usize) -> Result<()> {
        let frame = &self.buffer[..length.min(MAX_FRAME)];
        self.report.frames += 1;
        self.report.bytes += length as u64;
        self.report.truncated += u64::from(length > frame.len());
        self.report.fragments += u64::from(is_fragment(frame));
        let holds =
            |text: &Option<Vec<u8>>| text.as_deref().is_some_and(|text| contains(frame, text));
        if holds(&self.marker) && holds(&self.except) {
            self.report.excepted += 1;
        } else if holds(&self.marker) {
            self.report.marked += 1;
        }
        if let Some(file) = &mut self.file {
            write_frame(file, frame, length)?;
        }

        Ok(())
    }

    fn finish(mut self) -> Result<CaptureReport> {
        self.report.missed = missed(&self.socket)?;
        if let Some(mut file) = self.file {
            file.flush().context("cannot write the capture file")?;
        }

        Ok(self.report)
    }
}

impl Wanted {
    fn covers(&self, address: &LinkAddr) -> bool {
        let comes_in = address.pkttype() != libc::PACKET_OUTGOING;
        match self {
            Self::Link { index, incoming } => {
                address.ifindex() == *index && (!incoming || comes_in)
            }
            Self::Incoming { bridge } => comes_in && Some(address.ifindex()) != *bridge,
        }
    }
}

/// Returns how many frames the kernel could not queue.
#[expect(unsafe_code, reason = "no library here wraps PACKET_STATISTICS")]
fn missed(socket: &OwnedFd) -> Result<u64> {
    let mut statistics = libc::tpacket_stats { tp_packets: 0, tp_drops: 0 };
    let mut length = libc::socklen_t::try_from(size_of_val(&statistics))?;

    // SAFETY: the kernel writes at most `length` bytes, the size of `statistics`, which lives until
    // after the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut statistics).cast(),
            &raw mut length,
        )
    };
    Errno::result(result).context("cannot ask how many frames were missed")?;
    Ok(statistics.tp_drops.into())
}

/// Returns whether `needle` is in `haystack`. A capture must keep up with gigabits, even in a debug
/// build.
#[expect(unsafe_code, reason = "memmem(3) is the fastest search there is without a dependency")]
fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    // SAFETY: both pointers are valid for reads of the lengths given with them.
    let found = unsafe {
        libc::memmem(haystack.as_ptr().cast(), haystack.len(), needle.as_ptr().cast(), needle.len())
    };

    !found.is_null()
}

/// Returns whether an Ethernet frame contains a fragment of an IP packet.
fn is_fragment(frame: &[u8]) -> bool {
    const HEADER: usize = 14;
    const FRAGMENT_HEADER: u8 = 44;

    let byte = |at: usize| frame.get(HEADER + at).copied().unwrap_or_default();
    match frame.get(12..HEADER) {
        // More fragments follow, or this is not the first.
        Some([0x08, 0x00]) => u16::from_be_bytes([byte(6), byte(7)]) & 0x3FFF != 0,
        Some([0x86, 0xDD]) => byte(6) == FRAGMENT_HEADER,
        _ => false,
    }
}

/// Starts a capture file of the classic format (pcap 2.4, Ethernet).
fn start_file(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    file.write_all(&0xA1B2_C3D4_u32.to_ne_bytes())?;
    file.write_all(&2_u16.to_ne_bytes())?;
    file.write_all(&4_u16.to_ne_bytes())?;
    for word in [0, 0, u32::try_from(MAX_FRAME)?, 1] {
        file.write_all(&word.to_ne_bytes())?;
    }

    Ok(file)
}

fn write_frame(file: &mut impl Write, frame: &[u8], length: usize) -> Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    // The format's clock ends in 2106.
    let seconds = u32::try_from(now.as_secs())?;
    for word in [seconds, now.subsec_micros(), u32::try_from(frame.len())?, u32::try_from(length)?]
    {
        file.write_all(&word.to_ne_bytes())?;
    }

    file.write_all(frame).context("cannot write the capture file")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_wherever_it_stands() {
        for text in ["marker", "..marker", "marker..", "mamarker"] {
            assert!(contains(text.as_bytes(), b"marker"), "{text}");
        }
        for text in ["", "marke", "mark er"] {
            assert!(!contains(text.as_bytes(), b"marker"), "{text}");
        }
    }

    #[test]
    fn fragments_of_both_families_are_known() {
        let frame = |kind: [u8; 2], at: usize, bytes: [u8; 2]| {
            let mut frame = vec![0; 60];
            frame[12..14].copy_from_slice(&kind);
            frame[14 + at..16 + at].copy_from_slice(&bytes);
            is_fragment(&frame)
        };

        assert!(
            frame([8, 0], 6, [0x20, 0])
                && frame([8, 0], 6, [0, 1])
                && frame([0x86, 0xDD], 6, [44, 64])
        );
        assert!(
            !frame([8, 0], 6, [0x40, 0])
                && !frame([0x86, 0xDD], 6, [17, 64])
                && !frame([8, 6], 6, [0x20, 0])
        );
        assert!(!is_fragment(&[]));
    }

    #[test]
    fn a_frame_is_written_with_its_length_on_the_wire() {
        let mut file = Vec::new();
        write_frame(&mut file, b"abc", 5).unwrap();

        assert_eq!(file[8..12], 3_u32.to_ne_bytes());
        assert_eq!(file[12..16], 5_u32.to_ne_bytes());
        assert_eq!(&file[16..], b"abc");
    }
}
