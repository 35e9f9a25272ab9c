//! Packets of containers.

use std::net::IpAddr;

use crate::ip::{V4_HEADER, V6_HEADER};

/// Makes a UDP-like packet of `len` bytes in all.
pub(crate) fn packet(source: IpAddr, destination: IpAddr, len: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..len).map(|i| u8::try_from(i % 251).expect("small")).collect();
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes[..V4_HEADER].fill(0);
            bytes[0] = 0x45;
            bytes[2..4].copy_from_slice(&u16::try_from(len).expect("fits").to_be_bytes());
            bytes[8..10].copy_from_slice(&[64, 17]);
            bytes[12..16].copy_from_slice(&source.octets());
            bytes[16..20].copy_from_slice(&destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes[..V6_HEADER].fill(0);
            bytes[0] = 0x60;
            bytes[4..6]
                .copy_from_slice(&u16::try_from(len - V6_HEADER).expect("fits").to_be_bytes());
            bytes[6..8].copy_from_slice(&[17, 64]);
            bytes[8..24].copy_from_slice(&source.octets());
            bytes[24..40].copy_from_slice(&destination.octets());
        }
        _ => panic!("one family"),
    }
    bytes
}

/// A packet that carries a number.
pub(crate) fn numbered(from: IpAddr, to: IpAddr, number: u32) -> Vec<u8> {
    let mut bytes = packet(from, to, 100);
    bytes[60..64].copy_from_slice(&number.to_be_bytes());
    bytes
}

pub(crate) fn number_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[60..64].try_into().expect("four bytes"))
}
