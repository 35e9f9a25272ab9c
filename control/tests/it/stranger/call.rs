//! The calls of control, each by its name in the services.

use std::collections::BTreeSet;

/// What clients of control send to it.
const SERVICES: &str = include_str!("../../../../proto/proto/overlay/v1/control.proto");

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Call {
    Join,
    Watch,
    Report,
    Renew,
    Confirm,
    TellRevocations,
    Announce,
    Leave,
    CreateNetwork,
    SetNetwork,
    LinkNetworks,
    UnlinkNetworks,
    RemoveNetwork,
    EnterNetwork,
    ExitNetwork,
    PutEndpoints,
    RemoveEndpoints,
    CreateToken,
    ListTokens,
    RevokeToken,
    ListNodes,
    RemoveNode,
    ListNetworks,
    ListEndpoints,
    ApplyPolicy,
    RollbackPolicy,
    ShowPolicy,
    ListPolicies,
    ListAudit,
    Version,
}

impl Call {
    /// All of them; the test below fails where one is missing.
    pub(super) const ALL: [Self; 30] = [
        Self::Join,
        Self::Watch,
        Self::Report,
        Self::Renew,
        Self::Confirm,
        Self::TellRevocations,
        Self::Announce,
        Self::Leave,
        Self::CreateNetwork,
        Self::SetNetwork,
        Self::LinkNetworks,
        Self::UnlinkNetworks,
        Self::RemoveNetwork,
        Self::EnterNetwork,
        Self::ExitNetwork,
        Self::PutEndpoints,
        Self::RemoveEndpoints,
        Self::CreateToken,
        Self::ListTokens,
        Self::RevokeToken,
        Self::ListNodes,
        Self::RemoveNode,
        Self::ListNetworks,
        Self::ListEndpoints,
        Self::ApplyPolicy,
        Self::RollbackPolicy,
        Self::ShowPolicy,
        Self::ListPolicies,
        Self::ListAudit,
        Self::Version,
    ];

    /// Returns whether a connection or a stream begins with it, or its answer is delayed, so that
    /// it is asked more rarely.
    pub(super) fn is_slow(self) -> bool {
        matches!(self, Self::Join | Self::Watch | Self::Leave)
    }
}

#[test]
fn a_stranger_asks_every_call_that_the_services_have() {
    let calls = SERVICES.lines().filter_map(|line| line.trim_start().strip_prefix("rpc "));
    let there: BTreeSet<_> = calls.filter_map(|call| call.split('(').next()).collect();
    let names = Call::ALL.map(|call| format!("{call:?}"));

    assert_eq!(there, names.iter().map(String::as_str).collect());
}
