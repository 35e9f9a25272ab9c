//! Whether the connection to control is dead for a reason that is known before the kernel gives it
//! up.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use overlay_core::NodeId;
use overlay_proto::{Code, channel, v1};
use tokio::time::{sleep, timeout};

use super::connection::ControlCalls;
use super::control_error::ControlError;
use super::control_link::ControlLink;
use crate::host_state::HostState;

/// How long the address in use may take to show that it is still there, when there is reason to
/// doubt.
const DOUBT: Duration = Duration::from_secs(1);
/// The least time between two probes of a connection: a host may change all the time.
const PROBE_PACE: Duration = Duration::from_secs(1);

/// Why a connection is dead.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ConnectionLoss {
    /// The host's end of it is gone; control is not at fault.
    #[error("this host does not have {0} any more")]
    Renumbered(IpAddr),
    /// The host's addresses or routes have changed, and control does not answer by it.
    #[error("control at {0} does not answer since this host's network changed")]
    NoWay(String),
    /// Control's host has another address, and does not answer where it was.
    #[error("control has moved from {0}")]
    Moved(String),
}

/// Waits until a connection from `local` to `address` is dead; `probe` uses it.
pub(super) async fn wait(
    control: &ControlLink,
    host: &HostState,
    address: &str,
    local: IpAddr,
    probe: ControlCalls,
) -> ConnectionLoss {
    tokio::select! {
        () = lose_address(host, local) => ConnectionLoss::Renumbered(local),
        () = lose_way(host, probe) => ConnectionLoss::NoWay(address.to_owned()),
        () = see_move(control, address) => ConnectionLoss::Moved(address.to_owned()),
    }
}

/// Waits until this host does not have its end of the connection any more.
async fn lose_address(host: &HostState, local: IpAddr) {
    let mut own = host.own();
    // What changed while the connection was made was heard of by nobody.
    own.mark_changed();
    loop {
        // The sender belongs to the joined node.
        let _ = own.changed().await;
        let own = own.borrow_and_update();
        if !own.is_empty() && !own.contains(&local) && !local.is_loopback() {
            return;
        }
    }
}

/// Waits until this host's network has changed and control does not answer by the connection.
async fn lose_way(host: &HostState, probe: ControlCalls) {
    let mut ways = host.ways();
    loop {
        // The sender belongs to the joined node.
        let _ = ways.changed().await;
        if !is_answered(probe.clone()).await {
            return;
        }
        sleep(PROBE_PACE).await;
    }
}

/// Waits until control's host was heard at another address and does not answer where it was.
async fn see_move(control: &ControlLink, address: &str) {
    let mut tunnels = control.process.tunnels.clone();
    let of_control = |tunnels: &BTreeMap<NodeId, IpAddr>| -> Vec<IpAddr> {
        let nodes = control.addresses.known().nodes;
        nodes.iter().filter_map(|node| tunnels.get(node)).copied().collect()
    };
    let mut seen = of_control(&tunnels.borrow_and_update());
    loop {
        // The sender belongs to the process.
        let _ = tunnels.changed().await;
        let now = of_control(&tunnels.borrow_and_update());
        if std::mem::replace(&mut seen, now.clone()) != now
            && !channel::is_reachable(address, DOUBT).await
        {
            return;
        }
    }
}

/// Tells whether control answers by a connection soon; whatever it answers.
async fn is_answered(mut client: ControlCalls) -> bool {
    match timeout(DOUBT, client.version(v1::VersionRequest {})).await {
        Ok(Ok(_)) => true,
        Ok(Err(status)) => ControlError::new(status).code() != Code::ControlAway,
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_ends_with_the_address_it_was_made_from() {
        let (host, local) = (HostState::new(), IpAddr::from([192, 0, 2, 12]));
        let unaware = timeout(Duration::ZERO, lose_address(&host, local)).await;
        assert!(unaware.is_err(), "no address was read yet");
        host.note_own([local].into());
        let present = timeout(Duration::ZERO, lose_address(&host, local)).await;
        assert!(present.is_err());

        host.note_own([IpAddr::from([192, 0, 2, 112])].into());

        timeout(DOUBT, lose_address(&host, local)).await.expect("it is lost");
    }

    #[tokio::test]
    async fn a_connection_to_loopback_has_no_address_to_lose() {
        let host = HostState::new();
        host.note_own([IpAddr::from([192, 0, 2, 12])].into());

        let lost = timeout(Duration::ZERO, lose_address(&host, IpAddr::from([127, 0, 0, 1]))).await;

        assert!(lost.is_err());
    }
}
