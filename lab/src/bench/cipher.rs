//! How fast one core seals and opens packets with the cipher of WireGuard and nothing else: what no tunnel can beat.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use overlay_aead::{Key, NONCE_LEN, Refused, TAG_LEN, Work, open_two, seal_two};

/// Bytes of a full inner packet.
const PACKET: usize = 1408;
/// As many packets as one super-packet becomes, in pairs, so that the cache is as warm as in the agent.
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

        let seal = speed(|| pairs(&key, &packets, &mut sealed).try_for_each(|pair| all(seal_two(pair))))?;
        let open = speed(|| pairs(&key, &sealed, &mut opened).try_for_each(|pair| all(open_two(pair))))?;

        Ok(Self { seal, open })
    }
}

/// Takes the batch `from` and the room `to` apart, two messages at a time.
fn pairs<'a>(key: &'a Key, from: &'a [u8], to: &'a mut [u8]) -> impl Iterator<Item = [Work<'a>; 2]> {
    let (from_len, to_len) = (from.len() / BATCH, to.len() / BATCH);

    from.chunks_exact(2 * from_len).zip(to.chunks_exact_mut(2 * to_len)).map(move |(from, to)| {
        let (from, to) = (from.split_at(from_len), to.split_at_mut(to_len));
        [(from.0, to.0), (from.1, to.1)].map(|(from, to)| Work { key, nonce: NONCE, from, to })
    })
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
