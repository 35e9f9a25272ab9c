//! The gRPC services of control: thin files that authenticate, convert, ask the registry and
//! answer.

mod audit;
mod auth;
mod change_rate;
mod control;
mod enrollment;
mod large_calls;
mod listing;
mod policies;
mod refusal;
pub(crate) mod requests;
mod revocations;
mod turns;

use std::sync::Arc;
use std::time::Duration;

use overlay_core::{ClusterId, NodeId, Revision};
use overlay_proto::identity::NodeIdentity;
use overlay_proto::{Code, Refusal, v1};

pub(crate) use auth::ClientInfo;
pub(crate) use change_rate::ChangeRate;
pub(crate) use enrollment::Tarpit;
pub(crate) use large_calls::LargeCallLayer;
pub(crate) use turns::Turns;

use crate::clock;
use crate::conditions::Conditions;
use crate::location::LocationTracker;
use crate::pki::{Authority, NodeRequest};
use crate::registry::{Actor, Operation, Reply, Settings};
use crate::token::FreshToken;
use crate::watch::Hub;
use crate::watch::revocations::RevocationSigner;
use crate::writer::Writer;

/// What every call needs.
#[derive(Clone)]
pub(crate) struct ControlService {
    /// The published state.
    pub(crate) hub: Arc<Hub>,
    /// Changes the state.
    pub(crate) writer: Writer,
    /// Signs certificates.
    pub(crate) authority: Arc<Authority>,
    /// The settings that `init` chose.
    pub(crate) settings: Settings,
    /// Where control can be reached.
    pub(crate) locations: Arc<LocationTracker>,
    /// How long a node's certificate is valid.
    pub(crate) cert_ttl: Duration,
    /// Problems of control itself.
    pub(crate) conditions: Arc<Conditions>,
    /// Signs and verifies what is told of removed nodes.
    pub(crate) revocations: Arc<RevocationSigner>,
    /// Delays wrong tokens.
    pub(crate) tarpit: Arc<Tarpit>,
    /// Delays nodes that change too much.
    pub(crate) change_rate: Arc<ChangeRate>,
    /// Delays nodes that open watches and do not read them.
    pub(crate) watch_turns: Arc<Turns<NodeId>>,
}

impl ControlService {
    fn cluster(&self) -> ClusterId {
        self.settings.cluster
    }

    /// Authenticates the calling node, and checks that it still is one, and that no other process
    /// was that node first.
    async fn caller<T: Sync>(&self, request: &tonic::Request<T>) -> Result<NodeId, Refusal> {
        let (client, instance) = (auth::client(request)?, auth::instance(request)?);
        let node = client.node(self.cluster(), clock::now_unix())?;
        self.check_node(node)?;
        self.check_instance(node, &client, instance.as_deref()).await?;

        Ok(node)
    }

    /// Checks that an authenticated node still belongs to the cluster.
    fn check_node(&self, node: NodeId) -> Result<(), Refusal> {
        Ok(self.hub.look(|state| state.node(node).map(drop))?)
    }

    async fn ask(&self, node: NodeId, command: Operation) -> Result<(Reply, Revision), Refusal> {
        self.change_rate.wait(node, &command).await?;

        Ok(self.writer.ask(Actor::Node(node), command).await?)
    }

    /// Submits a command whose answer is only the revision.
    async fn revise(&self, node: NodeId, command: Operation) -> Result<v1::Revised, Refusal> {
        let (_, revision) = self.ask(node, command).await?;

        Ok(v1::Revised { revision: revision.0 })
    }

    fn sign(&self, node: NodeId, request: &NodeRequest) -> Result<Vec<u8>, Refusal> {
        let identity = NodeIdentity { cluster: self.cluster(), node };
        let signed = self.authority.sign_node(&identity, request, self.cert_ttl, clock::now_unix());

        signed.map(|der| der.to_vec()).map_err(|error| Refusal::new(Code::Fault, error))
    }

    fn join_line(&self, token: FreshToken) -> overlay_proto::JoinLine {
        token.line(self.authority.pin(), self.locations.for_join_lines())
    }
}

/// Reports an outcome that does not fit the command.
fn mismatch(outcome: &Reply) -> Refusal {
    tracing::error!(?outcome, "A result does not fit its command");

    Refusal::new(Code::Fault, "control confused two answers")
}
