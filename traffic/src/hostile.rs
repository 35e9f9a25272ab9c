//! `hostile`: a container that attacks others by raw frames, one attack a signal, and
//! its counterpart that counts which of them arrive.

mod attacks;
mod packet;
pub mod storm;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{
    self, AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike as _,
    SockaddrStorage,
};

use self::attacks::{Attack, MARKER, Scene};
use crate::announcement::announce;
use crate::signal::{is_stopped, stop_on_signal};
use crate::wait::poll_timeout;
use crate::wait::wait_until;

/// What an attacker or a watcher says once it is ready.
pub const READY: &str = "ready";
const LINK: &str = "eth0";
/// How long the gateway may take to answer what it must not answer.
const ANSWERS: Duration = Duration::from_millis(150);
const LONGEST: usize = 65_536;
/// How much of an answer is looked at.
const HEADERS: usize = 64;
/// How many ports are tried at once, before answers are waited for.
const AT_ONCE: usize = 1_000;

/// What it does.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum HostileTool {
    /// Attack; each SIGUSR1 lets the next attack begin
    Attack(Options),
    /// Count the frames of attacks that come in, until stopped
    Watch,
    /// Send from many namespaces at once as soon as that goes
    Storm(storm::Options),
}

/// Options of `hostile attack`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// A container on the same host, by its addresses of both families
    #[arg(long, num_args = 2)]
    near: Vec<IpAddr>,
    /// A container on another host
    #[arg(long, num_args = 2)]
    far: Vec<IpAddr>,
    /// An address of a host
    #[arg(long)]
    host: Vec<Ipv4Addr>,
    /// The gateway, where no route names it
    #[arg(long)]
    gateway: Option<Ipv4Addr>,
    /// How often each attack is made; ports are tried once
    #[arg(long, default_value_t = 1)]
    rounds: u32,
    /// How many ports of the gateway are tried, at most 65535
    #[arg(long, default_value_t = 100)]
    ports: u16,
}

/// What one attack sent, as a line of JSON.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub struct Sent {
    /// The name of the attack.
    pub name: String,
    /// The counter that counts it.
    pub counter: String,
    /// Frames that were sent.
    pub sent: u64,
    /// How many the counter must count at the least.
    pub counts: u64,
    /// Answers of the gateway that it must not give.
    pub answers: u64,
    /// The number that is in its frames.
    pub number: usize,
}

/// How many frames of each attack have arrived, by its number.
pub type Arrived = BTreeMap<u8, u64>;

/// Runs it.
///
/// # Errors
///
/// If there is no permission to send or capture raw frames.
pub fn run(tool: &HostileTool) -> Result<()> {
    match tool {
        HostileTool::Attack(options) => attack(options),
        HostileTool::Watch => watch(),
        HostileTool::Storm(options) => storm::run(options),
    }
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn attack(options: &Options) -> Result<()> {
    let mut begin = SigSet::empty();
    begin.add(Signal::SIGUSR1);
    begin.thread_block()?;
    let scene = scene(options)?;
    let socket = open(Some(LINK))?;
    let attacks = attacks::all(&scene);
    println!("{READY} {}", attacks.len());
    for (number, attack) in attacks.iter().enumerate() {
        begin.wait()?;
        let sent = perform(&socket, attack, number, options.rounds, &scene)?;
        announce(serde_json::to_string(&sent)?)?;
    }
    // The check ends it: its endpoint stays until all is counted.
    begin.wait()?;

    Ok(())
}

fn perform(
    socket: &OwnedFd,
    attack: &Attack,
    number: usize,
    rounds: u32,
    scene: &Scene,
) -> Result<Sent> {
    let rounds = if attack.is_scan { 1 } else { rounds };
    let (sent, answers) = if attack.is_scan {
        scan(socket, &attack.frames, scene)?
    } else {
        let frames = (0..rounds).flat_map(|_| &attack.frames);
        frames.clone().try_for_each(|frame| send(socket, frame))?;
        (frames.count(), 0)
    };

    Ok(Sent {
        name: attack.name.to_owned(),
        counter: attack.counter.to_owned(),
        sent: u64::try_from(sent)?,
        counts: attack.counts as u64 * u64::from(rounds),
        answers,
        number,
    })
}

fn send(socket: &OwnedFd, frame: &[u8]) -> Result<()> {
    loop {
        match socket::send(socket.as_raw_fd(), frame, MsgFlags::empty()) {
            Ok(_) => return Ok(()),
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => wait(socket, PollFlags::POLLOUT)?,
            Err(errno) => return Err(errno).context("cannot send a frame"),
        }
    }
}

/// Tries ports of the gateway; returns how many, and how often the gateway answered.
fn scan(socket: &OwnedFd, frames: &[Vec<u8>], scene: &Scene) -> Result<(usize, u64)> {
    let answers = open(Some(LINK))?;
    let mut count = 0;
    for some in frames.chunks(AT_ONCE) {
        for frame in some {
            send(socket, frame)?;
            // What is sent comes by here as well, and must not take the room of answers.
            count += count_answers(&answers, scene);
        }
        let end = Instant::now() + ANSWERS;
        while Instant::now() < end {
            wait(&answers, PollFlags::POLLIN)?;
            count += count_answers(&answers, scene);
        }
    }

    Ok((frames.len(), count))
}

/// Counts what the gateway has said to the scanner: TCP, UDP, or that a port is closed.
fn count_answers(socket: &OwnedFd, scene: &Scene) -> u64 {
    let (mut buffer, mut count) = ([0; HEADERS], 0);
    while let Ok(len) = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
        count += u64::from(is_answer(&buffer[..len.min(HEADERS)], scene));
    }

    count
}

