//! What the guard of a network refused, as the kernel has it at this moment.

use overlay_core::Network;
use overlay_proto::{Code, Refusal, v1};
use tokio::task::spawn_blocking;

use crate::endpoint::lifecycle::Endpoints;
use crate::kernel::Pins;
use crate::kernel::nft::{FilterCount, GuardCounts, GuardReason, GuardTable, NftError};
use crate::problem::explain;

/// Reads what was refused in a network; nothing where it has no guard.
pub(super) async fn read(
    endpoints: &Endpoints,
    network: &Network,
) -> Result<Vec<v1::GuardCount>, Refusal> {
    let refused = |error: &(dyn std::error::Error + 'static)| {
        Refusal::new(Code::Kernel, format!("network {}: {}", network.name, explain(error)))
    };
    let opened = Pins::new(&endpoints.run_dir).open(network.id).map_err(|error| refused(&error))?;
    let Some(netns) = opened else { return Ok(Vec::new()) };
    // A program is waited for.
    let counted = spawn_blocking(move || GuardTable::new(netns).counts()).await;
    match counted.map_err(|error| refused(&error))? {
        Ok(counts) => Ok(counts.map(listed).unwrap_or_default()),
        // A host that cannot have a guard has counted nothing.
        Err(NftError::NoProgram | NftError::Kernel(_)) => Ok(Vec::new()),
        Err(error) => Err(refused(&error)),
    }
}

fn listed(counts: GuardCounts) -> Vec<v1::GuardCount> {
    let count = |(reason, count): (GuardReason, FilterCount)| {
        let FilterCount { packets, bytes } = count;
        v1::GuardCount { reason: reason.as_str().to_owned(), packets, bytes }
    };

    counts.into_iter().map(count).collect()
}
