//! The calls of nodes to control.

use std::pin::Pin;
use std::sync::Arc;

use overlay_core::{Network, NodeId, Revision};
use overlay_proto::convert::{self, field};
use overlay_proto::v1::control_server::Control;
use overlay_proto::{Code, Refusal, v1};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ControlService, audit, auth, listing, mismatch, policies, requests};
use crate::clock;
use crate::pki::NodeRequest;
use crate::registry::{Actor, BeginAnew, FenceCause, Operation, REPORT_WAIT, Reply};
use crate::token::FreshToken;
use crate::watch::OpenResult;
use crate::watch::hub::{OpenWatch, Standing, Watcher};
use crate::watch::revocations::ToldRevocations;
use crate::watch::stream::{QUEUE, WatchStream};

type Answer<T> = Result<Response<T>, Status>;

impl ControlService {
    /// Opens a watch unless another process of the same node has one and is still alive.
    async fn open(&self, node: NodeId, watcher: Watcher) -> Result<Arc<OpenWatch>, Refusal> {
        let mut silent = None;
        loop {
            match self.hub.open(node, watcher.clone(), silent.as_ref(), clock::now_unix())? {
                OpenResult::Open(watch) => return Ok(watch),
                OpenResult::Occupied(earlier) if earlier.answers().await => {
                    return Err(earlier.turned_away(watcher.address, clock::now_unix()).into());
                }
                OpenResult::Occupied(earlier) => {
                    tracing::info!(%node, from = %earlier.address(), "A watch whose agent is gone gives way");
                    silent = Some(earlier);
                }
            }
        }
    }

    /// Returns where a watch goes on: nowhere without a revision, or with one of another cluster or
    /// history. A revision that control has made and does not know means that its state is an older
    /// copy: its history begins anew then.
    async fn standing(
        &self,
        node: NodeId,
        asked: &v1::WatchRequest,
    ) -> Result<Option<Revision>, Refusal> {
        if asked.revision == 0 || asked.cluster != self.cluster().to_string() {
            return Ok(None);
        }
        let stamp = convert::stamp(&asked.lineage, &asked.mark)?;
        match self.hub.standing(Revision(asked.revision), stamp) {
            Standing::Past => Ok(Some(Revision(asked.revision))),
            Standing::Elsewhere => Ok(None),
            Standing::Forked => {
                tracing::error!(
                    %node,
                    revision = asked.revision,
                    "This state is an older copy: a node has a later revision of it; everything \
                     that may have been given since is fenced, as after a restore"
                );
                let history = crate::random::history()?;
                let begin = BeginAnew { history, cause: FenceCause::Copied, wait: REPORT_WAIT };
                self.writer.ask(Actor::Operator, Operation::BeginAnew(begin)).await?;
                Ok(None)
            }
        }
    }

