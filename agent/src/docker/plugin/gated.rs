//! Passes every call of the engine through the agent's gate.

use std::path::PathBuf;

use hyper::StatusCode;
use hyper::body::Bytes;

use super::{Answer, Answers, constant, forward};
use crate::call_gate::CallGate;

/// Answers calls while the gate is open; others wait. Calls whose answer is always the same never
/// wait: from them the plugin proxy knows that the agent is there, however long a hand-over takes.
#[derive(Debug)]
pub(crate) struct Gated<A> {
    answers: A,
    gate: CallGate,
    /// Where the agent that took this one's place serves the engine.
    socket: PathBuf,
}

impl<A> Gated<A> {
    /// Puts the gate in front of whoever answers calls at `socket`.
    pub(crate) fn new(answers: A, gate: CallGate, socket: PathBuf) -> Self {
        Self { answers, gate, socket }
    }

    /// Forwards the call to the agent that took this one's place.
    async fn pass_on(&self, path: &str, body: Bytes) -> Answer {
        match forward(&self.socket, path, body).await {
            Ok(answer) => answer,
            // A caller that gets no answer asks again, whichever agent runs then.
            Err(_) => std::future::pending().await,
        }
    }
}

impl<A: Answers> Answers for Gated<A> {
    async fn answer(&self, path: &str, body: Bytes) -> Answer {
        if let Some(reply) = constant(path) {
            return Answer::json(StatusCode::OK, &reply);
        }
        let _connected = self.gate.connected();
        match self.gate.enter().await {
            Some(_call) => self.answers.answer(path, body).await,
            None => self.pass_on(path, body).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::docker::plugin::{ACTIVATE, PluginSocket, serve};

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(5);

    /// Answers with its name.
    struct Named(&'static str);

    impl Answers for Named {
        async fn answer(&self, _: &str, body: Bytes) -> Answer {
            let reply = serde_json::json!({ "from": self.0, "heard": body.len() });

            Answer::json(StatusCode::OK, &reply)
        }
    }

    #[tokio::test]
    async fn while_the_gate_is_closed_only_what_is_always_alike_is_answered() {
        let gate = CallGate::new(true);
        let gated = Gated::new(Named("old"), gate.clone(), "/nowhere".into());
        let join = || timeout(SHORT, gated.answer("/NetworkDriver.Join", Bytes::new()));
        let closed = gate.close(LONG).await.expect("no call is under way");

        assert!(timeout(SHORT, gated.answer(ACTIVATE, Bytes::new())).await.is_ok());
        assert!(join().await.is_err());
        drop(closed);

        assert!(join().await.is_ok());
    }

    #[tokio::test]
    async fn a_call_that_waited_is_answered_by_the_next_agent() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("plugin.sock");
        let gate = CallGate::new(true);
        let gated = Gated::new(Named("old"), gate.clone(), path.clone());
        let closed = gate.close(LONG).await.expect("no call is under way");
        let waiting = tokio::spawn(async move {
            gated.answer("/NetworkDriver.Join", Bytes::from_static(b"{}")).await
        });
        assert!(!waiting.is_finished());
        let socket = PluginSocket::open(&path).await.expect("opened");
        let next = tokio::spawn(serve(socket, Arc::new(Named("new")), Arc::default()));

        gate.turn_away(closed);

        let answer = timeout(LONG, waiting).await.expect("in time").expect("no panic");
        assert_eq!(answer.body, Bytes::from_static(br#"{"from":"new","heard":2}"#));
        next.abort();
    }
}
