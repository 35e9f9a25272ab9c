//! Forwards calls of the engine to whoever serves a plugin socket.

use std::path::Path;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use super::{Answer, MAX_BODY};

/// The agent did not answer a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unanswered {
    /// Nobody listens, or the connection broke.
    #[error("the agent's socket")]
    Socket(#[from] std::io::Error),
    /// The connection ended early, or the answer was not HTTP.
    #[error("the agent's answer")]
    Answer(#[from] hyper::Error),
    /// The request is malformed.
    #[error("the request")]
    Request(#[from] hyper::http::Error),
    /// The answer is too long, or ends early.
    #[error("the agent's answer: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
}

/// Forwards one call to the agent, on a connection of its own.
pub(crate) async fn forward(agent: &Path, path: &str, body: Bytes) -> Result<Answer, Unanswered> {
    let stream = UnixStream::connect(agent).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::post(path).header(HOST, "overlayd").body(Full::new(body))?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_BODY)
            .collect()
            .await
            .map_err(Unanswered::Body)?;
        Ok(Answer { status, body: body.to_bytes() })
    };
    tokio::pin!(exchange);

    tokio::select! {
        answer = &mut exchange => answer,
        // The connection may end as soon as it has handed over the answer.
        _ = connection => exchange.await,
    }
}
