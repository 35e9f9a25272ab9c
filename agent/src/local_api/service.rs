//! The calls of `agent.proto`: each is checked, handed on, and answered in one line when refused.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use overlay_core::{Name, View};
use overlay_proto::v1::agent_server::Agent;
use overlay_proto::{Code, JoinLine, Refusal, convert, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::status::peers_response;
use super::{control, events, listing, ping, policy_counts};
use crate::docker::detachable::try_detachable;
use crate::endpoint::lifecycle::Endpoints;
use crate::endpoint::request::AttachSpec;
use crate::endpoint::{attach, detach};
use crate::membership::connection::{self, ControlCalls};
use crate::membership::join::JoinOptions;
use crate::node_handle::{self, NodeHandle};
use crate::state::EndpointRecord;
use crate::status;

/// The agent's service.
#[derive(Debug)]
pub(super) struct LocalApi {
    handle: Arc<NodeHandle>,
}

impl LocalApi {
    /// Serves what the node offers.
    pub(super) fn new(handle: Arc<NodeHandle>) -> Self {
        Self { handle }
    }

    /// Returns the connection to control, or why there is none.
    async fn control(&self) -> Result<ControlCalls, Refusal> {
        Ok(self.handle.joined()?.control.connection.reach(connection::PATIENCE).await?)
    }

    async fn forward<T, F>(
        &self,
        ask: impl FnOnce(ControlCalls) -> F,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let client = self.control().await?;

        Ok(Response::new(connection::call(ask(client)).await?))
    }

    /// Asks control, and answers from the own view when it is away.
    async fn list<T, F>(
        &self,
        ask: impl FnOnce(ControlCalls) -> F,
        own: impl FnOnce(&Endpoints) -> Result<T, Refusal>,
    ) -> Result<Response<T>, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let joined = self.handle.joined()?;
        joined.endpoints.publisher.published().await;
        let asked = match joined.control.connection.reach(connection::LISTING_PATIENCE).await {
            Ok(client) => connection::call(ask(client)).await,
            Err(away) => Err(away),
        };
        match asked {
            Err(error) if error.code() == Code::ControlAway => {
                Ok(Response::new(own(&joined.endpoints)?))
            }
            answer => Ok(Response::new(answer?)),
        }
    }
}

