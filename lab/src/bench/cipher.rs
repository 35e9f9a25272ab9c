//! How fast one core seals and opens packets with the cipher of WireGuard and nothing else: what no tunnel can beat.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use overlay_aead::{Key, NONCE_LEN, Refused, TAG_LEN};

/// Bytes of a full inner packet.
const PACKET: usize = 1408;
/// As many packets as one super-packet becomes, so that the cache is as warm as in the agent.
const BATCH: usize = 45;
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
    /// Measures the cipher that the agent uses, from one buffer into another, as the agent does.
    pub(super) fn measure() -> Result<Self> {
        let key = Key::new(&[7; 32]);
        let packets = vec![0; BATCH * PACKET];
        let mut sealed = vec![0; BATCH * (PACKET + TAG_LEN)];
        let mut opened = vec![0; BATCH * PACKET];

        let seal = speed(|| {
            let slots = sealed.chunks_exact_mut(PACKET + TAG_LEN);
            packets.chunks_exact(PACKET).zip(slots).try_for_each(|(packet, slot)| key.seal(&NONCE, packet, slot))
        })?;
        let open = speed(|| {
            let slots = opened.chunks_exact_mut(PACKET);
            sealed
                .chunks_exact(PACKET + TAG_LEN)
                .zip(slots)
                .try_for_each(|(sealed, slot)| key.open(&NONCE, sealed, slot).map(drop))
        })?;

        Ok(Self { seal, open })
    }
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