    /// Submits a command whose answer is a network; returns it with the revision.
    async fn ask_network(
        &self,
        node: NodeId,
        command: Operation,
    ) -> Result<(Network, u64), Refusal> {
        match self.ask(node, command).await? {
            (Reply::Network(network), revision) => Ok((network, revision.0)),
            (outcome, _) => Err(mismatch(&outcome)),
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<v1::WatchResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Answer<Self::WatchStream> {
        let (client, tag) = (auth::client(&request)?, auth::instance(&request)?);
        let node = client.node(self.cluster(), clock::now_unix())?;
        self.check_node(node)?;
        let asked = request.into_inner();
        // Its semaphore is never closed.
        let turn = self.watch_turns.of(node).acquire_owned().await.ok();
        let at = self.standing(node, &asked).await?;
        if asked.reports && self.hub.look(|state| state.awaited().contains(&node)) {
            let text = "control's history began anew; report what this node holds first";
            return Err(Refusal::new(Code::ReportWanted, text).into());
        }
        let instance = requests::instance(asked.instance)?;
        let is_tagged = tag.is_some_and(|tag| tag == instance);
        let watcher = Watcher { instance, is_tagged, address: client.address().ip() };
        let watch = self.open(node, watcher).await?;
        self.locations.note(node, client.is_on_own_host());
        let (hub, location, problems) =
            (Arc::clone(&self.hub), self.locations.subscribe(), self.conditions.subscribe());
        let revocations = asked
            .takes_revocations
            .then(|| ToldRevocations::new(Arc::clone(&self.revocations), &asked.revoked));
        let stream = WatchStream {
            hub,
            problems,
            watch,
            node,
            expires: client.expires(),
            at,
            revocations,
            location,
            chunks: asked.chunks,
            cut: client.cut(),
            _turn: turn,
        };
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(stream.run(sender));

        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn report(&self, request: Request<v1::ReportRequest>) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;
        let told = request.into_inner();
        let revised = self.revise(node, Operation::Report(requests::report(node, &told)?)).await?;
        tracing::info!(
            %node,
            members = told.members.len(),
            endpoints = told.endpoints.len(),
            waiting = self.hub.look(|state| state.awaited().len()),
            "A node reported what it holds"
        );

        Ok(Response::new(revised))
    }

    async fn confirm(&self, request: Request<v1::ConfirmRequest>) -> Answer<v1::ConfirmResponse> {
        let node = self.caller(&request).await?;
        self.hub.confirm(node, &request.get_ref().instance);

        Ok(Response::new(v1::ConfirmResponse {}))
    }

    async fn tell_revocations(
        &self,
        request: Request<v1::TellRevocationsRequest>,
    ) -> Answer<v1::TellRevocationsResponse> {
        let node = self.caller(&request).await?;
        let added = self.merge_revocations(node, &request.get_ref().signed).await?;

        Ok(Response::new(v1::TellRevocationsResponse { added }))
    }

    async fn renew(&self, request: Request<v1::RenewRequest>) -> Answer<v1::RenewResponse> {
        let (client, instance) = (auth::client(&request)?, auth::instance(&request)?);
        let node = client.renewing_node(self.cluster(), clock::now_unix())?;
        self.check_node(node)?;
        self.check_instance(node, &client, instance.as_deref()).await?;
        let csr = NodeRequest::parse(&request.get_ref().csr).map_err(Refusal::from)?;
        let certificate = self.sign(node, &csr)?;
        audit::note_certificate(self, node, &certificate).await?;
        tracing::info!(%node, "Renewed a node's certificate");

        Ok(Response::new(v1::RenewResponse {
            certificate,
            ca_certificate: self.authority.certificate().to_vec(),
        }))
    }

    async fn announce(&self, request: Request<v1::AnnounceRequest>) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;

        Ok(Response::new(self.revise(node, requests::announce(request.into_inner())?).await?))
    }

    async fn leave(&self, request: Request<v1::LeaveRequest>) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;
        let revised = self.revise(node, Operation::Leave).await?;
        tracing::info!(%node, "Node left");

        Ok(Response::new(revised))
    }

    async fn create_network(
        &self,
        request: Request<v1::CreateNetworkRequest>,
    ) -> Answer<v1::CreateNetworkResponse> {
        let node = self.caller(&request).await?;
        let command = requests::create_network(request.into_inner())?;
        let (network, revision) = self.ask_network(node, command).await?;
        tracing::info!(%node, network = %network.id, "Network created");

        Ok(Response::new(v1::CreateNetworkResponse { revision, network: Some(network.into()) }))
    }

    async fn set_network(
        &self,
        request: Request<v1::SetNetworkRequest>,
    ) -> Answer<v1::SetNetworkResponse> {
        let node = self.caller(&request).await?;
        let command = requests::set_network(request.into_inner())?;
        let (network, revision) = self.ask_network(node, command).await?;
        tracing::info!(%node, network = %network.id, revision, "Network changed");

        Ok(Response::new(v1::SetNetworkResponse { revision, network: Some(network.into()) }))
    }

    async fn link_networks(
        &self,
        request: Request<v1::LinkNetworksRequest>,
    ) -> Answer<v1::LinkNetworksResponse> {
        let node = self.caller(&request).await?;
        let command = requests::link_networks(request.into_inner())?;
        let (network, revision) = self.ask_network(node, command).await?;
        tracing::info!(%node, network = %network.id, revision, "Networks linked");

        Ok(Response::new(v1::LinkNetworksResponse { revision, network: Some(network.into()) }))
    }

    async fn unlink_networks(
        &self,
        request: Request<v1::UnlinkNetworksRequest>,
    ) -> Answer<v1::LinkNetworksResponse> {
        let node = self.caller(&request).await?;
        let v1::UnlinkNetworksRequest { one, other } = request.into_inner();
        let (network, revision) =
            self.ask_network(node, Operation::UnlinkNetworks { one, other }).await?;
        tracing::info!(%node, network = %network.id, revision, "Networks unlinked");

        Ok(Response::new(v1::LinkNetworksResponse { revision, network: Some(network.into()) }))
    }

    async fn remove_network(
        &self,
        request: Request<v1::RemoveNetworkRequest>,
    ) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;
        let v1::RemoveNetworkRequest { network, force } = request.into_inner();
        let revised = self.revise(node, Operation::RemoveNetwork { network, force }).await?;
        tracing::info!(%node, revision = revised.revision, "Network removed");

