use proptest::prelude::*;

use super::*;
use crate::path::packet::Segment;
use crate::path::testing::{Tcp, tcp4, udp4};

fn pushed(header: VirtioNetHdr, packet: &[u8]) -> Result<Vec<Vec<u8>>, Malformed> {
    let mut batch = Batch::new();
    let room = batch.room();
    header.encode(room).map_err(|_| Malformed)?;
    room[VIRTIO_NET_HDR_LEN..][..packet.len()].copy_from_slice(packet);
    batch.push(VIRTIO_NET_HDR_LEN + packet.len())?;

    Ok(batch.packets().map(<[u8]>::to_vec).collect())
}

fn tcp_gso(gso_size: u16) -> VirtioNetHdr {
    VirtioNetHdr {
        flags: NEEDS_CSUM,
        gso_type: tun_rs::VIRTIO_NET_HDR_GSO_TCPV4,
        hdr_len: 40,
        gso_size,
        csum_start: 20,
        csum_offset: 16,
    }
}

#[test]
fn a_plain_packet_passes_unchanged() {
    let packet = tcp4(Tcp::default(), b"hello");

    assert_eq!(pushed(VirtioNetHdr::default(), &packet), Ok(vec![packet]));
}

#[test]
fn a_partial_checksum_is_completed() {
    let whole = udp4(1000, 53, b"hello");
    let mut partial = whole.clone();
    let pseudo = tun_rs::checksum(
        &[],
        tun_rs::checksum_no_fold(&whole[12..20], 17 + (whole.len() as u64 - 20)),
    );
    partial[26..28].copy_from_slice(&pseudo.to_be_bytes());
    let header = VirtioNetHdr {
        flags: NEEDS_CSUM,
        csum_start: 20,
        csum_offset: 6,
        ..VirtioNetHdr::default()
    };

    assert_eq!(pushed(header, &partial), Ok(vec![whole]));
}

#[test]
fn a_super_packet_becomes_packets_with_right_checksums() {
    let payload: Vec<u8> = (0..3000u32).map(|n| n.to_le_bytes()[0]).collect();
    let packet = tcp4(Tcp { push: true, seq: u32::MAX - 1000, ..Tcp::default() }, &payload);

    let out = pushed(tcp_gso(1356), &packet).expect("a sound super-packet");

    let segments: Vec<_> =
        out.iter().map(|packet| Segment::read(packet).expect("a packet")).collect();
    assert!(segments.iter().all(Segment::checksum_holds));
    assert_eq!(
        segments.iter().flat_map(|segment| segment.payload().to_vec()).collect::<Vec<_>>(),
        payload
    );
    assert_eq!(
        segments.iter().map(|segment| segment.payload().len()).collect::<Vec<_>>(),
        [1356, 1356, 288]
    );
}

#[test]
fn segments_of_a_few_bytes_are_split_too() {
    let packet = tcp4(Tcp::default(), &[7; 65_000]);

    assert_eq!(pushed(tcp_gso(48), &packet).map(|out| out.len()), Ok(65_000usize.div_ceil(48)));
}

#[test]
fn what_is_no_super_packet_is_refused() {
    let packet = tcp4(Tcp::default(), &[7; 500]);

    assert_eq!(pushed(tcp_gso(0), &packet), Err(Malformed));
    assert_eq!(pushed(VirtioNetHdr { gso_type: 3, ..tcp_gso(100) }, &packet), Err(Malformed));
    assert_eq!(
        pushed(VirtioNetHdr { csum_start: 60_000, ..tcp_gso(100) }, &packet),
        Err(Malformed)
    );
    assert_eq!(pushed(tcp_gso(100), &packet[..30]), Err(Malformed));
    assert_eq!(pushed(VirtioNetHdr::default(), &[]), Err(Malformed));
}

#[test]
fn a_batch_ends_at_what_one_send_carries() {
    let mut batch = Batch::new();
    let packet = tcp4(Tcp::default(), b"x");
    let mut reads = 0;

    while !batch.is_full() {
        let room = batch.room();
        VirtioNetHdr::default().encode(room).expect("room");
        room[VIRTIO_NET_HDR_LEN..][..packet.len()].copy_from_slice(&packet);
        batch.push(VIRTIO_NET_HDR_LEN + packet.len()).expect("a packet");
        reads += 1;
    }

    assert_eq!((reads, batch.len()), (ENOUGH_PACKETS, ENOUGH_PACKETS));
}

proptest! {
    #[test]
    fn no_read_can_make_it_panic(reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8)) {
        let mut batch = Batch::new();

        for read in reads {
            batch.room()[..read.len()].copy_from_slice(&read);
            let before = batch.len();
            if batch.push(read.len()).is_err() {
                prop_assert_eq!(batch.len(), before);
            }
        }
    }

    #[test]
    fn no_header_can_make_it_panic(
        (flags, gso_type) in (any::<u8>(), prop_oneof![Just(1u8), Just(4), Just(5), any::<u8>()]),
        (gso_size, start, offset) in (any::<u16>(), 0..100u16, prop_oneof![Just(6u16), Just(16), any::<u16>()]),
        len in 0..500usize,
    ) {
        let header = VirtioNetHdr { flags, gso_type, hdr_len: 0, gso_size, csum_start: start, csum_offset: offset };
        let packet = tcp4(Tcp::default(), &[1; 500]);

        let _ = pushed(header, &packet[..len]);
    }
}
