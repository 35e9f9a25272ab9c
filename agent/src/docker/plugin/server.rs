//! Reads requests of the engine and writes answers. What is refused is told in `Err` (which network
//! calls read) and `Error` (which address calls read): the engine shows it to the person who asked.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use overlay_daemon::reserve::Reserve;
use overlay_proto::{Code, Refusal};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::socket::PluginSocket;
use super::{
    AddressRequest, Answer, Answers, Driver, EndpointRequest, JoinRequest, NetworkRequest,
    PoolRequest, wire,
};
use crate::docker::DRIVER;
use crate::unix_socket::Accepted;

/// The most bytes of a request or an answer: the largest names some hundred published ports.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// The first call of all, without arguments.
pub(crate) const ACTIVATE: &str = "/Plugin.Activate";
const TOO_LARGE: &str = "the request cannot be read, or is larger than 1 MiB";
/// The most connections at once; the engine uses a few dozen while many containers start.
const MAX_CONNECTIONS: usize = 512;
/// How long a request may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(10);
/// How long a request's head may take to arrive once it began.
const HEAD: Duration = Duration::from_secs(30);
/// Connections that are accepted although file descriptors are used up: those of a start or two,
/// whose refusal says so.
pub const RESERVED: usize = 4;
/// The protocol's media type.
const MEDIA_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Serves the socket until the task is dropped; out of the reserve where file descriptors are used
/// up.
pub async fn serve<A: Answers>(socket: PluginSocket, answers: Arc<A>, reserve: Arc<Reserve>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let own = nix::unistd::geteuid().as_raw();
    loop {
        let stream = socket.accept(&reserve).await;
        if stream.peer_uid().is_none_or(|uid| uid != 0 && uid != own) {
            continue;
        }
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            converse(stream, answers).await;
            drop(place);
        });
    }
}

async fn converse<A: Answers>(stream: Accepted, answers: Arc<A>) {
    let service = service_fn(move |request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(written(handle(request, &*answers).await)) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "Connection of the plugin socket ended");
    }
}

async fn handle<A: Answers>(request: Request<Incoming>, answers: &A) -> Answer {
    if request.method() != Method::POST {
        return Answer::json(StatusCode::METHOD_NOT_ALLOWED, &failure("only POST is understood"));
    }
    let path = request.uri().path().to_owned();
    if request.body().size_hint().lower() > MAX_BODY as u64 {
        return Answer::json(StatusCode::BAD_REQUEST, &failure(TOO_LARGE));
    }
    match timeout(ARRIVAL, Limited::new(request.into_body(), MAX_BODY).collect()).await {
        Ok(Ok(body)) => answers.answer(&path, body.to_bytes()).await,
        Ok(Err(_)) => Answer::json(StatusCode::BAD_REQUEST, &failure(TOO_LARGE)),
        Err(_) => Answer::json(
            StatusCode::REQUEST_TIMEOUT,
            &failure("the request did not arrive within 10 seconds"),
        ),
    }
}

fn written(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = answer.status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(MEDIA_TYPE));

    response
}

/// Writes a refusal in the way that both kinds of calls read.
pub(crate) fn failure(text: &str) -> Value {
    json!({ "Err": text, "Error": text })
}

impl<D: Driver> Answers for D {
    async fn answer(&self, path: &str, body: Bytes) -> Answer {
        let (status, reply) = answer(self, path, &body).await;

        Answer::json(status, &reply)
    }
}

/// Answers one call.
pub async fn answer<D: Driver>(driver: &D, path: &str, body: &[u8]) -> (StatusCode, Value) {
    match dispatch(driver, path, body).await {
        Ok(Some(reply)) => (StatusCode::OK, reply),
        Ok(None) => {
            (StatusCode::NOT_FOUND, failure(&format!("{DRIVER} knows no call of this name")))
        }
        Err(refusal) => {
            let status = if refusal.code == Code::InvalidInput {
                StatusCode::BAD_REQUEST
            } else {
                StatusCode::OK
            };
            tracing::info!(call = path, code = %refusal.code, reason = %refusal, "Refused a call of Docker's");
            (status, failure(&refusal.to_string()))
        }
    }
}

/// Returns the answer to a call that is always answered the same way.
pub(crate) fn constant(path: &str) -> Option<Value> {
    Some(match path {
        ACTIVATE => json!({ "Implements": ["NetworkDriver", "IpamDriver"] }),
        "/NetworkDriver.GetCapabilities" => {
            json!({ "Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": false })
        }
        "/IpamDriver.GetCapabilities" => {
            json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })
        }
        "/IpamDriver.GetDefaultAddressSpaces" => {
            json!({ "LocalDefaultAddressSpace": DRIVER, "GlobalDefaultAddressSpace": DRIVER })
        }
        _ => return None,
    })
}

/// The calls; nothing for one that is not known.
async fn dispatch<D: Driver>(
    driver: &D,
    path: &str,
    body: &[u8],
) -> Result<Option<Value>, Refusal> {
    if let Some(reply) = constant(path) {
        return Ok(Some(reply));
    }
    let done = |()| json!({});
    let reply = match path {
        "/IpamDriver.RequestPool" => driver.request_pool(PoolRequest::read(body)?).await?.write(),
        "/IpamDriver.ReleasePool" => {
            driver.release_pool(wire::read_release_pool(body)?).await.map(done)?
        }
        "/IpamDriver.RequestAddress" => {
            let address = driver.request_address(AddressRequest::read(body)?).await?;
            json!({ "Address": address.to_string(), "Data": {} })
        }
        "/IpamDriver.ReleaseAddress" => {
            let (pool, address) = wire::read_release_address(body)?;
            driver.release_address(pool, address).await.map(done)?
        }
        "/NetworkDriver.CreateNetwork" => {
            driver.create_network(NetworkRequest::read(body)?).await.map(done)?
        }
        "/NetworkDriver.DeleteNetwork" => {
            driver.delete_network(wire::read_network(body)?).await.map(done)?
        }
        "/NetworkDriver.CreateEndpoint" => {
            driver.create_endpoint(EndpointRequest::read(body)?).await?.write()
        }
        "/NetworkDriver.DeleteEndpoint" => {
            driver.delete_endpoint(wire::read_endpoint(body)?).await.map(done)?
        }
        "/NetworkDriver.Join" => driver.join(JoinRequest::read(body)?).await?.write(),
        "/NetworkDriver.EndpointOperInfo" => {
            wire::read_endpoint(body)?;
            json!({ "Value": {} })
        }
        // What these report is the engine's own business: the way out is its own, and an interface
        // it lets go of is removed with its endpoint.
        "/NetworkDriver.Leave"
        | "/NetworkDriver.ProgramExternalConnectivity"
        | "/NetworkDriver.RevokeExternalConnectivity" => {
            wire::read_endpoint(body)?;
            json!({})
        }
        "/NetworkDriver.DiscoverNew" | "/NetworkDriver.DiscoverDelete" => json!({}),
        "/NetworkDriver.AllocateNetwork" | "/NetworkDriver.FreeNetwork" => {
            let text = format!(
                "{DRIVER} networks need no Swarm; create them on any host without --scope swarm"
            );
            return Err(Refusal::new(Code::Unsupported, text));
        }
        _ => return Ok(None),
    };

    Ok(Some(reply))
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
