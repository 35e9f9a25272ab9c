//! A checksum over a stream that detects lost, repeated and swapped bytes and keeps up with the
//! network.

/// Odd, so that multiplying by it is reversible.
const FACTOR: u64 = 0x9E37_79B9_7F4A_7C15;

/// The checksum so far. Equal streams have equal checksums, however they are divided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checksum {
    sum: u64,
    length: u64,
    pending: [u8; 8],
}

impl Checksum {
    /// Adds the next bytes of the stream.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        let filled = self.filled();
        if filled > 0 {
            let take = bytes.len().min(8 - filled);
            let (head, rest) = bytes.split_at(take);
            self.pending[filled..filled + take].copy_from_slice(head);
            self.length += take as u64;
            bytes = rest;
            if self.filled() > 0 {
                return;
            }
            self.add(self.pending);
        }

        let (words, tail) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| self.add(*word));
        self.pending[..tail.len()].copy_from_slice(tail);
        self.length += bytes.len() as u64;
    }

    /// Returns the checksum of all bytes added.
    pub(crate) fn finish(mut self) -> u64 {
        let filled = self.filled();
        self.pending[filled..].fill(0);
        self.add(self.pending);

        self.sum ^ self.length
    }

    fn filled(&self) -> usize {
        (self.length % 8) as usize
    }

    fn add(&mut self, word: [u8; 8]) {
        self.sum = (self.sum ^ u64::from_le_bytes(word)).wrapping_mul(FACTOR).rotate_left(29);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
        let mut sum = Checksum::default();
        pieces.into_iter().for_each(|piece| sum.update(piece));
        sum.finish()
    }

    #[test]
    fn the_cut_does_not_matter() {
        let bytes: Vec<u8> = (0..=255).collect();
        let whole = checksum([&bytes[..]]);

        for size in 1..40 {
            assert_eq!(checksum(bytes.chunks(size)), whole, "pieces of {size}");
        }
    }

    #[test]
    fn every_kind_of_damage_shows() {
        let good = b"0123456789abcdef0123".as_slice();

        for bad in [
            b"0123456789abcdef012".as_slice(),
            b"0123456789abcdef01230".as_slice(),
            b"89abcdef012345670123".as_slice(),
            b"0123456789abcdef0133".as_slice(),
            b"0123456789abcdef0123\0".as_slice(),
        ] {
            assert_ne!(checksum([bad]), checksum([good]));
        }
    }
}
