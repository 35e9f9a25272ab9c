//! What nodes tell of removed nodes: a control that was restored from a backup learns of those that
//! were removed after it.

use overlay_core::NodeId;
use overlay_proto::Refusal;
use overlay_proto::revocation::MAX_REVOCATIONS;

use super::ControlService;
use crate::registry::Operation;

impl ControlService {
    /// Takes over the revocations that are not known here and that the authority of this cluster
    /// signed; returns how many. Saying the same twice changes nothing.
    ///
    /// # Errors
    ///
    /// When one cannot be stored; those before are.
    pub(super) async fn merge_revocations(
        &self,
        teller: NodeId,
        signed: &[Vec<u8>],
    ) -> Result<u32, Refusal> {
        let mut added = 0;
        for bytes in signed.iter().take(MAX_REVOCATIONS) {
            let revocation = match self.revocations.verify(bytes) {
                Ok(revocation) => revocation,
                Err(error) => {
                    tracing::warn!(%teller, %error, "A node told of a revocation that is none");
                    continue;
                }
            };
            let node = revocation.node;
            let is_known = |state: &crate::registry::ClusterState| {
                state.revoked().get(&node).is_some_and(|gone| gone.evicted)
            };
            if self.hub.look(is_known) {
                continue;
            }
            tracing::warn!(%teller, %revocation, "Learned of a removed node from another");
            self.ask(teller, Operation::Revoke(revocation)).await?;
            added += 1;
        }

        Ok(added)
    }
}
