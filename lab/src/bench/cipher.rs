//! How fast one core seals and opens packets with the cipher of WireGuard and nothing else: what no tunnel can beat.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use overlay_aead::{Key, NONCE_LEN, Refused, TAG_LEN, Work, open_two, seal_two};

/// Bytes of a full inner packet.
const PACKET: usize = 1408;
/// As many packets as one super-packet becomes, so that the cache is as warm as in the agent.
const BATCH: usize = 44;
/// How long each direction is measured.
const TIME: Duration = Duration::from_millis(100);
/// Always the same: nobody will read what this seals.
const NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// Speeds of one core, in GB/s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cipher {
    /// Sealing.
    pub(super) seal: f64,
    /// Opening.
    pub(super) open: f64,
}

impl Cipher {
    /// Measures the cipher that the agent uses, from one buffer into another and two packets at a time, as the agent does.
    pub(super) fn measure() -> Result<Self> {
        let key = Key::new(&[7; 32]);
        let packets = vec![0; BATCH * PACKET];
        let mut sealed = vec![0; BATCH * (PACKET + TAG_LEN)];
        let mut opened = vec![0; BATCH * PACKET];

        let seal = speed(|| {
            let slots = sealed.chunks_exact_mut(2 * (PACKET + TAG_LEN));
            packets.chunks_exact(2 * PACKET).zip(slots).try_for_each(|(packets, slots)| {
                let (slots, packets) = (slots.split_at_mut(PACKET + TAG_LEN), packets.split_at(PACKET));
                let work = [(packets.0, slots.0), (packets.1, slots.1)];
                all(seal_two(work.map(|(from, to)| Work { key: &key, nonce: NONCE, from, to })))
            })
        })?;
        let open = speed(|| {
            let slots = opened.chunks_exact_mut(2 * PACKET);
            sealed.chunks_exact(2 * (PACKET + TAG_LEN)).zip(slots).try_for_each(|(sealed, slots)| {
                let (slots, sealed) = (slots.split_at_mut(PACKET), sealed.split_at(PACKET + TAG_LEN));
                let work = [(sealed.0, slots.0), (sealed.1, slots.1)];
                all(open_two(work.map(|(from, to)| Work { key: &key, nonce: NONCE, from, to })))
            })
        })?;

        Ok(Self { seal, open })
    }
}

fn all<T>(results: [Result<T, Refused>; 2]) -> Result<(), Refused> {
    let [first, second] = results;

    first.and(second).map(drop)
}

/// Does batches for a while and returns the GB/s of packets.
fn speed(mut batch: impl FnMut() -> Result<(), Refused>) -> Result<f64> {
    let (start, mut bytes) = (Instant::now(), 0.0);
    while start.elapsed() < TIME {
        batch().map_err(|refused| anyhow!(refused))?;
        bytes += f64::from(u32::try_from(BATCH * PACKET)?);
    }

    Ok(bytes / start.elapsed().as_secs_f64() / 1e9)
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
