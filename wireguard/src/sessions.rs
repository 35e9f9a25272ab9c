//! The sessions of a tunnel (§6.3): the current one sends; previous ones still receive messages
//! that are on their way; a next one that the peer initiated waits for the peer's first message.
//!
//! There is room for three besides the current one. Two would be enough if handshakes never
//! crossed; if they do, each side has one that it initiated, one that the other did, and the one
//! before.

use std::time::Instant;

use crate::index::Index;
use crate::refusal::DataRefusal;
use crate::session::{Opened, Session};
use crate::state::{InvalidState, SessionState};

const OTHERS: usize = 3;

/// Up to four sessions.
#[derive(Default)]
pub(crate) struct Sessions {
    current: Option<Box<Session>>,
    others: [Option<Box<Session>>; OTHERS],
}

impl Sessions {
    /// Returns the state of the session that sends, and of the others.
    pub(crate) fn state(&self) -> (Option<SessionState>, Vec<SessionState>) {
        let others = self.others.iter().flatten().map(|session| session.state());

        (self.current().map(Session::state), others.collect())
    }

    /// Makes the sessions from the state of another process.
    pub(crate) fn resume(
        current: Option<&SessionState>,
        others: &[SessionState],
    ) -> Result<Self, InvalidState> {
        let mut sessions =
            Self { current: current.map(Session::resume).transpose()?, ..Self::default() };
        if others.len() > sessions.others.len() {
            return Err(InvalidState("too many sessions"));
        }
        for (slot, state) in sessions.others.iter_mut().zip(others) {
            *slot = Some(Session::resume(state)?);
        }

        Ok(sessions)
    }

    /// Returns the indices of all sessions.
    pub(crate) fn indices(&self) -> impl Iterator<Item = Index> {
        self.iter().map(|session| session.index)
    }

    /// Returns the session that sends.
    #[inline]
    pub(crate) fn current(&self) -> Option<&Session> {
        self.current.as_deref()
    }

    /// Returns the session that sends.
    #[inline]
    pub(crate) fn current_mut(&mut self) -> Option<&mut Session> {
        self.current.as_deref_mut()
    }

    /// Finds a session by our index.
    #[inline]
    pub(crate) fn find(&self, index: Index) -> Option<&Session> {
        self.iter().find(|session| session.index == index)
    }

    /// Returns whether no session is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Returns when the first session ends.
    pub(crate) fn end(&self) -> Option<Instant> {
        self.iter().map(Session::end).min()
    }

    /// Adds a session that the peer is known to have: it sends from now on.
    pub(crate) fn add_current(&mut self, session: Box<Session>) {
        if let Some(previous) = self.current.replace(session) {
            self.add_other(previous);
        }
    }

    /// Adds a session that the peer may not have yet.
    pub(crate) fn add_next(&mut self, session: Box<Session>) {
        self.add_other(session);
    }

    /// Accepts an opened message. The first one of a next session makes it the current one.
    #[inline]
    pub(crate) fn accept(
        &mut self,
        opened: &Opened,
        now: Instant,
    ) -> Result<Option<usize>, DataRefusal> {
        if let Some(current) = self.current.as_deref_mut().filter(|one| one.has_opened(opened)) {
            return if now < current.end() {
                current.accept(opened)
            } else {
                Err(DataRefusal::NoSession)
            };
        }

        self.accept_other(opened, now)
    }

    fn accept_other(
        &mut self,
        opened: &Opened,
        now: Instant,
    ) -> Result<Option<usize>, DataRefusal> {
        let slot = self
            .others
            .iter_mut()
            .find(|slot| slot.as_ref().is_some_and(|session| session.has_opened(opened)))
            .ok_or(DataRefusal::NoSession)?;
        let session = slot.as_deref_mut().filter(|session| now < session.end());
        let session = session.ok_or(DataRefusal::NoSession)?;
        let was_confirmed = session.is_confirmed;
        let len = session.accept(opened)?;
        let is_newest = self.current.as_ref().is_none_or(|current| current.since <= session.since);
        if !was_confirmed && is_newest {
            std::mem::swap(&mut self.current, slot);
        }

        Ok(len)
    }

    /// Drops all sessions that have ended, and returns the current one if it is among them.
    pub(crate) fn take_ended(&mut self, now: Instant) -> Option<Box<Session>> {
        for slot in &mut self.others {
            slot.take_if(|session| session.end() <= now);
        }

        self.current.take_if(|session| session.end() <= now)
    }

    fn iter(&self) -> impl Iterator<Item = &Session> {
        self.current.iter().chain(self.others.iter().flatten()).map(Box::as_ref)
    }

    /// Adds a session in an empty place, or instead of the oldest.
    fn add_other(&mut self, session: Box<Session>) {
        let slot = self.others.iter_mut().min_by_key(|slot| slot.as_ref().map(|one| one.since));
        if let Some(slot) = slot {
            *slot = Some(session);
        }
    }
}
