//! How fast one core seals and opens packets with WireGuard's cipher and nothing else: no tunnel
//! can be faster.

use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use overlay_aead::{Key, NONCE_LEN, Refused, TAG_LEN, Work, open_two, seal_two};

/// The size of a full inner packet, in bytes.
const PACKET: usize = 1408;
/// The number of packets that one super-packet is cut into, in pairs, so that the cache is as warm
/// as in the agent.
const BATCH: usize = 44;
/// How long each direction is measured.
const TIME: Duration = Duration::from_millis(100);
/// Always the same, because nobody reads what is sealed here.
const NONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

/// The speed of one core, in GB/s.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cipher {
    /// When sealing.
    pub(super) seal: f64,
    /// When opening.
    pub(super) open: f64,
}

impl Cipher {
    /// Measures the cipher as the agent uses it: from one buffer into another, two packets at a
    /// time.
    pub(super) fn measure() -> Result<Self> {
        let key = Key::new(&[7; 32]);
        let packets = vec![0; BATCH * PACKET];
        let mut sealed = vec![0; BATCH * (PACKET + TAG_LEN)];
        let mut opened = vec![0; BATCH * PACKET];

        let seal =
            speed(|| pairs(&key, &packets, &mut sealed).try_for_each(|pair| all(seal_two(pair))))?;
        let open =
            speed(|| pairs(&key, &sealed, &mut opened).try_for_each(|pair| all(open_two(pair))))?;

        Ok(Self { seal, open })
    }
}

/// Splits the batch `from` and the buffer `to` into pairs of messages.
fn pairs<'a>(
    key: &'a Key,
    from: &'a [u8],
    to: &'a mut [u8],
) -> impl Iterator<Item = [Work<'a>; 2]> {
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

/// Runs batches for [`TIME`] and returns the GB/s of packets.
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