fn is_answer(frame: &[u8], scene: &Scene) -> bool {
    let byte = |at: usize| frame.get(at).copied().unwrap_or_default();
    if frame.get(..6) != Some(&scene.mac[..]) {
        return false;
    }
    match frame.get(12..14) {
        Some([0x08, 0x00]) => matches!((byte(23), byte(34)), (6 | 17, _) | (1, 3)),
        Some([0x86, 0xDD]) => matches!((byte(20), byte(54)), (6 | 17, _) | (58, 1)),
        _ => false,
    }
}

#[expect(clippy::print_stdout, reason = "this is a command line")]
fn watch() -> Result<()> {
    stop_on_signal()?;
    let socket = open(None)?;
    let (mut arrived, mut buffer) = (Arrived::new(), vec![0; LONGEST]);
    println!("{READY}");
    loop {
        let stops = is_stopped();
        while let Ok(len) = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT) {
            if let Some(number) = number(&buffer[..len]) {
                *arrived.entry(number).or_default() += 1;
            }
        }
        if stops {
            break;
        }
        wait(&socket, PollFlags::POLLIN)?;
    }

    println!("{}", serde_json::to_string(&arrived)?);
    Ok(())
}

/// Finds the number of the attack that a frame is of.
fn number(frame: &[u8]) -> Option<u8> {
    let found = frame.windows(MARKER.len() + 1).find(|bytes| bytes.starts_with(&MARKER))?;

    found.last().copied()
}

/// Waits until the socket is ready, or a moment has passed.
fn wait(socket: &OwnedFd, what: PollFlags) -> Result<()> {
    let mut fds = [PollFd::new(socket.as_fd(), what)];
    match poll(&mut fds, poll_timeout(Duration::from_millis(50))) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno).context("cannot wait for frames"),
    }
}

/// Opens a packet socket on a link, or on all.
#[expect(unsafe_code, reason = "the address of a link is made of the kernel's structure")]
fn open(link: Option<&str>) -> Result<OwnedFd> {
    let socket = socket::socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("cannot open a packet socket (are you root?)")?;
    let Some(link) = link else { return Ok(socket) };
    let index = if_nametoindex(link).with_context(|| format!("there is no link {link}"))?;
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET)?,
        sll_protocol: u16::try_from(libc::ETH_P_ALL)?.to_be(),
        sll_ifindex: index.cast_signed(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = u32::try_from(size_of::<libc::sockaddr_ll>())?;
    // SAFETY: the structure is one of the kernel's, whole, and of the length given.
    let address = unsafe { LinkAddr::from_raw((&raw const address).cast(), Some(len)) };
    socket::bind(socket.as_raw_fd(), &address.context("no address of a link")?)?;

    Ok(socket)
}

