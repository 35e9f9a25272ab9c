//! Calls to the agent on its local socket, each with a deadline; every failure is a refusal with a
//! code.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use overlay_proto::channel::{self, DialError, MAX_MESSAGE};
use overlay_proto::refusal::CODE_KEY;
use overlay_proto::v1::agent_client::AgentClient;
use overlay_proto::{Code, Refusal, v1};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

/// How long a call that only reads or changes a row may take; control has its own, shorter
/// deadlines.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long joining, leaving and detaching may take: they wait for control and for the kernel.
const LONG_DEADLINE: Duration = Duration::from_secs(60);

/// Attaching waits for its turn, however many are before it; the agent gives up what does not move
/// on, and the connection notices an agent that hangs.
const UNTIL_ANSWERED: Duration = Duration::MAX;
/// How long an upgrade may take: the new agent brings up all networks first.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(120);

/// A connection to the local agent.
#[derive(Debug)]
pub(crate) struct Agent {
    client: AgentClient<Channel>,
    socket: PathBuf,
}

macro_rules! calls {
    ($($name:ident within $deadline:ident: $request:ident => $response:ty;)*) => {
        impl Agent {
            $(
                pub(crate) async fn $name(
                    &mut self,
                    request: v1::$request,
                ) -> Result<$response, Refusal> {
                    let first = timeout($deadline, self.client.$name(Request::new(request.clone()))).await;
                    let answer = match first {
                        // The call was not begun: the agent was replaced before it.
                        Ok(Err(status)) if is_replaced(&status) => {
                            *self = Self::connect(&self.socket).await?;
                            timeout($deadline, self.client.$name(Request::new(request))).await
                        }
                        first => first,
                    };
                    match answer {
                        Ok(Ok(response)) => Ok(response.into_inner()),
                        Ok(Err(status)) => Err(refusal(status)),
                        Err(_) => Err(silent($deadline)),
                    }
                }
            )*
        }
    };
}

calls! {
    status within DEADLINE: StatusRequest => v1::StatusResponse;
    peers within DEADLINE: PeersRequest => v1::PeersResponse;
    join within LONG_DEADLINE: AgentJoinRequest => v1::AgentJoinResponse;
    leave within LONG_DEADLINE: AgentLeaveRequest => v1::AgentLeaveResponse;
    attach within UNTIL_ANSWERED: AttachRequest => v1::AttachResponse;
    detach within LONG_DEADLINE: DetachRequest => v1::DetachResponse;
    create_network within DEADLINE: CreateNetworkRequest => v1::CreateNetworkResponse;
    set_network within DEADLINE: SetNetworkRequest => v1::SetNetworkResponse;
    link_networks within DEADLINE: LinkNetworksRequest => v1::LinkNetworksResponse;
    unlink_networks within DEADLINE: UnlinkNetworksRequest => v1::LinkNetworksResponse;
    remove_network within DEADLINE: RemoveNetworkRequest => v1::Revised;
    list_networks within DEADLINE: ListNetworksRequest => v1::ListNetworksResponse;
    list_endpoints within DEADLINE: ListEndpointsRequest => v1::ListEndpointsResponse;
    list_nodes within DEADLINE: ListNodesRequest => v1::ListNodesResponse;
    remove_node within DEADLINE: RemoveNodeRequest => v1::Revised;
    list_control within DEADLINE: ListControlRequest => v1::ListControlResponse;
    set_control within DEADLINE: SetControlRequest => v1::SetControlResponse;
    create_token within DEADLINE: CreateTokenRequest => v1::CreateTokenResponse;
    list_tokens within DEADLINE: ListTokensRequest => v1::ListTokensResponse;
    revoke_token within DEADLINE: RevokeTokenRequest => v1::Revised;
    apply_policy within DEADLINE: ApplyPolicyRequest => v1::PolicyReplaced;
    rollback_policy within DEADLINE: RollbackPolicyRequest => v1::PolicyReplaced;
    show_policy within DEADLINE: ShowPolicyRequest => v1::ShowPolicyResponse;
    list_policies within DEADLINE: ListPoliciesRequest => v1::ListPoliciesResponse;
    list_audit within DEADLINE: ListAuditRequest => v1::ListAuditResponse;
    policy_counts within DEADLINE: PolicyCountsRequest => v1::PolicyCountsResponse;
    version within DEADLINE: VersionRequest => v1::AgentVersionResponse;
    upgrade within UPGRADE_DEADLINE: UpgradeRequest => v1::UpgradeResponse;
    ping within DEADLINE: PingRequest => Streaming<v1::PingResponse>;
    events within DEADLINE: EventsRequest => Streaming<v1::Event>;
}

impl Agent {
    /// Connects to the agent that listens on `socket`.
    pub(crate) async fn connect(socket: &Path) -> Result<Self, Refusal> {
        let channel = channel::agent(socket).await.map_err(|error| unreachable(socket, &error))?;

        let client = AgentClient::new(channel).max_decoding_message_size(MAX_MESSAGE);

        Ok(Self { client, socket: socket.to_owned() })
    }
}

fn silent(deadline: Duration) -> Refusal {
    Refusal::new(
        Code::AgentAway,
        format!("the agent did not answer within {} s", deadline.as_secs()),
    )
}

fn unreachable(socket: &Path, error: &DialError) -> Refusal {
    let socket = socket.display();
    let kind = match error {
        DialError::Unreachable { source, .. } => source.kind(),
        DialError::WrongPin { .. }
        | DialError::Tls { .. }
        | DialError::NoAddress
        | DialError::Http { .. } => io::ErrorKind::Other,
    };

    if kind == io::ErrorKind::PermissionDenied {
        let text = format!("only root may talk to the agent at {socket}: try with sudo");
        Refusal::new(Code::NotAllowed, text)
    } else if matches!(kind, io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) {
        let text = format!(
            "no agent runs at {socket}: `overlayctl start` starts a node's, `init` and `join` make this machine a node"
        );
        Refusal::new(Code::AgentAway, text)
    } else {
        Refusal::new(Code::AgentAway, format!("the agent cannot be reached: {error}"))
    }
}

/// Says whether an agent answers that another has taken its place. Nobody says so of an agent that
/// cannot be reached.
fn is_replaced(status: &Status) -> bool {
    let code = status.metadata().get(CODE_KEY).and_then(|code| code.to_str().ok());

    code == Some(Code::AgentAway.as_str())
}

/// Tells an answer of the agent from a connection that broke under the call.
pub(crate) fn refusal(status: Status) -> Refusal {
    let transport = matches!(
        status.code(),
        tonic::Code::Unavailable
            | tonic::Code::Unknown
            | tonic::Code::Cancelled
            | tonic::Code::Internal
    );

    if transport && status.metadata().get(CODE_KEY).is_none() {
        Refusal::new(
            Code::AgentAway,
            format!("the agent went away during the call: {}", status.message()),
        )
    } else {
        Refusal::from(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_connection_is_not_mistaken_for_an_answer() {
        let broken = refusal(Status::unavailable("broken pipe"));
        let answer = refusal(Refusal::new(Code::ControlAway, "control is away").into());

        assert_eq!(broken.code, Code::AgentAway);
        assert_eq!(answer, Refusal::new(Code::ControlAway, "control is away"));
    }

    #[tokio::test]
    async fn an_agent_that_is_not_there_is_named_with_what_to_do() {
        let error =
            Agent::connect(Path::new("/nonexistent/agent.sock")).await.expect_err("no agent");

        assert_eq!(error.code, Code::AgentAway);
        assert!(
            error.message.contains("/nonexistent/agent.sock")
                && error.message.contains("overlayctl start")
        );
    }
}
