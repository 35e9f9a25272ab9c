//! Has every call of the engine go through the agent's gate.

use hyper::body::Bytes;

use super::{Answer, Answers};
use crate::call_gate::CallGate;

/// Answers calls while the gate is open; the others wait.
#[derive(Debug)]
pub(crate) struct Gated<A> {
    answers: A,
    gate: CallGate,
}

impl<A> Gated<A> {
    /// Puts the gate before whoever answers.
    pub(crate) fn new(answers: A, gate: CallGate) -> Self {
        Self { answers, gate }
    }
}

impl<A: Answers> Answers for Gated<A> {
    async fn answer(&self, path: &str, body: Bytes) -> Answer {
        let Some(_call) = self.gate.enter().await else {
            // Who hears nothing asks again, whoever the agent is then.
            return std::future::pending().await;
        };

        self.answers.answer(path, body).await
    }
}
