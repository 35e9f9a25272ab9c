//! What control offers over gRPC: thin files that know who asks, convert, ask the registry and answer.

mod auth;
mod control;
mod enrollment;
mod listing;
pub(crate) mod requests;

use std::sync::Arc;
use std::time::Duration;

use overlay_core::{ClusterId, NodeId, Revision};
use overlay_proto::identity::NodeIdentity;
use overlay_proto::{Code, Refusal, v1};

pub(crate) use auth::Peer;
pub(crate) use enrollment::Tarpit;

use crate::clock;
use crate::conditions::Conditions;
use crate::pki::{Authority, NodeRequest};
use crate::place::Places;
use crate::registry::{Actor, Command, Outcome, Settings};
use crate::token::FreshToken;
use crate::watch::Hub;
use crate::writer::Writer;

/// What every call needs.
#[derive(Clone)]
pub(crate) struct Service {
    /// The published present.
    pub(crate) hub: Arc<Hub>,
    /// Who changes it.
    pub(crate) writer: Writer,
    /// Who signs certificates.
    pub(crate) authority: Arc<Authority>,
    /// What `init` decided.
    pub(crate) settings: Settings,
    /// Where control is found.
    pub(crate) places: Arc<Places>,
    /// How long a node's certificate is valid.
    pub(crate) cert_ttl: Duration,
    /// What control itself cannot do.
    pub(crate) conditions: Arc<Conditions>,
    /// Where wrong tokens wait.
    pub(crate) tarpit: Arc<Tarpit>,
}

impl Service {
    fn cluster(&self) -> ClusterId {
        self.settings.cluster
    }

    /// Finds out which node asks, and that it still is one.
    fn caller<T>(&self, request: &tonic::Request<T>) -> Result<NodeId, Refusal> {
        let node = auth::peer(request)?.node(self.cluster(), clock::now_unix())?;
        self.hub.look(|state| state.node(node).map(drop))?;

        Ok(node)
    }

    async fn ask(&self, node: NodeId, command: Command) -> Result<(Outcome, Revision), Refusal> {
        self.writer.ask(Actor::Node(node), command).await
    }

    /// Asks for a command whose answer is its revision alone.
    async fn revise(&self, node: NodeId, command: Command) -> Result<v1::Revised, Refusal> {
        let (_, revision) = self.ask(node, command).await?;

        Ok(v1::Revised { revision: revision.0 })
    }

    fn sign(&self, node: NodeId, request: &NodeRequest) -> Result<Vec<u8>, Refusal> {
        let identity = NodeIdentity { cluster: self.cluster(), node };
        let signed = self.authority.sign_node(&identity, request, self.cert_ttl, clock::now_unix());

        signed.map(|der| der.to_vec()).map_err(|error| Refusal::new(Code::Fault, error))
    }

    fn join_line(&self, token: FreshToken) -> overlay_proto::JoinLine {
        token.line(self.authority.pin(), self.places.for_join_lines())
    }
}

/// The writer answered something else than was asked.
fn mismatch(outcome: &Outcome) -> Refusal {
    tracing::error!(?outcome, "An outcome does not belong to its command");

    Refusal::new(Code::Fault, "control mixed two answers up")
}
