//! What must hold for every packet that reaches a container.

use etherparse::IpSlice;

use super::prefixes;
use crate::ip;

/// Checks that a packet is complete with nothing behind it, comes from one host's prefixes and goes
/// to another's.
pub(crate) fn assert_sound(packet: &[u8], from: usize, to: usize) {
    let ours = ip::parse(packet).expect("a header");
    assert_eq!(ours.len, packet.len(), "nothing behind it: {packet:02x?}");
    // That parser checks extension headers and options, which the engine ignores.
    if let Ok(theirs) = IpSlice::from_slice(packet) {
        assert_eq!(
            (theirs.source_addr(), theirs.destination_addr()),
            (ours.source, ours.destination)
        );
        assert!(theirs.payload().payload.len() <= packet.len());
    }
    assert!(prefixes(from).iter().any(|prefix| prefix.contains(&ours.source)), "{packet:02x?}");
    assert!(prefixes(to).iter().any(|prefix| prefix.contains(&ours.destination)), "{packet:02x?}");
}
