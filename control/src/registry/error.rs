//! Why the registry refuses an operation: one variant a reason, with its text and its code.
//!
//! Each noun has its reasons in a file of its own; here are those that concern no single one.

mod endpoint;
mod enrollment;
mod member;
mod network;
mod policy;
mod token;

use overlay_core::{Name, Role};
use overlay_proto::Code;

pub(super) use endpoint::EndpointError;
pub(super) use enrollment::EnrollmentError;
pub(super) use member::MemberError;
pub(super) use network::NetworkError;
pub(crate) use policy::PolicyError;
pub(super) use token::TokenError;

use super::limits;

/// Why an operation is refused; the message says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RegistryError {
    /// The caller is a node without the role that the operation needs.
    #[error(
        "node {name} has the role {role}, and this needs the role admin; do it on an admin node"
    )]
    NeedsAdmin {
        /// The node's name.
        name: Name,
        /// Its role.
        role: Role,
    },
    /// The caller is a node that may not create, change or remove networks.
    #[error(
        "node {0} has the role worker, which makes, changes and removes no networks; do it on a \
         node that is an admin or has the role node"
    )]
    Worker(Name),
    /// The caller is an operator, and the operation concerns the node that calls.
    #[error("only a node may do this")]
    OnlyNodes,
    /// The caller is a node, and only an operator of control may do this.
    #[error("only an operator of control may do this, on its host")]
    OnlyOperator,
    /// All labels of a row together are too long, in bytes.
    #[error("labels have {0} bytes, more than {most}", most = limits::MAX_ROW_LABELS)]
    LabelsTooLong(usize),
    /// A row is too large as a whole.
    #[error(
        "{what} has {bytes} bytes with its labels, options and all, more than {most}; leave some \
         out"
    )]
    RowTooLarge {
        /// What it is of.
        what: String,
        /// Its length, in bytes.
        bytes: usize,
        /// The longest that is taken, in bytes.
        most: usize,
    },
    /// A node would have all others keep too much.
    #[error(
        "endpoints, networks and memberships of node {node} would have {bytes} bytes in all, more \
         than {most}; remove some, or give them fewer labels and names",
        most = limits::MAX_NODE_BYTES
    )]
    ShareTaken {
        /// The node.
        node: Name,
        /// How many bytes its rows would have.
        bytes: usize,
    },
    /// It concerns a join token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It concerns a node, and how it joined.
    #[error(transparent)]
    Enrollment(#[from] EnrollmentError),
    /// It concerns a network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// It concerns a membership.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// It concerns an endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// It concerns the policy.
    #[error(transparent)]
    Policy(#[from] PolicyError),
}

impl RegistryError {
    /// Returns the stable code that callers are told.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::NeedsAdmin { .. } | Self::Worker(_) | Self::OnlyNodes | Self::OnlyOperator => {
                Code::NotAllowed
            }
            Self::LabelsTooLong(_) | Self::RowTooLarge { .. } => Code::InvalidInput,
            Self::ShareTaken { .. } => Code::Exhausted,
            Self::Token(error) => error.code(),
            Self::Enrollment(error) => error.code(),
            Self::Network(error) => error.code(),
            Self::Member(error) => error.code(),
            Self::Endpoint(error) => error.code(),
            Self::Policy(error) => error.code(),
        }
    }
}

#[cfg(test)]
mod tests {
    use overlay_core::{EndpointId, NodeId};

    use super::*;

    /// The others are provoked by the tests of the registry.
    #[test]
    fn what_takes_a_large_cluster_or_a_broken_one_is_refused_with_its_code() {
        let cases: [(RegistryError, Code, &str); 15] = [
            (RegistryError::OnlyNodes, Code::NotAllowed, "only a node may do this"),
            (
                RegistryError::LabelsTooLong(4_097),
                Code::InvalidInput,
                "labels have 4097 bytes, more than 4096",
            ),
            (
                TokenError::TtlTooLong(31_622_401).into(),
                Code::InvalidInput,
                "a ttl of 31622401 s is more than 31622400 s (366 days)",
            ),
            (
                TokenError::TooManyUses(16_385).into(),
                Code::InvalidInput,
                "16385 uses are more than the 16384 nodes a cluster may have",
            ),
            (
                TokenError::TooMany.into(),
                Code::Exhausted,
                "there are 1000 tokens already; remove some: overlayctl token rm ID",
            ),
            (
                TokenError::IdTaken.into(),
                Code::NameTaken,
                "a token of this id is there already; try again",
            ),
            (
                EnrollmentError::Unknown(NodeId::FIRST).into(),
                Code::NotAuthenticated,
                "node 000000000001 does not belong to this cluster: it was removed long ago, or \
                 control was restored from a backup made before it joined; join again (overlayctl \
                 leave --force, then join with a new token)",
            ),
            (
                EnrollmentError::TooMany.into(),
                Code::Exhausted,
                "the cluster has 16384 nodes already",
            ),
            (
                EnrollmentError::NoKey(NodeId::FIRST).into(),
                Code::Fault,
                "node 000000000001 has no key on record",
            ),
            (NetworkError::TooMany.into(), Code::Exhausted, "there are 4096 networks already"),
            (
                MemberError::TooManyBlocks(257).into(),
                Code::InvalidInput,
                "257 blocks are more than the 256 that one node may hold",
            ),
            (
                EndpointError::TooManyInCall(1_001).into(),
                Code::InvalidInput,
                "1001 endpoints in one call are more than 1000",
            ),
            (
                EndpointError::ListedTwice(EndpointId::FIRST).into(),
                Code::InvalidInput,
                "endpoint 000000000001 is listed twice",
            ),
            (
                EndpointError::NodeFull { own: 16_384, new: 1 }.into(),
                Code::Exhausted,
                "this node has 16384 endpoints; 1 more would exceed the limit of 16384",
            ),
            (
                EndpointError::ClusterFull.into(),
                Code::Exhausted,
                "the cluster is limited to 262144 endpoints",
            ),
        ];

        for (error, code, text) in cases {
            assert_eq!((error.code(), error.to_string().as_str()), (code, text));
        }
    }
}
