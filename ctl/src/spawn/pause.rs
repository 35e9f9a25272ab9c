//! Ends a service that stays set up: `start`, or the next boot, brings it back.

use std::process::Stdio;

use overlay_proto::{Code, Refusal};
use tokio::process::Command;

use super::running::{GRACE, running};
use super::stop::has_ended;
use super::{init_system, systemd};
use crate::failure::{Outcome, storage};
use crate::state::{Service, StateDir};

/// Tells whether the service is a unit of this host's systemd.
pub(crate) fn is_unit(service: Service, state: &StateDir) -> bool {
    init_system::is_systemd() && systemd::is_installed(service, state)
}

/// Ends the service's process, however it was started, and with the agent the door; tells whether
/// there was one.
pub(crate) async fn pause(service: Service, state: &StateDir) -> Outcome<bool> {
    let mut found = running(service, state).is_some();
    if is_unit(service, state) {
        stop_unit(service).await?;
    }
    if let Some(process) = running(service, state) {
        let resists =
            |error| storage(format!("{} (pid {})", service.program(), process.pid()), &error);
        process.stop(GRACE).await.map_err(resists)?;
        found = true;
    }
    has_ended(service, state).await?;

    Ok(found)
}

async fn stop_unit(service: Service) -> Outcome {
    let unit = format!("{}.service", service.program());
    let output =
        Command::new("systemctl").args(["stop", &unit]).stdin(Stdio::null()).output().await;
    let output = output.map_err(|error| storage("systemctl", &error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);

    Err(Refusal::new(Code::Fault, format!("systemctl stop {unit}: {}", said.trim())).into())
}
