//! How errors of the inside are told at the borders, the local API and Docker's plugin: each enum
//! has its text and its stable code, and becomes a refusal here, or the status of a call.
//!
//! Nobody imports this file.

use overlay_proto::Refusal;
use tonic::Status;

use crate::docker::detachable::HeldByContainer;
use crate::docker::driver::{CreateEndpointError, CreateNetworkError, HandOutError};
use crate::docker::ipam_error::{LeaseError, PoolError};
use crate::docker::options::OptionError;
use crate::endpoint::attach::AttachError;
use crate::endpoint::detach::DetachError;
use crate::endpoint::request::{InvalidAttach, UnknownNetwork};
use crate::endpoint::sandbox::SandboxError;
use crate::membership::control_error::ControlError;
use crate::node_handle::NotJoined;
use crate::request_error::{NodeJoinError, NodeLeaveError, UpgradeError};
use crate::state::StoreFailure;

macro_rules! told_as {
    ($told:ty: $($error:ty),* $(,)?) => {
        $(
            impl From<$error> for $told {
                fn from(error: $error) -> Self {
                    Refusal::new(error.code(), error).into()
                }
            }
        )*
    };
}

told_as! {
    Refusal:
    ControlError,
    CreateEndpointError,
    CreateNetworkError,
    DetachError,
    HandOutError,
    HeldByContainer,
    LeaseError,
    NotJoined,
    OptionError,
    PoolError,
    SandboxError,
    StoreFailure,
    UnknownNetwork,
}

told_as! {
    Status:
    AttachError,
    ControlError,
    InvalidAttach,
    NodeJoinError,
    NodeLeaveError,
    NotJoined,
    UpgradeError,
}
