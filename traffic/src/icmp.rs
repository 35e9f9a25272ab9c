//! ICMP echo messages of both families, as bytes.

use std::net::IpAddr;

const ECHO_REQUEST_V4: u8 = 8;
const ECHO_REPLY_V4: u8 = 0;
const ECHO_REQUEST_V6: u8 = 128;
const ECHO_REPLY_V6: u8 = 129;
const HEADER: usize = 8;
/// The length of an IPv4 header without options, and the offsets of the protocol and the two
/// addresses.
const IPV4_HEADER: usize = 20;
const PROTOCOL: usize = 9;
const SOURCE: usize = 12;
const ICMP: u8 = 1;

/// Writes an echo request. For IPv6 the kernel fills in the checksum, which covers addresses that
/// are not known here.
pub fn request(to: IpAddr, id: u16, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let kind = if to.is_ipv4() { ECHO_REQUEST_V4 } else { ECHO_REQUEST_V6 };
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(payload);
    if to.is_ipv4() {
        let sum = checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }

    message
}

/// Returns the sequence number of an echo reply that answers `id` and contains `payload`; `None`
/// for anything else. Raw IPv4 sockets deliver the IP header, too.
pub fn reply(from: IpAddr, id: u16, payload: &[u8], received: &[u8]) -> Option<u16> {
    let message = if from.is_ipv4() { skip_ipv4_header(received)? } else { received };
    let (header, rest) = message.split_at_checked(HEADER)?;
    let kind = if from.is_ipv4() { ECHO_REPLY_V4 } else { ECHO_REPLY_V6 };
    let answers = header[0] == kind && header[4..6] == id.to_be_bytes() && rest == payload;

    answers.then(|| u16::from_be_bytes([header[6], header[7]]))
}

/// Returns the answer to an IPv4 packet that is an echo request; `None` for anything else.
pub fn answer(packet: &[u8]) -> Option<Vec<u8>> {
    let header = usize::from(packet.first()? & 0x0F) * 4;
    let is_request = packet[0] >> 4 == 4
        && packet.get(PROTOCOL) == Some(&ICMP)
        && packet.len() >= header + HEADER
        && packet[header] == ECHO_REQUEST_V4;
    if header < IPV4_HEADER || !is_request {
        return None;
    }

    // The header's checksum does not depend on which address is which.
    let mut answer = packet.to_vec();
    answer[SOURCE..IPV4_HEADER].rotate_left(4);
    let message = &mut answer[header..];
    message[0] = ECHO_REPLY_V4;
    message[2..4].fill(0);
    let sum = checksum(message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);

    Some(answer)
}

fn skip_ipv4_header(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 0x0F) * 4;

    packet.get(length..)
}

/// The Internet's checksum (RFC 1071).
pub(crate) fn checksum(message: &[u8]) -> u16 {
    let sum: u32 = message
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)))
        .sum();
    let folded = (sum & 0xFFFF) + (sum >> 16);
    let folded = (folded & 0xFFFF) + (folded >> 16);

    !u16::try_from(folded).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::LOCALHOST);

    #[test]
    fn a_request_sums_to_zero() {
        for payload in [b"".as_slice(), b"x", b"marker", &[0xFF; 1001]] {
            assert_eq!(checksum(&request(V4, 7, 9, payload)), 0);
        }
    }

    #[test]
    fn only_the_right_reply_counts() {
        let mut answer = request(V6, 7, 9, b"data");
        answer[0] = ECHO_REPLY_V6;
        assert_eq!(reply(V6, 7, b"data", &answer), Some(9));
        assert_eq!(reply(V6, 8, b"data", &answer), None, "another's");
        assert_eq!(reply(V6, 7, b"date", &answer), None, "damaged");
        assert_eq!(reply(V6, 7, b"data", &answer[..7]), None, "short");

        let mut packet = vec![0x46; 24];
        let mut answer = request(V4, 7, 9, b"data");
        answer[0] = ECHO_REPLY_V4;
        packet.extend(answer);
        assert_eq!(reply(V4, 7, b"data", &packet), Some(9));
        assert_eq!(reply(V4, 7, b"data", &packet[..20]), None);
        assert_eq!(reply(V4, 7, b"data", &[]), None);
    }

    #[test]
    fn a_request_is_answered_to_its_sender_and_nothing_else_is() {
        let mut packet = vec![0; IPV4_HEADER];
        (packet[0], packet[PROTOCOL]) = (0x45, ICMP);
        packet[SOURCE..].copy_from_slice(&[1, 1, 1, 1, 2, 2, 2, 2]);
        packet.extend(request(V4, 7, 9, b"data"));

        let reply_packet = answer(&packet).expect("a request");

        assert_eq!(reply_packet[SOURCE..IPV4_HEADER], [2, 2, 2, 2, 1, 1, 1, 1]);
        assert_eq!(checksum(&reply_packet[IPV4_HEADER..]), 0);
        assert_eq!(reply(V4, 7, b"data", &reply_packet), Some(9));
        assert_eq!(answer(&reply_packet), None, "a reply");
        assert_eq!(answer(&packet[..IPV4_HEADER + 4]), None, "short");
        assert_eq!(answer(&[]), None);
        packet[PROTOCOL] = 17;
        assert_eq!(answer(&packet), None, "UDP");
    }
}