#[tonic::async_trait]
impl Agent for LocalApi {
    type PingStream = ReceiverStream<Result<v1::PingResponse, Status>>;
    type EventsStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status::status(&self.handle).await.into()))
    }

    async fn peers(
        &self,
        _: Request<v1::PeersRequest>,
    ) -> Result<Response<v1::PeersResponse>, Status> {
        let peers = status::peers(&*self.handle.joined()?).await;

        Ok(Response::new(peers_response(peers)))
    }

    async fn join(
        &self,
        request: Request<v1::AgentJoinRequest>,
    ) -> Result<Response<v1::AgentJoinResponse>, Status> {
        let request = request.into_inner();
        let line: JoinLine =
            request.join_line.parse().map_err(|error| Refusal::new(Code::InvalidInput, error))?;
        let options = JoinOptions {
            name: node_name(&request.name)?,
            advertise: advertised(&request.advertise)?,
        };
        let answer = self
            .handle
            .ask(|reply| node_handle::Request::Join(Box::new(line), options, reply))
            .await?;

        Ok(Response::new(answer))
    }

    async fn leave(
        &self,
        request: Request<v1::AgentLeaveRequest>,
    ) -> Result<Response<v1::AgentLeaveResponse>, Status> {
        let force = request.into_inner().force;

        Ok(Response::new(self.handle.ask(|reply| node_handle::Request::Leave(force, reply)).await?))
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        let wanted = AttachSpec::try_from(request.into_inner())?;

        Ok(Response::new(
            attach::attach(Arc::clone(&self.handle.joined()?.endpoints), wanted).await?,
        ))
    }

    async fn detach(
        &self,
        request: Request<v1::DetachRequest>,
    ) -> Result<Response<v1::DetachResponse>, Status> {
        let joined = self.handle.joined()?;
        let is_free = |view: &View, record: &EndpointRecord| Ok(try_detachable(view, record)?);
        let detached: Result<_, Refusal> =
            detach::detach(&joined.endpoints, &request.into_inner(), is_free).await;
        let detached = detached?;

        Ok(Response::new(v1::DetachResponse {
            detached: u32::try_from(detached).unwrap_or(u32::MAX),
        }))
    }

    async fn ping(
        &self,
        request: Request<v1::PingRequest>,
    ) -> Result<Response<Self::PingStream>, Status> {
        Ok(Response::new(
            ping::ping(&self.handle.joined()?.endpoints, &request.into_inner()).await?,
        ))
    }

    async fn version(
        &self,
        _: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::AgentVersionResponse>, Status> {
        let ask =
            |mut client: ControlCalls| async move { client.version(v1::VersionRequest {}).await };
        let asked = match self.handle.joined() {
            Ok(joined) => match joined.control.connection.reach(connection::LISTING_PATIENCE).await
            {
                Ok(client) => connection::call(ask(client)).await.map_err(Refusal::from),
                Err(away) => Err(away.into()),
            },
            Err(unjoined) => Err(unjoined.into()),
        };
        let (control, control_reason) = match asked {
            Ok(response) => (response.version, String::new()),
            Err(refusal) => (String::new(), refusal.message),
        };
        let version = env!("CARGO_PKG_VERSION").to_owned();

        Ok(Response::new(v1::AgentVersionResponse { version, control, control_reason }))
    }

    async fn upgrade(
        &self,
        request: Request<v1::UpgradeRequest>,
    ) -> Result<Response<v1::UpgradeResponse>, Status> {
        let binary = PathBuf::from(request.into_inner().binary);
        if binary.is_relative() && !binary.as_os_str().is_empty() {
            return Err(Refusal::new(
                Code::InvalidInput,
                "the path of the program must be absolute",
            )
            .into());
        }
        let binary = (!binary.as_os_str().is_empty()).then_some(binary);

        Ok(Response::new(
            self.handle.ask(|reply| node_handle::Request::Upgrade(binary, reply)).await?,
        ))
    }

    async fn events(
        &self,
        _: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        Ok(Response::new(events::follow(Arc::clone(&self.handle))?))
    }

    async fn create_network(
        &self,
        request: Request<v1::CreateNetworkRequest>,
    ) -> Result<Response<v1::CreateNetworkResponse>, Status> {
        self.forward(|mut client| async move { client.create_network(request.into_inner()).await })
            .await
    }

    async fn set_network(
        &self,
        request: Request<v1::SetNetworkRequest>,
    ) -> Result<Response<v1::SetNetworkResponse>, Status> {
        self.handle.joined()?.endpoints.publisher.published().await;
        self.forward(|mut client| async move { client.set_network(request.into_inner()).await })
            .await
    }

    async fn link_networks(
        &self,
        request: Request<v1::LinkNetworksRequest>,
    ) -> Result<Response<v1::LinkNetworksResponse>, Status> {
        self.forward(|mut client| async move { client.link_networks(request.into_inner()).await })
            .await
    }

    async fn unlink_networks(
        &self,
        request: Request<v1::UnlinkNetworksRequest>,
    ) -> Result<Response<v1::LinkNetworksResponse>, Status> {
        self.forward(|mut client| async move { client.unlink_networks(request.into_inner()).await })
            .await
    }

    async fn remove_network(
        &self,
        request: Request<v1::RemoveNetworkRequest>,
    ) -> Result<Response<v1::Revised>, Status> {
        self.handle.joined()?.endpoints.publisher.published().await;
        self.forward(|mut client| async move { client.remove_network(request.into_inner()).await })
            .await
    }

    async fn list_networks(
        &self,
        request: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        let ask = |mut client: ControlCalls| async move {
            client.list_networks(request.into_inner()).await
        };

        self.list(ask, |own| Ok(listing::networks(&own.memberships.local_view(), own.node()))).await
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        let request = request.into_inner();
        let asked = request.clone();
        let ask = |mut client: ControlCalls| async move { client.list_endpoints(asked).await };

        let listed = self
            .list(ask, |own| listing::endpoints(&own.memberships.local_view(), &request.network))
            .await?;
        let joined = self.handle.joined()?;
        let problem =
            |network, endpoint| status::endpoint_problem(&joined.endpoints, network, endpoint);

        Ok(listed.map(|listed| listing::with_problems(listed, problem, joined.node)))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let ask =
            |mut client: ControlCalls| async move { client.list_nodes(request.into_inner()).await };

        self.list(ask, |own| Ok(listing::nodes(&own.memberships.local_view(), own.node()))).await
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::Revised>, Status> {
        self.forward(|mut client| async move { client.remove_node(request.into_inner()).await })
            .await
    }

    async fn list_control(
        &self,
        _: Request<v1::ListControlRequest>,
    ) -> Result<Response<v1::ListControlResponse>, Status> {
        Ok(Response::new(control::list(&self.handle.joined()?.control)))
    }

    async fn set_control(
        &self,
        request: Request<v1::SetControlRequest>,
    ) -> Result<Response<v1::SetControlResponse>, Status> {
        Ok(Response::new(
            control::set(&self.handle.joined()?.control, &request.into_inner()).await?,
        ))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        self.forward(|mut client| async move { client.create_token(request.into_inner()).await })
            .await
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.forward(|mut client| async move { client.list_tokens(request.into_inner()).await })
            .await
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::PolicyReplaced>, Status> {
        self.handle.joined()?.endpoints.publisher.published().await;
        self.forward(|mut client| async move { client.apply_policy(request.into_inner()).await })
            .await
    }

    async fn rollback_policy(
        &self,
        request: Request<v1::RollbackPolicyRequest>,
    ) -> Result<Response<v1::PolicyReplaced>, Status> {
        self.forward(|mut client| async move { client.rollback_policy(request.into_inner()).await })
            .await
    }

    async fn show_policy(
        &self,
        request: Request<v1::ShowPolicyRequest>,
    ) -> Result<Response<v1::ShowPolicyResponse>, Status> {
        let request = request.into_inner();
        let ask = |mut client: ControlCalls| async move { client.show_policy(request).await };
        if request.revision.is_some() {
            return self.forward(ask).await;
        }
        let own = |own: &Endpoints| {
            Ok(convert::visible_policy(own.memberships.local_view().policy.as_deref()))
        };

        self.list(ask, own).await
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        self.forward(|mut client| async move { client.list_audit(request.into_inner()).await })
            .await
    }

    async fn list_policies(
        &self,
        request: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        self.forward(|mut client| async move { client.list_policies(request.into_inner()).await })
            .await
    }

    async fn policy_counts(
        &self,
        _: Request<v1::PolicyCountsRequest>,
    ) -> Result<Response<v1::PolicyCountsResponse>, Status> {
        let joined = self.handle.joined()?;

        Ok(Response::new(policy_counts::counts(&joined.endpoints).await?))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::Revised>, Status> {
        self.forward(|mut client| async move { client.revoke_token(request.into_inner()).await })
            .await
    }
}

/// The node's name: what was asked for, or the first label of the host's.
fn node_name(asked: &str) -> Result<Name, Refusal> {
    if !asked.is_empty() {
        return Ok(convert::field("name", asked)?);
    }
    let host = hostname::get().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let label = host.split('.').next().unwrap_or_default();

    label.parse().map_err(|_| {
        Refusal::new(
            Code::InvalidInput,
            format!("the host's name {label:?} is no node name; give one with --name"),
        )
    })
}

fn advertised(asked: &[String]) -> Result<Vec<IpAddr>, Refusal> {
    Ok(convert::underlay(asked)?)
}
