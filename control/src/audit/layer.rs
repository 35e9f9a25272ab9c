//! Tells each call where it comes from, and notes those that are refused for who made them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use overlay_proto::Code;
use overlay_proto::refusal::CODE_KEY;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use tower::{Layer, Service};

use super::Refusals;
use crate::clock;
use crate::service::ClientInfo;

/// Wraps the services of a gRPC server in [`Audited`].
#[derive(Debug, Clone)]
pub(crate) struct AuditLayer(pub(crate) Arc<Refusals>);

impl<S> Layer<S> for AuditLayer {
    type Service = Audited<S>;

    fn layer(&self, inner: S) -> Audited<S> {
        Audited { inner, refusals: Arc::clone(&self.0) }
    }
}

/// A service whose calls know their [`super::CallOrigin`].
#[derive(Debug, Clone)]
pub(crate) struct Audited<S> {
    inner: S,
    refusals: Arc<Refusals>,
}

impl<S, B> Service<Request<B>> for Audited<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let origin = request.extensions().get().map(ClientInfo::origin).unwrap_or_default();
        let path = request.uri().path();
        let call = path.rsplit_once('/').map_or(path, |(_, call)| call).to_owned();
        let refusals = Arc::clone(&self.refusals);
        let answer = self.inner.call(request);

        Box::pin(async move {
            let answer = origin.scope(answer).await;
            if let Ok(code) = answer.as_ref().map(refused_for)
                && let Some(code) = code
            {
                refusals.note(&origin, &call, code, clock::now_unix());
            }

            answer
        })
    }
}

/// Returns why a call was refused, if that was for who made it.
fn refused_for(response: &Response<Body>) -> Option<Code> {
    let word = response.headers().get(CODE_KEY)?.to_str().ok()?;

    Code::from_word(word).filter(|code| {
        matches!(
            code,
            Code::NotAllowed | Code::NotAuthenticated | Code::TokenRefused | Code::IdentityClash
        )
    })
}
