//! How a host without a certificate becomes a node.

use std::time::Duration;

use overlay_core::NodeId;
use overlay_proto::convert::field;
use overlay_proto::v1::enrollment_server::Enrollment;
use overlay_proto::{Code, Refusal, v1};
use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use super::{Service, auth, mismatch};
use crate::clock;
use crate::pki::NodeRequest;
use crate::registry::{Actor, Command, Digest, Join, Outcome, secret_is_known};

/// How long the answer to a wrong token takes: with the calls that one connection may have open, a guesser gets some
/// hundred tries a second of 2^128, and they cost control a hash each.
const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(250);

#[tonic::async_trait]
impl Enrollment for Service {
    async fn join(&self, request: Request<v1::JoinRequest>) -> Result<Response<v1::JoinResponse>, Status> {
        let from = auth::peer(&request)?.address();
        match self.admit(request.into_inner()).await {
            Ok(response) => {
                tracing::info!(node = %response.node, %from, "Node joined");
                Ok(Response::new(response))
            }
            Err(refusal) => {
                tracing::warn!(%from, code = %refusal.code, reason = %refusal, "Refused a join");
                if refusal.code == Code::TokenRefused {
                    tokio::time::sleep(WRONG_TOKEN_DELAY).await;
                }
                Err(refusal.into())
            }
        }
    }
}

impl Service {
    async fn admit(&self, request: v1::JoinRequest) -> Result<v1::JoinResponse, Refusal> {
        let secret = Zeroizing::new(request.token_secret);
        let secret = Digest::of(secret.as_bytes());
        // Before anything that costs: who guesses pays for the connection, control for a hash.
        self.hub.look(|state| secret_is_known(state, &request.token_id, &secret, clock::now_unix()))?;
        let csr = NodeRequest::parse(&request.csr)?;
        let join = Join {
            token: request.token_id,
            secret,
            key: csr.digest(),
            name: field("name", &request.name)?,
            candidate: NodeId::from_random(crate::random::bits()?),
        };
        let node = match self.writer.ask(Actor::Operator, Command::Join(join)).await? {
            (Outcome::Joined(node), _) => node,
            (outcome, _) => return Err(mismatch(&outcome)),
        };

        Ok(v1::JoinResponse {
            cluster: self.cluster().to_string(),
            node: node.id.to_string(),
            role: v1::Role::from(node.role).into(),
            certificate: self.sign(node.id, &csr)?,
            ca_certificate: self.authority.certificate().to_vec(),
        })
    }
}