/// Looks around in the container.
fn scene(options: &Options) -> Result<Scene> {
    let gateway = options.gateway.or_else(gateway).context("there is no gateway")?;
    // Whoever is spoken to is a neighbour then.
    UdpSocket::bind("0.0.0.0:0")?.send_to(&[0], (gateway, 53))?;
    let mut gateway_mac = None;
    wait_until(Duration::from_secs(5), "the gateway answers", || {
        gateway_mac = neighbour(gateway);
        gateway_mac.is_some()
    })?;
    let (mut own, mut mac) = (Vec::<IpAddr>::new(), None);
    for interface in nix::ifaddrs::getifaddrs()?.filter(|one| one.interface_name == LINK) {
        own.extend(interface.address.as_ref().and_then(address));
        // What is below /sys may be another namespace's.
        mac = mac.or(interface.address.as_ref().and_then(|all| all.as_link_addr()?.addr()));
    }
    let v6: Vec<Ipv6Addr> = own
        .iter()
        .filter_map(|ip| match ip {
            IpAddr::V6(ip) => Some(*ip),
            IpAddr::V4(_) => None,
        })
        .collect();
    let link_local = v6.iter().find(|ip| ip.is_unicast_link_local());
    let global = v6.iter().find(|ip| !ip.is_unicast_link_local());
    let v4 = own.iter().find_map(|ip| match ip {
        IpAddr::V4(ip) => Some(*ip),
        IpAddr::V6(_) => None,
    });

    Ok(Scene {
        mac: mac.context("eth0 has no hardware address")?,
        gateway_mac: gateway_mac.context("the gateway is silent")?,
        own: (v4.context("no IPv4 address")?, *global.context("no IPv6 address")?),
        link_local: *link_local.context("no link-local address")?,
        gateway,
        near: both(&options.near)?,
        far: both(&options.far)?,
        hosts: options.host.clone(),
        ports: ports(options.ports),
    })
}

/// Lists ports from the lowest on, without that of DNS; the last ones are the highest.
fn ports(count: u16) -> Vec<u16> {
    let (low, high) = (count / 2, count - count / 2);

    (1..=low)
        .chain((u16::MAX - high).saturating_add(1)..=u16::MAX)
        .filter(|port| *port != 53)
        .collect()
}

fn address(storage: &SockaddrStorage) -> Option<IpAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));

    v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
}

fn both(addresses: &[IpAddr]) -> Result<(Ipv4Addr, Ipv6Addr)> {
    match addresses {
        [IpAddr::V4(v4), IpAddr::V6(v6)] => Ok((*v4, *v6)),
        other => anyhow::bail!("not an address of each family: {other:?}"),
    }
}

/// Finds the gateway in the kernel's list of routes.
fn gateway() -> Option<Ipv4Addr> {
    let routes = std::fs::read_to_string("/proc/net/route").ok()?;
    let mut gateways = routes.lines().filter_map(|line| {
        let words: Vec<_> = line.split_whitespace().collect();
        let ours = words.first() == Some(&LINK);
        let raw = u32::from_str_radix(words.get(2)?, 16).ok()?;
        (ours && raw != 0).then(|| Ipv4Addr::from(raw.to_ne_bytes()))
    });

    gateways.next()
}

fn neighbour(ip: Ipv4Addr) -> Option<[u8; 6]> {
    let table = std::fs::read_to_string("/proc/net/arp").ok()?;
    let line =
        table.lines().find(|line| line.split_whitespace().next() == Some(&ip.to_string()))?;

    parse_mac(line.split_whitespace().nth(3)?).filter(|mac| *mac != [0; 6])
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<_> =
        text.split(':').filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect();

    bytes.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_the_lowest_and_the_highest_but_for_that_of_dns() {
        let all = ports(100);

        assert!(all.starts_with(&[1, 2]) && all.ends_with(&[u16::MAX]) && !all.contains(&53));
        assert!((95..=105).contains(&all.len()), "{}", all.len());
        assert_eq!(ports(u16::MAX).len(), 65_534);
    }

    #[test]
    fn a_frame_of_an_attack_is_known_by_its_number() {
        let frame = [&[0; 14][..], &MARKER, &[7, 0, 0]].concat();

        assert_eq!((number(&frame), number(&frame[..19])), (Some(7), None));
    }
}
