//! How fast one core seals and opens packets with the cipher of WireGuard and nothing else: what no tunnel can beat.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

/// Bytes of a full inner packet.
const PACKET: usize = 1408;
/// As many packets as one super-packet becomes, so that the cache is as warm as in the agent.
const BATCH: usize = 45;
/// How long each direction is measured.
const TIME: Duration = Duration::from_millis(100);

/// Speeds of one core, in GB/s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cipher {
    /// Sealing.
    pub(super) seal: f64,
    /// Opening.
    pub(super) open: f64,
}

impl Cipher {
    /// Measures.
    pub(super) fn measure() -> Result<Self> {
        let key = UnboundKey::new(&CHACHA20_POLY1305, &[7; 32]).map_err(|_| anyhow!("no such cipher"))?;
        let key = LessSafeKey::new(key);
        let tag = CHACHA20_POLY1305.tag_len();
        let mut sealed = vec![0; BATCH * (PACKET + tag)];

        let seal = speed(&mut sealed, |packet| {
            let (packet, end) = packet.split_at_mut(PACKET);
            let made = key.seal_in_place_separate_tag(nonce(), Aad::empty(), packet)?;
            end.copy_from_slice(made.as_ref());
            Ok(())
        })?;
        // What is opened twice would not be sealed any more, so every batch is sealed afresh, outside the time that counts.
        let mut batch = sealed.clone();
        for packet in batch.chunks_exact_mut(PACKET + tag) {
            let (packet, end) = packet.split_at_mut(PACKET);
            let made = key.seal_in_place_separate_tag(nonce(), Aad::empty(), packet);
            end.copy_from_slice(made.map_err(|_| anyhow!("cannot seal"))?.as_ref());
        }
        let (mut spent, mut bytes) = (Duration::ZERO, 0.0);
        while spent < TIME {
            sealed.copy_from_slice(&batch);
            let start = Instant::now();
            bytes += once(&mut sealed, |packet| key.open_in_place(nonce(), Aad::empty(), packet).map(drop))?;
            spent += start.elapsed();
        }

        Ok(Self { seal, open: bytes / spent.as_secs_f64() / 1e9 })
    }
}

fn speed(batch: &mut [u8], mut work: impl FnMut(&mut [u8]) -> Result<(), ring::error::Unspecified>) -> Result<f64> {
    let (start, mut bytes) = (Instant::now(), 0.0);
    while start.elapsed() < TIME {
        bytes += once(batch, &mut work)?;
    }

    Ok(bytes / start.elapsed().as_secs_f64() / 1e9)
}

/// Does one batch and returns how many bytes of packets that were.
fn once(batch: &mut [u8], mut work: impl FnMut(&mut [u8]) -> Result<(), ring::error::Unspecified>) -> Result<f64> {
    let mut bytes = 0.0;
    for packet in batch.chunks_exact_mut(PACKET + CHACHA20_POLY1305.tag_len()) {
        work(packet).map_err(|_| anyhow!("the cipher refuses"))?;
        bytes += f64::from(u32::try_from(PACKET)?);
    }

    Ok(bytes)
}

/// Always the same: nobody will read what this seals.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_opens() {
        let cipher = Cipher::measure().unwrap();

        assert!(cipher.seal > 0.0 && cipher.open > 0.0, "{cipher:?}");
    }
}
