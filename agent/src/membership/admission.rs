//! Whether this host may carry packets as its node. Of two hosts with one identity only one may:
//! each would attract the other's packets.

use tokio::sync::watch;

/// Whether this host may carry packets as its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Control has not answered since this process started; until it does, nothing is carried.
    Unproven,
    /// Control knows of no other host, or cannot be reached.
    Admitted,
    /// Another host was first; nothing is carried until it is gone.
    TurnedAway,
}

impl Admission {
    /// Tells whether packets are carried.
    pub(crate) fn carries(self) -> bool {
        self == Self::Admitted
    }
}

/// The present admission of this host.
#[derive(Debug)]
pub(crate) struct AdmissionState(watch::Sender<Admission>);

impl AdmissionState {
    /// Begins before control has answered.
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Admission::Unproven))
    }

    /// Returns the present admission.
    pub(crate) fn current(&self) -> Admission {
        *self.0.borrow()
    }

    /// Subscribes to changes.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Admission> {
        self.0.subscribe()
    }

    /// Records control's decision about this host; tells whether it changed.
    pub(crate) fn set(&self, admission: Admission) -> bool {
        self.0.send_if_modified(|known| std::mem::replace(known, admission) != admission)
    }

    /// Admits this host unless control has turned it away.
    pub(crate) fn assume(&self) {
        self.0.send_if_modified(|known| {
            let presumed = *known == Admission::Unproven;
            if presumed {
                *known = Admission::Admitted;
            }
            presumed
        });
    }
}
