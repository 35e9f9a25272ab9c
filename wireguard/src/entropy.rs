//! Random bytes from a seed, by a generator that cannot reproduce what it returned.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use zeroize::Zeroizing;

/// A generator whose state reveals nothing about earlier output: after each draw it starts from a
/// new seed.
pub(crate) struct Entropy(StdRng);

impl Entropy {
    /// Starts from a seed that is used for nothing else.
    pub(crate) fn new(seed: &[u8; 32]) -> Self {
        Self(StdRng::from_seed(*seed))
    }

    /// Makes another generator whose output is independent of this one's.
    pub(crate) fn fork(&mut self) -> Self {
        Self::new(&self.draw())
    }

    /// Draws `N` bytes.
    pub(crate) fn draw<const N: usize>(&mut self) -> Zeroizing<[u8; N]> {
        let mut bytes = Zeroizing::new([0; N]);
        self.0.fill_bytes(&mut bytes[..]);
        let mut seed = Zeroizing::new([0; 32]);
        self.0.fill_bytes(&mut seed[..]);
        *self = Self::new(&seed);

        bytes
    }

    /// Draws a number below `end`, which must not be 0. Not for secrets: the lowest numbers are
    /// slightly more likely.
    pub(crate) fn below(&mut self, end: u32) -> u32 {
        u32::from_le_bytes(*self.draw()) % end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_after_a_draw_is_none_that_gave_it() {
        let mut entropy = Entropy::new(&[1; 32]);
        let given = *entropy.draw::<32>();

        let mut before = StdRng::from_seed([1; 32]);
        for _ in 0..64 {
            assert_ne!(entropy.0, before);
            before.next_u32();
        }
        assert_ne!(*entropy.draw::<32>(), given);
    }

    #[test]
    fn a_fork_gives_other_bytes() {
        let mut entropy = Entropy::new(&[1; 32]);
        let mut fork = entropy.fork();

        assert_ne!(*fork.draw::<32>(), *entropy.draw::<32>());
    }

    #[test]
    fn numbers_stay_below_their_end() {
        let mut entropy = Entropy::new(&[1; 32]);
        let numbers: Vec<_> = (0..1000).map(|_| entropy.below(10)).collect();

        assert!((0..10).all(|number| numbers.contains(&number)));
        assert_eq!(numbers.iter().max(), Some(&9));
    }
}
