//! How a host without a certificate becomes a node.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use overlay_core::NodeId;
use overlay_proto::convert::field;
use overlay_proto::v1::enrollment_server::Enrollment;
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::Semaphore;
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{ControlService, audit, auth, mismatch};
use crate::clock;
use crate::pki::NodeRequest;
use crate::registry::{Actor, Digest, Join, Operation, Reply, secret_is_known};

/// How long the answer to a wrong token is delayed.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(250);
/// Concurrent answers to wrong tokens; further ones queue. So all guessers together get 128 tries a
/// second out of 2^128, at the cost of one hash each, and hosts with a valid token never wait for
/// them.
const WRONG_TOKENS: usize = 32;
/// How often wrong tokens are logged, in seconds.
const REPORT_EVERY: u64 = 10;

/// Delays the answers to wrong tokens.
pub(crate) struct Tarpit {
    slots: Semaphore,
    refused: AtomicU64,
    reported: AtomicU64,
}

impl Default for Tarpit {
    fn default() -> Self {
        Self {
            slots: Semaphore::new(WRONG_TOKENS),
            refused: AtomicU64::new(0),
            reported: AtomicU64::new(0),
        }
    }
}

impl Tarpit {
    async fn hold(&self, from: SocketAddr, now: u64) {
        let refused = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        let reported = self.reported.load(Ordering::Relaxed);
        let due = now.abs_diff(reported) >= REPORT_EVERY;
        if due
            && self
                .reported
                .compare_exchange(reported, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            tracing::warn!(%from, refused, "Refused join tokens that are not valid");
        }
        // The semaphore is never closed; a cancelled call leaves the queue.
        let _slot = self.slots.acquire().await;
        tokio::time::sleep(WRONG_TOKEN_DELAY).await;
    }
}

#[tonic::async_trait]
impl Enrollment for ControlService {
    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::JoinResponse>, Status> {
        let from = auth::client(&request)?.address();
        match self.admit(request.into_inner(), from).await {
            Ok(response) => {
                tracing::info!(node = %response.node, %from, "Node joined");
                Ok(Response::new(response))
            }
            Err(refusal) => {
                if refusal.code == Code::TokenRefused {
                    self.tarpit.hold(from, clock::now_unix()).await;
                } else {
                    tracing::info!(%from, code = %refusal.code, reason = %refusal, "Refused a join");
                }
                Err(refusal.into())
            }
        }
    }
}

impl ControlService {
    /// Refuses a key whose node is there: a node joins once, and an answer that was lost is asked
    /// for again before the node watches.
    async fn check_key(&self, key: &Digest, from: SocketAddr) -> Result<(), Refusal> {
        let node = self.hub.look(|state| state.node_of_key(key).map(|node| node.id));
        let Some(first) = node.and_then(|node| self.hub.watch_of(node)) else { return Ok(()) };
        if !first.answers().await {
            return Ok(());
        }

        Err(first.turned_away(from.ip(), clock::now_unix()).into())
    }

    async fn admit(
        &self,
        request: v1::JoinRequest,
        from: SocketAddr,
    ) -> Result<v1::JoinResponse, Refusal> {
        let secret = Zeroizing::new(request.token_secret);
        let secret = Digest::of(secret.as_bytes());
        // Checked before any costly work: a guess costs the guesser a connection, and control one
        // hash.
        self.hub
            .look(|state| secret_is_known(state, &request.token_id, &secret, clock::now_unix()))?;
        let csr = NodeRequest::parse(&request.csr)?;
        self.check_key(&csr.digest(), from).await?;
        let join = Join {
            token: request.token_id,
            secret,
            key: csr.digest(),
            name: field("name", &request.name)?,
            candidate: NodeId::from_random(crate::random::bits()?),
        };
        let node = match self.writer.ask(Actor::Operator, Operation::Join(join)).await? {
            (Reply::Joined(node), _) => node,
            (outcome, _) => return Err(mismatch(&outcome)),
        };
        let certificate = self.sign(node.id, &csr)?;
        audit::note_certificate(self, node.id, &certificate).await?;

        Ok(v1::JoinResponse {
            cluster: self.cluster().to_string(),
            node: node.id.to_string(),
            role: v1::Role::from(node.role).into(),
            certificate,
            ca_certificate: self.authority.certificate().to_vec(),
            pool: self.hub.look(|state| state.settings().pool.to_string()),
        })
    }
}
