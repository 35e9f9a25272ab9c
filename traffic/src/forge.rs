//! `forge`: sends UDP packets with any source address, to show that they do not arrive.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};

/// The discard port.
const PORT: u16 = 9;
const IP: usize = 20;
const UDP: usize = 8;

/// Options of `forge`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Source address to forge
    #[arg(long)]
    from: Ipv4Addr,
    /// Destination address
    #[arg(long)]
    to: Ipv4Addr,
    /// Number of packets
    #[arg(long, default_value_t = 10)]
    count: u32,
    /// Text in each packet
    #[arg(long, default_value = "forged")]
    marker: String,
}

/// Sends the packets.
///
/// # Errors
///
/// If there is no permission to send raw packets.
#[expect(clippy::print_stdout, reason = "this is a command line")]
pub fn run(options: &Options) -> Result<()> {
    let raw = Protocol::from(libc::IPPROTO_RAW);
    let socket = Socket::new(Domain::IPV4, Type::RAW, Some(raw))
        .context("cannot open a raw socket (are you root?)")?;
    let packet = packet(options)?;
    let to = SocketAddr::V4(SocketAddrV4::new(options.to, 0)).into();
    let mut sent = 0_u32;
    for _ in 0..options.count {
        // A packet that the kernel refuses to send is a forgery that failed early.
        sent += u32::from(socket.send_to(&packet, &to).is_ok());
    }

    println!("{sent} of {} sent", options.count);
    Ok(())
}

/// Returns an IPv4 packet with a UDP datagram. The kernel fills in the IP checksum; UDP's is
/// optional.
fn packet(options: &Options) -> Result<Vec<u8>> {
    let payload = options.marker.as_bytes();
    let length = u16::try_from(IP + UDP + payload.len()).context("the marker is too long")?;
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(options.from.octets());
    packet.extend(options.to.octets());
    for word in [PORT, PORT, length - 20, 0] {
        packet.extend(word.to_be_bytes());
    }
    packet.extend(payload);

    Ok(packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_packet_says_what_was_asked_for() {
        let options = Options {
            from: [10, 0, 0, 1].into(),
            to: [10, 0, 0, 2].into(),
            count: 1,
            marker: "forged".to_owned(),
        };

        let packet = packet(&options).unwrap();
        assert_eq!(packet.len(), 34);
        assert_eq!(packet[2..4], [0, 34]);
        assert_eq!(packet[12..20], [10, 0, 0, 1, 10, 0, 0, 2]);
        assert_eq!(packet[24..26], [0, 14]);
    }
}