        Ok(Response::new(revised))
    }

    async fn enter_network(
        &self,
        request: Request<v1::EnterNetworkRequest>,
    ) -> Answer<v1::EnterNetworkResponse> {
        let node = self.caller(&request).await?;
        let (member, revision) =
            match self.ask(node, requests::enter_network(request.get_ref())?).await? {
                (Reply::Member(member), revision) => (member, revision.0),
                (outcome, _) => return Err(mismatch(&outcome).into()),
            };

        Ok(Response::new(v1::EnterNetworkResponse { revision, member: Some(member.into()) }))
    }

    async fn exit_network(&self, request: Request<v1::ExitNetworkRequest>) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;
        let network = field("network", &request.get_ref().network)?;

        Ok(Response::new(self.revise(node, Operation::ExitNetwork(network)).await?))
    }

    async fn put_endpoints(
        &self,
        request: Request<v1::PutEndpointsRequest>,
    ) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;

        Ok(Response::new(self.revise(node, requests::put_endpoints(request.into_inner())?).await?))
    }

    async fn remove_endpoints(
        &self,
        request: Request<v1::RemoveEndpointsRequest>,
    ) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;

        Ok(Response::new(self.revise(node, requests::remove_endpoints(request.get_ref())?).await?))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Answer<v1::CreateTokenResponse> {
        let node = self.caller(&request).await?;
        let fresh = FreshToken::draw().map_err(|error| Refusal::new(Code::Fault, error))?;
        let (token, revision) =
            match self.ask(node, requests::create_token(request.into_inner(), &fresh)?).await? {
                (Reply::Token(token), revision) => (token, revision.0),
                (outcome, _) => return Err(mismatch(&outcome).into()),
            };
        tracing::info!(%node, token = %token.id, "Token created");
        let join_line = self.join_line(fresh).expose();

        Ok(Response::new(v1::CreateTokenResponse {
            revision,
            join_line,
            token: Some(listing::token(token)),
        }))
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Answer<v1::ListTokensResponse> {
        let node = self.caller(&request).await?;
        let tokens = self.hub.look(|state| listing::tokens(state, node))?;

        Ok(Response::new(v1::ListTokensResponse { tokens }))
    }

    async fn revoke_token(&self, request: Request<v1::RevokeTokenRequest>) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;
        let revised = self.revise(node, Operation::RevokeToken(request.into_inner().id)).await?;
        tracing::info!(%node, revision = revised.revision, "Token revoked");

        Ok(Response::new(revised))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Answer<v1::ListNodesResponse> {
        let node = self.caller(&request).await?;

        Ok(Response::new(v1::ListNodesResponse { nodes: listing::nodes(&self.hub, node)? }))
    }

    async fn remove_node(&self, request: Request<v1::RemoveNodeRequest>) -> Answer<v1::Revised> {
        let node = self.caller(&request).await?;
        let revised = self.revise(node, Operation::RemoveNode(request.into_inner().node)).await?;
        tracing::info!(%node, revision = revised.revision, "Node removed");

        Ok(Response::new(revised))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Answer<v1::PolicyReplaced> {
        let node = self.caller(&request).await?;

        Ok(Response::new(policies::apply(self, node, request.into_inner()).await?))
    }

    async fn rollback_policy(
        &self,
        request: Request<v1::RollbackPolicyRequest>,
    ) -> Answer<v1::PolicyReplaced> {
        let node = self.caller(&request).await?;

        Ok(Response::new(policies::roll_back(self, node, request.into_inner()).await?))
    }

    async fn show_policy(
        &self,
        request: Request<v1::ShowPolicyRequest>,
    ) -> Answer<v1::ShowPolicyResponse> {
        let node = self.caller(&request).await?;
        let revision = request.into_inner().revision;

        Ok(Response::new(policies::show(&self.hub, node, revision)?))
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Answer<v1::ListPoliciesResponse> {
        let node = self.caller(&request).await?;
        let policies = self.hub.look(|state| policies::list(state, node))?;

        Ok(Response::new(v1::ListPoliciesResponse { policies }))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Answer<v1::ListAuditResponse> {
        let node = self.caller(&request).await?;

        Ok(Response::new(audit::list(self, node, request.into_inner()).await?))
    }

    async fn version(&self, request: Request<v1::VersionRequest>) -> Answer<v1::VersionResponse> {
        self.caller(&request).await?;

        Ok(Response::new(v1::VersionResponse { version: env!("CARGO_PKG_VERSION").to_owned() }))
    }

    async fn list_networks(
        &self,
        request: Request<v1::ListNetworksRequest>,
    ) -> Answer<v1::ListNetworksResponse> {
        let node = self.caller(&request).await?;
        let networks = self.hub.look(|state| listing::networks(state, node))?;

        Ok(Response::new(v1::ListNetworksResponse { networks }))
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Answer<v1::ListEndpointsResponse> {
        let node = self.caller(&request).await?;
        let endpoints =
            self.hub.look(|state| listing::endpoints(state, node, &request.get_ref().network))?;

        Ok(Response::new(v1::ListEndpointsResponse { endpoints }))
    }
}
