use proptest::prelude::*;

use super::*;
use crate::path::testing::{Owned, Tcp, assert_same_flows, tcp4, tcp6, through_the_kernel, udp4};

const BOTH: Offload = Offload { tcp: true, udp: true };

fn groups_of(packets: &[Vec<u8>], offload: Offload) -> Vec<usize> {
    let owned = Owned::new(packets);
    let mut coalescer = Coalescer::default();
    coalescer.plan(owned.packets(), offload);

    coalescer.groups().iter().map(Group::len).collect()
}

fn stream(count: u32, payload: u32) -> Vec<Vec<u8>> {
    (0..count)
        .map(|n| {
            let id = u16::try_from(n).expect("small");
            tcp4(Tcp { seq: 7 + n * payload, id, ..Tcp::default() }, &vec![0xA5; payload as usize])
        })
        .collect()
}

#[test]
fn a_stream_becomes_one_write_and_comes_back_as_it_was() {
    let packets = stream(40, 1356);

    assert_eq!(groups_of(&packets, BOTH), [40]);
    assert_eq!(through_the_kernel(&packets, BOTH), packets);
}

#[test]
fn a_super_packet_never_outgrows_its_length_field() {
    let packets = stream(64, 1356);

    assert_eq!(groups_of(&packets, BOTH), [48, 16]);
    assert_eq!(through_the_kernel(&packets, BOTH), packets);
}

#[test]
fn nothing_is_merged_that_the_device_does_not_take() {
    assert_eq!(groups_of(&stream(3, 100), Offload::default()), [1, 1, 1]);
    assert_eq!(
        groups_of(&[udp4(1, 2, b"abc"), udp4(1, 2, b"abc")], Offload { tcp: true, udp: false }),
        [1, 1]
    );
}

#[test]
fn a_gap_ends_a_group() {
    let mut packets = stream(4, 100);
    packets.remove(2);

    assert_eq!(groups_of(&packets, BOTH), [2, 1]);
}

#[test]
fn a_pushed_or_short_packet_is_the_last_of_its_group() {
    let mut packets = stream(4, 100);
    packets[1] = tcp4(Tcp { seq: 107, id: 1, push: true, ..Tcp::default() }, &[0xA5; 100]);

    assert_eq!(groups_of(&packets, BOTH), [2, 2]);
    assert_eq!(through_the_kernel(&packets, BOTH), packets);

    packets[1] = tcp4(Tcp { seq: 107, id: 1, ..Tcp::default() }, &[0xA5; 60]);
    packets[2] = tcp4(Tcp { seq: 167, id: 2, ..Tcp::default() }, &[0xA5; 100]);
    assert_eq!(groups_of(&packets, BOTH), [2, 1, 1]);
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let mut packets = stream(3, 100);
    let last = packets[1].len() - 1;
    packets[1][last] ^= 1;

    assert_eq!(groups_of(&packets, BOTH), [1, 1, 1]);
    assert_eq!(through_the_kernel(&packets, BOTH), packets);
}

#[test]
fn an_acknowledgement_is_not_overtaken_by_data_that_was_sent_later() {
    let mut packets = stream(3, 100);
    packets.insert(1, tcp4(Tcp { seq: 107, id: 1, ..Tcp::default() }, &[]));

    assert_eq!(through_the_kernel(&packets, BOTH), packets);
}

#[test]
fn ipv6_streams_and_datagrams_are_merged_too() {
    let six: Vec<_> =
        (0..3).map(|n| tcp6(Tcp { seq: n * 100, ..Tcp::default() }, &[1; 100])).collect();
    let datagrams: Vec<_> = (0..3).map(|n| udp4(1, 2, &[n; 300])).collect();

    assert_eq!(groups_of(&six, BOTH), [3]);
    assert_eq!(through_the_kernel(&six, BOTH), six);
    assert_eq!(groups_of(&datagrams, BOTH), [3]);
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let tcp = (0..3u16, 0..6u32, 0..3u8, any::<bool>()).prop_map(|(port, n, kind, push)| {
        let fields = Tcp { source_port: port, seq: n * 50, id: 0, push, ack: u32::from(kind == 2) };
        tcp4(fields, &vec![7; if kind == 1 { 20 } else { 50 }])
    });
    let udp = (0..3u16, 0..40usize).prop_map(|(port, len)| udp4(port, 9, &vec![3; len]));

    prop_oneof![6 => tcp, 3 => udp, 1 => prop::collection::vec(any::<u8>(), 0..80)]
}

proptest! {
    #[test]
    fn every_flow_comes_out_as_it_went_in(packets in prop::collection::vec(any_packet(), 0..70)) {
        let out = through_the_kernel(&packets, BOTH);

        assert_same_flows(&out, &packets);
    }

    #[test]
    fn no_bytes_can_make_it_panic(packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..120), 0..20)) {
        let headers = [&[0x45u8, 0, 0][..], &[0x60, 0, 0, 0]];
        let packets: Vec<_> = packets.iter().enumerate().map(|(n, p)| [headers[n % 2], p].concat()).collect();

        prop_assert_eq!(through_the_kernel(&packets, BOTH).len(), packets.len());
    }
}
