//! Many namespaces at once that send from the moment at which anything takes their packets.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use super::{MARKER, READY};
use crate::signal::{is_stopped, stop_on_signal};

/// How often each sends to each address, once it can: for half a second, in which its interface
/// comes into the network and other hosts hear of it.
const PACKETS: u32 = 50;
/// Between two packets.
const PAUSE: Duration = Duration::from_millis(10);
/// Between two attempts where there is no way yet.
const AGAIN: Duration = Duration::from_micros(200);

/// Options of `hostile storm`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// The number of namespaces
    #[arg(long, default_value_t = 20)]
    namespaces: usize,
    /// Where to send
    #[arg(long)]
    to: Vec<IpAddr>,
}

/// What a namespace's thread tells.
enum Said {
    /// The thread is in a namespace of its own.
    Inside(nix::unistd::Pid),
    /// It has sent so many packets.
    Sent(usize),
}

/// Prints the path of each namespace, and then sends from all of them as soon as they can. They
/// stay until stopped.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub(super) fn run(options: &Options) -> Result<()> {
    stop_on_signal()?;
    let (say, said) = mpsc::channel();
    let (mut threads, mut stops) = (Vec::new(), Vec::new());
    for _ in 0..options.namespaces {
        let (say, to) = (say.clone(), options.to.clone());
        let (stop, stopped) = mpsc::channel();
        threads.push(std::thread::spawn(move || inside(&say, &stopped, &to)));
        stops.push(stop);
    }
    let (mut line, mut sent, mut done) = (READY.to_owned(), 0, 0);
    let mut inside = 0;
    while !is_stopped() {
        match said.recv_timeout(AGAIN) {
            Ok(Said::Inside(thread)) => {
                write!(line, " /proc/{}/task/{thread}/ns/net", std::process::id())?;
                inside += 1;
                if inside == options.namespaces {
                    println!("{line}");
                }
            }
            Ok(Said::Sent(count)) => {
                (sent, done) = (sent + count, done + 1);
                if done == options.namespaces {
                    println!("sent {sent}");
                }
            }
            Err(_) => {}
        }
    }
    drop(stops);
    for thread in threads {
        thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))??;
    }

    Ok(())
}

/// Enters a namespace of its own, sends, and stays.
fn inside(say: &Sender<Said>, stopped: &Receiver<()>, to: &[IpAddr]) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("no namespaces (are you root?)")?;
    say.send(Said::Inside(nix::unistd::gettid())).context("nobody listens")?;
    say.send(Said::Sent(send(stopped, to)?)).context("nobody listens")?;
    // Ends with the other end.
    let _ended = stopped.recv();

    Ok(())
}

/// Sends to all addresses as soon as that goes; returns how many packets went.
fn send(stopped: &Receiver<()>, to: &[IpAddr]) -> Result<usize> {
    let sockets = to.iter().map(|address| match address {
        IpAddr::V4(_) => UdpSocket::bind("0.0.0.0:0"),
        IpAddr::V6(_) => UdpSocket::bind("[::]:0"),
    });
    let sockets: Vec<_> = sockets.collect::<Result<_, _>>()?;
    let data = [&MARKER[..], &[0]].concat();
    let (mut sent, mut rounds) = (0, 0);
    while rounds < PACKETS {
        let before = sent;
        for (socket, address) in sockets.iter().zip(to) {
            sent += usize::from(socket.send_to(&data, SocketAddr::new(*address, 9)).is_ok());
        }
        rounds += u32::from(sent > before);
        let pause = if sent == before { AGAIN } else { PAUSE };
        if stopped.recv_timeout(pause) == Err(RecvTimeoutError::Disconnected) {
            break;
        }
    }

    Ok(sent)
}
