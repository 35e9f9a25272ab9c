//! Confines a panic to the call it happened in: that call is answered with a fault, and all others
//! go on.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::{Code, Refusal};

/// Wraps the services of a gRPC server in [`CatchPanic`].
#[derive(Debug, Clone, Copy)]
pub struct CatchPanicLayer;

impl<S> Layer<S> for CatchPanicLayer {
    type Service = CatchPanic<S>;

    fn layer(&self, inner: S) -> CatchPanic<S> {
        CatchPanic(inner)
    }
}

/// A service whose panics are answered with [`Code::Fault`]. By then, the panic hook has logged
/// them.
#[derive(Debug, Clone)]
pub struct CatchPanic<S>(S);

impl<S, B> Service<Request<B>> for CatchPanic<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = CatchPanicFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        CatchPanicFuture(
            catch_unwind(AssertUnwindSafe(|| Box::pin(self.0.call(request)))).map_err(|_| ()),
        )
    }
}

/// A call in progress; an error for one that panicked before it returned a future.
#[derive(Debug)]
pub struct CatchPanicFuture<F>(Result<Pin<Box<F>>, ()>);

impl<F, E> Future for CatchPanicFuture<F>
where
    F: Future<Output = Result<Response<Body>, E>>,
{
    type Output = Result<Response<Body>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(call) = &mut self.0 else { return Poll::Ready(Ok(fault())) };
        let polled: Result<_, Box<dyn Any + Send>> =
            catch_unwind(AssertUnwindSafe(|| call.as_mut().poll(cx)));
        match polled {
            Ok(poll) => Poll::Ready(ready!(poll)),
            Err(_) => Poll::Ready(Ok(fault())),
        }
    }
}

fn fault() -> Response<Body> {
    let text = "this call met a fault of ours and was not answered; the log says where; what was asked may have been done";

    Status::from(Refusal::new(Code::Fault, text)).into_http()
}

#[cfg(test)]
mod tests {
    use tower::{ServiceExt as _, service_fn};

    use super::*;
    use crate::refusal::CODE_KEY;

    async fn code_of(path: &'static str) -> Option<String> {
        let inner = service_fn(|request: Request<()>| {
            assert_ne!(request.uri().path(), "/at-once", "broke before it began");
            async move {
                assert_ne!(request.uri().path(), "/later", "broke on its way");
                Ok::<_, std::convert::Infallible>(Response::new(Body::empty()))
            }
        });
        let request = Request::builder().uri(path).body(()).expect("a request");
        let response = CatchPanicLayer.layer(inner).oneshot(request).await.expect("infallible");

        response.headers().get(CODE_KEY).map(|code| code.to_str().expect("a word").to_owned())
    }

    #[tokio::test]
    async fn a_call_that_breaks_is_answered_and_others_are_as_they_were() {
        assert_eq!(code_of("/at-once").await.as_deref(), Some("fault"));
        assert_eq!(code_of("/later").await.as_deref(), Some("fault"));
        assert_eq!(code_of("/well").await, None);
    }
}
