//! Calls that control goes on to keep something for: watches and answers that nobody reads, and
//! requests whose end never comes.
//!
//! They are made of HTTP/2 frames: what reads messages for its caller reads answers, too.

use std::collections::VecDeque;
use std::pin::Pin;
use std::time::{Duration, Instant};

use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::{Bytes, Frame};
use overlay_proto::v1;
use prost::Message;
use tokio::time::{sleep, timeout};
use tonic::body::Body;
use tonic::client::GrpcService as _;
use tonic::codegen::http::{Request, Response};
use tonic::transport::Channel;

use super::attacker::Attacker;

/// How many of a kind are held at a time.
const HELD: usize = 2_000;
/// How long an answer is waited for before the next call is made.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long is a period, and for how much of it nothing is held, in seconds: what is held leaves
/// the large calls of the other attacks no turn.
const PERIOD: u64 = 10;
const READS: u64 = 6;
/// The pause between two connections.
const PAUSE: Duration = Duration::from_millis(100);
/// How much of a request is sent: as much as a message may have, but for its end.
const UNFINISHED: usize = (4 << 20) - 1_024;
/// The largest piece of it that is sent at once.
const PIECE: usize = 16 << 10;

/// Opens watches, and reads none.
pub(super) async fn watches(attacker: &Attacker) {
    let watch = v1::WatchRequest { chunks: true, ..v1::WatchRequest::default() }.encode_to_vec();

    hold(attacker, "unread watches", "/overlay.v1.Control/Watch", || whole(&watch)).await;
}

/// Asks for the longest lists, and reads none.
pub(super) async fn answers(attacker: &Attacker) {
    let list = v1::ListEndpointsRequest::default().encode_to_vec();

    hold(attacker, "unread answers", "/overlay.v1.Control/ListEndpoints", || whole(&list)).await;
}

/// Begins the longest requests, and never ends them.
pub(super) async fn requests(attacker: &Attacker) {
    hold(attacker, "endless requests", "/overlay.v1.Control/PutEndpoints", endless).await;
}

/// Makes calls over one connection after the other, and holds what it gets.
async fn hold(attacker: &Attacker, kind: &str, path: &'static str, body: impl Fn() -> Body) {
    let mut held = VecDeque::new();
    let begun = Instant::now();
    let is_turn = || attacker.is_on() && begun.elapsed().as_secs() % PERIOD >= READS;
    while attacker.is_on() {
        if !is_turn() {
            held.clear();
            sleep(PAUSE).await;
            continue;
        }
        let Ok(mut channel) = attacker.identity.channel().await else {
            attacker.tally.refused("connections", "not-made", "");
            sleep(PAUSE).await;
            continue;
        };
        attacker.tally.accepted("connections");
        while is_turn() {
            let mut call = call(&mut channel, path, body());
            // A request that does not end gets no answer; what was sent of it is held all the same.
            match timeout(PATIENCE, &mut call).await {
                Ok(Some(answer)) => {
                    attacker.tally.accepted(kind);
                    held.push_back(Held::Answer(answer));
                }
                Ok(None) => {
                    attacker.tally.refused(kind, "cut", "");
                    break;
                }
                Err(_) => {
                    attacker.tally.refused(kind, "unanswered", "");
                    held.push_back(Held::Call(call));
                }
            }
            if held.len() > HELD {
                held.pop_front();
            }
            // Whatever is under way goes on, and what was cut off is let go.
            held.retain_mut(Held::is_open);
        }
        sleep(PAUSE).await;
    }
}

type Call = Pin<Box<dyn Future<Output = Option<Response<Body>>>>>;

/// What is held of a call.
enum Held {
    Answer(Response<Body>),
    Call(Call),
}

impl Held {
    /// Returns whether control has not ended it yet.
    fn is_open(&mut self) -> bool {
        match self {
            // To look would be to read.
            Self::Answer(answer) => answer.status().is_success(),
            Self::Call(call) => call.now_or_never().is_none(),
        }
    }
}

fn call(channel: &mut Channel, path: &'static str, body: Body) -> Call {
    let request = Request::post(format!("https://control.overlay.internal{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body);
    let mut channel = channel.clone();

    Box::pin(async move {
        std::future::poll_fn(|cx| channel.poll_ready(cx)).await.ok()?;
        channel.call(request.ok()?).await.ok()
    })
}

/// A message with its header.
fn whole(message: &[u8]) -> Body {
    let frame = [header(message.len()), Bytes::copy_from_slice(message)].concat();

    Body::new(http_body_util::Full::new(Bytes::from(frame)))
}

/// A long message without its end.
fn endless() -> Body {
    let piece = Bytes::from_static(&[0; PIECE]);
    let pieces = std::iter::repeat_n(piece, UNFINISHED / PIECE);
    let sent = stream::iter([header(UNFINISHED + 1)].into_iter().chain(pieces));
    let frames = sent.map(|bytes| Ok::<_, tonic::Status>(Frame::data(bytes)));

    Body::new(StreamBody::new(frames.chain(stream::pending())))
}

/// What gRPC puts before a message: it is not compressed, and this long.
fn header(length: usize) -> Bytes {
    let length = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();

    Bytes::from([&[0][..], &length].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_how_long_a_message_is() {
        assert_eq!(header(0x0102)[..], [0, 0, 0, 1, 2]);
    }
}
