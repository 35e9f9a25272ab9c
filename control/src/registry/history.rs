//! The history that control's revisions belong to, and the marks by which control knows its own
//! past from another one.

use overlay_core::{Lineage, Mark, Revision};
use ring::hmac;
use serde::{Deserialize, Serialize};

use super::record::Digest;

/// Bytes of a mark that are random; the others prove that control made it.
const NONCE: usize = 8;

/// One history of control's state: made with the state, and anew when control is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HistoryKey {
    /// What agents know it by.
    pub(crate) lineage: Lineage,
    /// A random secret, by which marks are made.
    pub(crate) secret: Digest,
}

impl HistoryKey {
    /// Returns the mark of a revision; `nonce` is random and belongs to its commit.
    pub(crate) fn mark(&self, revision: Revision, nonce: u64) -> Mark {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &self.secret.0);
        let mut context = hmac::Context::with_key(&key);
        context.update(self.lineage.as_bytes());
        context.update(&revision.0.to_be_bytes());
        context.update(&nonce.to_be_bytes());
        let proof = context.sign();
        let mut bytes = [0; 32];
        let nonce = nonce.to_be_bytes();
        for (byte, from) in bytes.iter_mut().zip(nonce.iter().chain(proof.as_ref())) {
            *byte = *from;
        }

        bytes.into()
    }

    /// Returns whether control of this history marked a revision so, in whichever past.
    pub(crate) fn has_marked(&self, revision: Revision, mark: &Mark) -> bool {
        let Some(&nonce) = mark.as_bytes().first_chunk::<NONCE>() else { return false };
        let own = self.mark(revision, u64::from_be_bytes(nonce));

        Digest(*own.as_bytes()).matches(&Digest(*mark.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::history;
    use super::*;

    #[test]
    fn only_the_control_of_a_history_marks_its_revisions() {
        let ours = history();
        let others = [
            HistoryKey { lineage: [9; 16].into(), ..ours },
            HistoryKey { secret: Digest::of(b"another"), ..ours },
        ];
        let mark = ours.mark(Revision(7), 42);

        assert!(ours.has_marked(Revision(7), &mark));
        assert_ne!(mark, ours.mark(Revision(7), 43));
        assert!(!ours.has_marked(Revision(8), &mark));
        for other in others {
            assert!(!ours.has_marked(Revision(7), &other.mark(Revision(7), 42)));
        }
        assert!(!ours.has_marked(Revision(7), &[0; 32].into()));
    }
}
