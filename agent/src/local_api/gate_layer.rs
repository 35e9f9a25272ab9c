//! Has every call go through the gate, but for the one that closes it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use overlay_proto::{Code, Refusal};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use crate::call_gate::CallGate;

/// The call that waits until no other is under way.
const UPGRADE: &str = "/overlay.v1.Agent/Upgrade";

/// Wraps the services of the local socket in [`Gated`].
#[derive(Debug, Clone)]
pub(super) struct GateLayer(pub(super) CallGate);

impl<S> Layer<S> for GateLayer {
    type Service = Gated<S>;

    fn layer(&self, inner: S) -> Gated<S> {
        Gated { inner, gate: self.0.clone() }
    }
}

/// A service whose calls wait while the gate is closed.
#[derive(Debug, Clone)]
pub(super) struct Gated<S> {
    inner: S,
    gate: CallGate,
}

impl<S, B> Service<Request<B>> for Gated<S>
where
    S: Service<Request<B>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if request.uri().path() == UPGRADE {
            return Box::pin(self.inner.call(request));
        }
        let gate = self.gate.clone();
        // The one that said that it is ready is the one to be called.
        let fresh = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, fresh);

        Box::pin(async move {
            match gate.enter().await {
                Some(_call) => inner.call(request).await,
                None => Ok(turned_away()),
            }
        })
    }
}

/// What a call is answered that was not begun: `overlayctl` asks again, and finds the new agent.
fn turned_away() -> Response<Body> {
    Status::from(Refusal::new(
        Code::AgentAway,
        "another agent has taken this one's place; try again",
    ))
    .into_http()
}
