//! What rows that do not fit together contradict.

use overlay_core::policy::FilterMode;

use super::ClusterState;

impl ClusterState {
    /// Finds an inconsistency; a healthy store has none.
    pub(crate) fn contradiction(&self) -> Option<Contradiction> {
        let rebuilt = Self::from_records(self.settings.clone(), self.view.revision, self.records());
        let orphan = |network, node| {
            !self.view.networks.contains_key(&network) || !self.view.nodes.contains_key(&node)
        };
        let stray = self.view.members.values().find(|m| orphan(m.network, m.node));
        let barred = self.view.members.values().find(|m| !self.may_enter(m.node, m.network));
        let lost =
            self.view.endpoints.values().find(|e| self.view.member(e.network, e.node).is_none());
        let blocks: usize = self.view.members.values().map(|m| m.blocks.len()).sum();
        let claimed: usize = self.view.endpoints.values().map(|e| e.addresses.len()).sum();
        let checks = [
            (rebuilt.index != self.index, Contradiction::Index),
            (
                self.index.network_names.len() != self.view.networks.len(),
                Contradiction::NetworkNames,
            ),
            (self.index.node_names.len() != self.view.nodes.len(), Contradiction::NodeNames),
            (stray.is_some(), Contradiction::StrayMember),
            (barred.is_some(), Contradiction::BarredMember),
            (lost.is_some(), Contradiction::StrayEndpoint),
            (self.index.blocks.len() != blocks, Contradiction::Blocks),
            (self.index.addresses.len() != claimed, Contradiction::Addresses),
            (self.view.nodes.keys().ne(self.enrollments.keys()), Contradiction::Enrollments),
            (self.index.keys.len() != self.enrollments.len(), Contradiction::Keys),
            (self.view.policy.is_some() != self.index.policy.is_some(), Contradiction::Policy),
            (self.live_policy() != self.last_policy(), Contradiction::PolicyHistory),
        ];

        checks.into_iter().find_map(|(wrong, contradiction)| wrong.then_some(contradiction))
    }

    fn live_policy(&self) -> Option<(u64, FilterMode)> {
        self.view.policy.as_ref().map(|live| (live.revision, live.mode))
    }

    fn last_policy(&self) -> Option<(u64, FilterMode)> {
        let last = self.policies.values().next_back()?;

        last.mode.map(|mode| (last.revision, mode))
    }
}

/// What rows that do not fit together contradict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Contradiction {
    /// An index is not the function of the rows that it should be.
    #[error("an index differs from its rows")]
    Index,
    /// A name of a network is not unique.
    #[error("two networks share a name")]
    NetworkNames,
    /// A name of a node is not unique.
    #[error("two nodes share a name")]
    NodeNames,
    /// The node or the network of a membership is missing.
    #[error("a membership is of no node or network")]
    StrayMember,
    /// A node is in a network that is not for it.
    #[error("a node is a member of a network that it may not enter")]
    BarredMember,
    /// The membership that an endpoint needs is missing.
    #[error("an endpoint is on a node that is no member of its network")]
    StrayEndpoint,
    /// A block is held twice.
    #[error("two nodes hold one block")]
    Blocks,
    /// An address is held twice.
    #[error("two endpoints have one address")]
    Addresses,
    /// Nodes and enrolments do not match.
    #[error("a node has no key, or a key no node")]
    Enrollments,
    /// A key is not unique.
    #[error("two nodes have one key")]
    Keys,
    /// The policy does not parse.
    #[error("this version does not understand the policy")]
    Policy,
    /// The policy is not the one that was applied last.
    #[error("the policy is not the one that was applied last")]
    PolicyHistory,
}
