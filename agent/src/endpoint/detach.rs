//! `overlayctl detach`: finds what is meant, and takes it away unless something else would bring it
//! back.

use overlay_core::{Endpoint, EndpointId, View};
use overlay_proto::convert::{self, ConversionError};
use overlay_proto::{Code, v1};

use super::lifecycle::Endpoints;
use super::request::{UnknownNetwork, require_network};
use crate::state::{EndpointRecord, StoreFailure};

/// Why nothing was detached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DetachError {
    /// This node does not have what is meant.
    #[error("this node has no such endpoint; `overlayctl endpoint ls` lists all")]
    UnknownEndpoint,
    /// The network is not known here.
    #[error(transparent)]
    UnknownNetwork(#[from] UnknownNetwork),
    /// A field of the request is malformed.
    #[error(transparent)]
    Field(#[from] ConversionError),
    /// The journal cannot be written.
    #[error(transparent)]
    Journal(#[from] StoreFailure),
}

impl DetachError {
    /// Returns the stable code.
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::UnknownEndpoint => Code::NotFound,
            Self::UnknownNetwork(error) => error.code(),
            Self::Field(error) => error.code(),
            Self::Journal(failure) => failure.code(),
        }
    }
}

/// Detaches what a request names; returns how many there were. `try_detachable` refuses an endpoint
/// that its engine would bring back.
pub(crate) async fn detach<E: From<DetachError>>(
    endpoints: &Endpoints,
    request: &v1::DetachRequest,
    try_detachable: impl Fn(&View, &EndpointRecord) -> Result<(), E>,
) -> Result<usize, E> {
    let ids = chosen(endpoints, request)?;
    let view = endpoints.view();
    let entries = endpoints.journal.entries();
    for record in ids.iter().filter_map(|id| entries.get(id)) {
        try_detachable(&view, record)?;
    }
    let removed = endpoints.remove(ids, "it was detached").await.map_err(DetachError::Journal)?;
    if removed.is_empty() {
        return Err(DetachError::UnknownEndpoint.into());
    }

    Ok(removed.len())
}

fn chosen(
    endpoints: &Endpoints,
    request: &v1::DetachRequest,
) -> Result<Vec<EndpointId>, DetachError> {
    if !request.endpoint.is_empty() {
        return Ok(vec![convert::field("endpoint", &request.endpoint)?]);
    }
    let name: overlay_core::Name = convert::field("name", &request.name)?;
    let network = if request.network.is_empty() {
        None
    } else {
        let view = endpoints.view();
        Some(require_network(&view, &request.network)?.id)
    };
    let entries = endpoints.journal.entries();
    let endpoints = entries.values().map(|record| &record.endpoint);
    let fits = |e: &&Endpoint| e.name == name && network.is_none_or(|network| network == e.network);

    Ok(endpoints.filter(fits).map(|endpoint| endpoint.id).collect())
}
