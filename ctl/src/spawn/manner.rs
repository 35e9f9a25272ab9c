//! Whose child a service becomes.

use std::path::PathBuf;

use super::init_system;
use crate::state::{Service, StateDir};

/// Whose child a service becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Ours, until we end.
    Foreground,
    /// Nobody's.
    Background,
    /// systemd's.
    Systemd,
}

impl Manner {
    /// Chooses what fits the host.
    pub(crate) fn choose(foreground: bool) -> Self {
        if foreground {
            Self::Foreground
        } else if init_system::is_systemd() {
            Self::Systemd
        } else {
            Self::Background
        }
    }
}

/// Says where somebody can read what a service writes.
pub(crate) fn log_place(service: Service, state: &StateDir, manner: Manner) -> PathBuf {
    match manner {
        Manner::Systemd => PathBuf::from(format!("journalctl -u {}", service.program())),
        Manner::Foreground | Manner::Background => state.log(service),
    }
}
