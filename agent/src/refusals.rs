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
use crate::endpoint::reservation::{AddressError, NoFreeAddress, ReservationError};
use crate::endpoint::sandbox::SandboxError;
use crate::endpoint::start_wait::StartFailure;
use crate::membership::control_error::{ConnectError, ControlError};
use crate::membership::join::JoiningError;
use crate::membership::network_membership::MembershipError;
use crate::node_handle::NotJoined;
use crate::request_error::{NodeJoinError, NodeLeaveError, UpgradeError};
use crate::state::StoreFailure;
use crate::state::keyring::KeyringError;

macro_rules! refusals {
    ($($error:ty),* $(,)?) => {
        $(
            impl From<$error> for Refusal {
                fn from(error: $error) -> Self {
                    Self::new(error.code(), error)
                }
            }

            impl From<$error> for Status {
                fn from(error: $error) -> Self {
                    Refusal::from(error).into()
                }
            }
        )*
    };
}

refusals! {
    AddressError,
    AttachError,
    ConnectError,
    ControlError,
    CreateEndpointError,
    CreateNetworkError,
    DetachError,
    HandOutError,
    HeldByContainer,
    InvalidAttach,
    JoiningError,
    KeyringError,
    LeaseError,
    MembershipError,
    NoFreeAddress,
    NodeJoinError,
    NodeLeaveError,
    NotJoined,
    OptionError,
    PoolError,
    ReservationError,
    SandboxError,
    StartFailure,
    StoreFailure,
    UnknownNetwork,
    UpgradeError,
}
