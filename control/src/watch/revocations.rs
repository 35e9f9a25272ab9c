//! What watchers are told of removed nodes: revocations signed by the authority, before the change
//! that takes the node out of their view, so that they can pass it on to the node itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use overlay_core::{ClusterId, NodeId, Revocation};
use overlay_proto::revocation::MAX_REVOCATIONS;
use overlay_proto::{SignedRevocation, v1};

use super::hub::Hub;
use crate::pki::Authority;

/// Signs revocations, each once while control runs.
pub(crate) struct RevocationSigner {
    authority: Arc<Authority>,
    cluster: ClusterId,
    /// At most [`MAX_REVOCATIONS`], 400 KiB.
    signed: Mutex<BTreeMap<NodeId, SignedRevocation>>,
}

impl RevocationSigner {
    /// Signs by this authority.
    pub(crate) fn new(authority: Arc<Authority>, cluster: ClusterId) -> Self {
        Self { authority, cluster, signed: Mutex::default() }
    }

    /// Verifies what a node passes on.
    ///
    /// # Errors
    ///
    /// Why it is no revocation of this cluster.
    pub(crate) fn verify(
        &self,
        bytes: &[u8],
    ) -> Result<Revocation, overlay_proto::revocation::InvalidRevocation> {
        let authority = self.authority.certificate();

        SignedRevocation::verified(bytes, self.cluster, authority)
            .map(|signed| signed.revocation().clone())
    }

    fn sign(&self, revocation: Revocation) -> Option<Vec<u8>> {
        let mut signed = self.signed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) =
            signed.get(&revocation.node).filter(|it| *it.revocation() == revocation)
        {
            return Some(known.bytes().to_vec());
        }
        let node = revocation.node;
        match self.authority.sign_revocation(self.cluster, revocation) {
            Ok(made) => {
                if signed.len() >= MAX_REVOCATIONS {
                    signed.pop_first();
                }
                let bytes = made.bytes().to_vec();
                signed.insert(node, made);
                Some(bytes)
            }
            Err(error) => {
                tracing::error!(%node, %error, "Cannot sign a revocation");
                None
            }
        }
    }
}

/// What one watcher was told.
pub(crate) struct ToldRevocations {
    signer: Arc<RevocationSigner>,
    told: BTreeSet<NodeId>,
    /// The state of the hub that was looked at.
    seen: Option<u64>,
}

impl ToldRevocations {
    /// Begins with what the watcher says that it knows.
    pub(crate) fn new(signer: Arc<RevocationSigner>, known: &[u64]) -> Self {
        let known = known.iter().take(MAX_REVOCATIONS);
        let told = known.filter_map(|id| NodeId::try_from(*id).ok()).collect();

        Self { signer, told, seen: None }
    }

    /// Returns what the watcher does not know yet, and at first what only the watcher knows.
    pub(crate) fn next(&mut self, hub: &Hub) -> Option<v1::Revocations> {
        let evictions = hub.evictions();
        let is_first = match self.seen.replace(evictions) {
            Some(seen) if seen == evictions => return None,
            seen => seen.is_none(),
        };
        let (news, unknown) = hub.look(|state| {
            let latest = state.evicted().take(MAX_REVOCATIONS);
            let news: Vec<_> = latest
                .filter(|gone| !self.told.contains(&gone.node))
                .filter_map(|gone| gone.revocation())
                .collect();
            let is_unknown =
                |id: &&NodeId| state.revoked().get(*id).is_none_or(|gone| !gone.evicted);
            let unknown = self.told.iter().filter(|_| is_first).filter(is_unknown);
            let unknown: Vec<_> = unknown.map(|id| id.as_u64()).collect();

            (news, unknown)
        });
        self.told.extend(news.iter().map(|revocation| revocation.node));
        let signed: Vec<_> = news.into_iter().filter_map(|it| self.signer.sign(it)).collect();
        let is_empty = signed.is_empty() && unknown.is_empty();

        (!is_empty).then_some(v1::Revocations { signed, wanted: unknown })
    }
}
