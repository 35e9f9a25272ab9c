//! Removes namespaces of ours from this host.

use std::path::Path;
use std::time::Duration;

use overlay_core::NetworkId;
use overlay_proto::Code;
use tokio::time::sleep;

use crate::kernel::{KernelError, NetworkNamespace, Pins};
use crate::problem::{Problems, explain};
use crate::problem_key::ProblemKey;

/// How often a namespace that is in use is tried again: whichever of our processes holds it lets go
/// within milliseconds.
const PATIENCE: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

/// Removes one network's namespace; raises a problem if it cannot be removed.
pub(crate) async fn network(run_dir: &Path, network: NetworkId, problems: &Problems) {
    let key = ProblemKey::Leftover(network);
    for _ in 0..PATIENCE {
        match NetworkNamespace::delete_leftover(run_dir, network).await {
            Ok(()) => return problems.clear(&key),
            Err(KernelError::InUse { .. }) => sleep(PAUSE).await,
            Err(error) => {
                let text = format!(
                    "the namespace of network {network} is not removed: {}",
                    explain(&error)
                );
                return problems.raise(key, Code::Kernel, text);
            }
        }
    }
    problems.raise(
        key,
        Code::Kernel,
        format!("the namespace of network {network} is held by another process"),
    );
}

/// Removes every namespace of ours that `wanted` does not name.
pub(crate) async fn all_but(run_dir: &Path, wanted: &[NetworkId], problems: &Problems) {
    match Pins::new(run_dir).list() {
        Ok(pins) => {
            for pin in pins.into_iter().filter(|pin| !wanted.contains(pin)) {
                network(run_dir, pin, problems).await;
            }
        }
        Err(error) => {
            let text =
                format!("namespaces that were left behind are not removed: {}", explain(&error));
            problems.raise(ProblemKey::Leftovers, Code::Kernel, text);
        }
    }
}

/// Removes the folders of pins and locks, unless somebody else still has something there.
pub(crate) fn folders(run_dir: &Path) {
    for folder in ["netns", "lock"] {
        // Not empty or not there: either way there is nothing of ours to remove.
        let _ = std::fs::remove_dir(run_dir.join(folder));
    }
}
