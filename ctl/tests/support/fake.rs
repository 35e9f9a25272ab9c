//! What the pretended agent answers: a little of everything, or what its script says.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use overlay_proto::v1::agent_server::Agent;
use overlay_proto::{Code, Refusal, v1};
use tonic::{Request, Response, Status};

use super::fake_rows::{endpoint, known, network, peer, status, token};
use super::{CONTROL, Script, fake_audit, fake_policies, join_line};

/// The service of a pretended agent.
pub(super) struct Fake(pub(super) Arc<Mutex<Script>>);

impl Fake {
    fn asked(&self, what: String) -> Result<MutexGuard<'_, Script>, Status> {
        let mut script = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        script.asked.push(what);
        match script.refuse.clone() {
            Some(refusal) => Err(refusal.into()),
            None => Ok(script),
        }
    }

    /// Changes a row; those that are called `nope` and `busy` it does not change.
    fn revised(&self, what: &str, name: &str) -> Result<Response<v1::Revised>, Status> {
        let _script = self.asked(format!("{what} {name}"))?;
        match name {
            "nope" => Err(Refusal::new(
                Code::NotFound,
                format!("there is no {} {name:?}", what.trim_start_matches("remove ")),
            )
            .into()),
            "busy" => Err(Refusal::new(
                Code::InUse,
                format!("{name} has 2 endpoints; --force takes them off"),
            )
            .into()),
            "far" => Err(Refusal::new(Code::ControlAway, "control is away since 3 s").into()),
            _ => Ok(Response::new(v1::Revised { revision: 8 })),
        }
    }
}

#[tonic::async_trait]
impl Agent for Fake {
    async fn status(
        &self,
        _: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusResponse>, Status> {
        let script = self.asked("status".into())?;
        if let Some(crowd) = &script.crowd {
            return Ok(Response::new(crowd.status.clone()));
        }
        if !script.joined {
            let phase = v1::NodePhase::Unjoined.into();
            return Ok(Response::new(v1::StatusResponse {
                phase,
                state_dir: script.state_dir.clone(),
                ..v1::StatusResponse::default()
            }));
        }

        Ok(Response::new(status(&script)))
    }

    async fn peers(
        &self,
        _: Request<v1::PeersRequest>,
    ) -> Result<Response<v1::PeersResponse>, Status> {
        let script = self.asked("peers".into())?;
        if let Some(crowd) = &script.crowd {
            return Ok(Response::new(crowd.peers.clone()));
        }

        Ok(Response::new(v1::PeersResponse { peers: vec![peer()] }))
    }

    async fn join(
        &self,
        request: Request<v1::AgentJoinRequest>,
    ) -> Result<Response<v1::AgentJoinResponse>, Status> {
        let mut script = self.asked(format!("join as {:?}", request.get_ref().name))?;
        if script.joined && !request.get_ref().join_line.ends_with(CONTROL) {
            return Err(Refusal::new(
                Code::WrongState,
                "this host is already node a; use `overlayctl leave` first",
            )
            .into());
        }
        script.joined = true;

        Ok(Response::new(v1::AgentJoinResponse {
            cluster: "c0ffee".into(),
            node: "0a".into(),
            node_name: "a".into(),
            role: v1::Role::Node.into(),
        }))
    }

    async fn leave(
        &self,
        request: Request<v1::AgentLeaveRequest>,
    ) -> Result<Response<v1::AgentLeaveResponse>, Status> {
        let mut script = self.asked(format!("leave {}", request.get_ref().force))?;
        if script.breaking_leaves > 0 {
            script.breaking_leaves -= 1;
            script.joined &= !script.leaves_unheard;
            return Err(Status::unavailable("broken pipe"));
        }
        script.joined = false;

        Ok(Response::new(v1::AgentLeaveResponse { told_control: true }))
    }

    async fn attach(
        &self,
        request: Request<v1::AttachRequest>,
    ) -> Result<Response<v1::AttachResponse>, Status> {
        let request = request.into_inner();
        let mut script = self.asked(format!("attach {} to {}", request.name, request.network))?;
        known(&request.network)?;
        let name = if request.name.is_empty() { "made-up" } else { &request.name };
        let response = v1::AttachResponse {
            endpoint: Some(endpoint(name)),
            network_name: request.network.clone(),
            ifname: "eth0".into(),
            nameservers: vec!["10.64.0.1".into()],
            mtu: 1408,
        };
        script.attached.push(request);

        Ok(Response::new(response))
    }

    async fn detach(
        &self,
        request: Request<v1::DetachRequest>,
    ) -> Result<Response<v1::DetachResponse>, Status> {
        let request = request.into_inner();
        let _script = self.asked(format!("detach {}{}", request.endpoint, request.name))?;
        known(&request.network)?;
        if request.endpoint == "nope" {
            overlay_proto::convert::field::<overlay_core::EndpointId>(
                "endpoint",
                &request.endpoint,
            )?;
        }
        if request.name == "nope" {
            let text = "this node has no such endpoint; `overlayctl endpoint ls` lists all";
            return Err(Refusal::new(Code::NotFound, text).into());
        }

        Ok(Response::new(v1::DetachResponse { detached: 1 }))
    }

    type PingStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::PingResponse, Status>>>;

    async fn ping(
        &self,
        request: Request<v1::PingRequest>,
    ) -> Result<Response<Self::PingStream>, Status> {
        let script = self.asked(format!("ping {}", request.get_ref().target))?;
        known(&request.get_ref().network)?;
        if request.get_ref().target == "nope" {
            let text = "\"nope\" is not known in any network of this node: `overlayctl ps` and `overlayctl node ls` list the names";
            return Err(Refusal::new(Code::NotFound, text).into());
        }
        let rtt_micros = if script.lost_probes { 0 } else { 420 };
        let answer = |sequence| {
            Ok(v1::PingResponse {
                address: "10.64.0.2".into(),
                node_name: "b".into(),
                sequence,
                rtt_micros,
                error: String::new(),
            })
        };
        let answers: Vec<_> = (1..=request.get_ref().count).map(answer).collect();

        Ok(Response::new(tokio_stream::iter(answers)))
    }

    async fn create_network(
        &self,
        request: Request<v1::CreateNetworkRequest>,
    ) -> Result<Response<v1::CreateNetworkResponse>, Status> {
        let request = request.into_inner();
        let nodes = request.settings.as_ref().map_or("", |settings| &settings.nodes);
        let _script = self.asked(format!(
            "create {} {} {}{nodes}",
            request.name, request.prefix, request.prefix6
        ))?;

        Ok(Response::new(v1::CreateNetworkResponse { revision: 7, network: Some(network()) }))
    }

    async fn set_network(
        &self,
        request: Request<v1::SetNetworkRequest>,
    ) -> Result<Response<v1::SetNetworkResponse>, Status> {
        let v1::SetNetworkRequest { network: name, nodes, lease_seconds } = request.into_inner();
        let _script = self.asked(format!("set {name} nodes {nodes:?} lease {lease_seconds:?}"))?;

        Ok(Response::new(v1::SetNetworkResponse { revision: 8, network: Some(network()) }))
    }

    async fn link_networks(
        &self,
        request: Request<v1::LinkNetworksRequest>,
    ) -> Result<Response<v1::LinkNetworksResponse>, Status> {
        let request = request.into_inner();
        let access = request.access();
        let _script =
            self.asked(format!("link {} {} {}", request.one, request.other, access.as_str_name()))?;

        Ok(Response::new(v1::LinkNetworksResponse { revision: 9, network: Some(network()) }))
    }

    async fn unlink_networks(
        &self,
        request: Request<v1::UnlinkNetworksRequest>,
    ) -> Result<Response<v1::LinkNetworksResponse>, Status> {
        let v1::UnlinkNetworksRequest { one, other } = request.into_inner();
        let _script = self.asked(format!("unlink {one} {other}"))?;

        Ok(Response::new(v1::LinkNetworksResponse { revision: 9, network: Some(network()) }))
    }

    async fn remove_network(
        &self,
        request: Request<v1::RemoveNetworkRequest>,
    ) -> Result<Response<v1::Revised>, Status> {
        self.revised("remove network", &request.get_ref().network)
    }

    async fn list_networks(
        &self,
        _: Request<v1::ListNetworksRequest>,
    ) -> Result<Response<v1::ListNetworksResponse>, Status> {
        let script = self.asked("networks".into())?;
        if let Some(crowd) = &script.crowd {
            return Ok(Response::new(crowd.networks.clone()));
        }
        let state = v1::NetworkState {
            network: Some(network()),
            members: vec!["a".into()],
            endpoints: 1,
            ..v1::NetworkState::default()
        };

        Ok(Response::new(v1::ListNetworksResponse { networks: vec![state] }))
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListEndpointsRequest>,
    ) -> Result<Response<v1::ListEndpointsResponse>, Status> {
        let script = self.asked("endpoints".into())?;
        let network = request.into_inner().network;
        known(&network)?;
        if let Some(crowd) = &script.crowd {
            let mut endpoints = crowd.endpoints.endpoints.clone();
            let is_on = |state: &v1::EndpointState| {
                let id = state.endpoint.as_ref().map(|endpoint| &endpoint.network);
                network.is_empty() || state.network_name == network || id == Some(&network)
            };
            endpoints.retain(is_on);
            return Ok(Response::new(v1::ListEndpointsResponse { endpoints }));
        }
        let state = v1::EndpointState {
            endpoint: Some(endpoint("service2")),
            network_name: "my-network".into(),
            node_name: "a".into(),
            problem: String::new(),
        };

        Ok(Response::new(v1::ListEndpointsResponse { endpoints: vec![state] }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let script = self.asked("nodes".into())?;
        if let Some(crowd) = &script.crowd {
            return Ok(Response::new(crowd.nodes.clone()));
        }
        let node = v1::Node {
            id: "0a".into(),
            name: "a".into(),
            role: v1::Role::Admin.into(),
            ..v1::Node::default()
        };
        let state = v1::NodeState { node: Some(node), online: true, ..v1::NodeState::default() };

        Ok(Response::new(v1::ListNodesResponse { nodes: vec![state] }))
    }

    async fn remove_node(
        &self,
        request: Request<v1::RemoveNodeRequest>,
    ) -> Result<Response<v1::Revised>, Status> {
        self.revised("remove node", &request.get_ref().node)
    }

    async fn list_control(
        &self,
        _: Request<v1::ListControlRequest>,
    ) -> Result<Response<v1::ListControlResponse>, Status> {
        let script = self.asked("list control".into())?;
        if let Some(crowd) = &script.crowd {
            return Ok(Response::new(crowd.control.clone()));
        }
        let row = v1::ControlAddress {
            address: CONTROL.to_owned(),
            source: "announced".to_owned(),
            in_use: true,
        };

        Ok(Response::new(v1::ListControlResponse { addresses: vec![row] }))
    }

    async fn set_control(
        &self,
        request: Request<v1::SetControlRequest>,
    ) -> Result<Response<v1::SetControlResponse>, Status> {
        let request = request.into_inner();
        let _script =
            self.asked(format!("set control {} {}", request.addresses.join(","), request.force))?;
        let silent = "192.0.2.66";
        if request.addresses.iter().any(String::is_empty) {
            let text = "\"\" is no address of control; \
                        write 192.0.2.1, 192.0.2.1:7443, [2001:db8::1]:7443 or a name";
            return Err(Refusal::new(Code::InvalidInput, text).into());
        }
        if request.addresses == [silent] && !request.force {
            let text = format!(
                "{silent}:7443: connection refused; nothing is changed, --force sets it all the same"
            );
            return Err(Refusal::new(Code::ControlAway, text).into());
        }
        let answered = request.addresses.into_iter().filter(|address| address != silent).collect();

        Ok(Response::new(v1::SetControlResponse { answered }))
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let _script = self.asked(format!(
            "token {} s {} uses {:?}",
            request.ttl_seconds,
            request.uses,
            request.role()
        ))?;

        Ok(Response::new(v1::CreateTokenResponse {
            revision: 7,
            join_line: join_line(CONTROL),
            token: Some(token()),
        }))
    }

    async fn list_tokens(
        &self,
        _: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        let script = self.asked("tokens".into())?;
        if let Some(crowd) = &script.crowd {
            return Ok(Response::new(crowd.tokens.clone()));
        }

        Ok(Response::new(v1::ListTokensResponse { tokens: vec![token()] }))
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::Revised>, Status> {
        self.revised("token", &request.get_ref().id)
    }

    async fn policy_counts(
        &self,
        _: Request<v1::PolicyCountsRequest>,
    ) -> Result<Response<v1::PolicyCountsResponse>, Status> {
        let script = self.asked("counts".into())?;

        Ok(Response::new(fake_policies::counts(&script)))
    }

    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::PolicyReplaced>, Status> {
        let request = request.into_inner();
        let script = self.asked(format!("apply {:?}", request.mode()))?;

        Ok(Response::new(fake_policies::apply(&script, request)?))
    }

    async fn rollback_policy(
        &self,
        request: Request<v1::RollbackPolicyRequest>,
    ) -> Result<Response<v1::PolicyReplaced>, Status> {
        let script = self.asked(format!("roll back to {}", request.get_ref().to))?;

        Ok(Response::new(fake_policies::roll_back(&script, request.into_inner())?))
    }

    async fn show_policy(
        &self,
        request: Request<v1::ShowPolicyRequest>,
    ) -> Result<Response<v1::ShowPolicyResponse>, Status> {
        let script = self.asked("policy".into())?;

        Ok(Response::new(fake_policies::show(&script, request.into_inner())?))
    }

    async fn list_policies(
        &self,
        _: Request<v1::ListPoliciesRequest>,
    ) -> Result<Response<v1::ListPoliciesResponse>, Status> {
        let script = self.asked("policies".into())?;

        Ok(Response::new(fake_policies::list(&script)))
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let page = {
            let script = self.asked("audit".into())?;
            fake_audit::list(&script, request.get_ref())
        };
        match page {
            Some(page) => Ok(Response::new(page)),
            None => std::future::pending().await,
        }
    }

    async fn upgrade(
        &self,
        request: Request<v1::UpgradeRequest>,
    ) -> Result<Response<v1::UpgradeResponse>, Status> {
        let binary = request.into_inner().binary;
        let _script = self.asked(format!("upgrade {binary}"))?;
        if binary.ends_with("/false") {
            let text = "the program did not say that it is there: it ended with exit status: 1; this agent goes on";
            return Err(Refusal::new(Code::WrongState, text).into());
        }

        Ok(Response::new(v1::UpgradeResponse {
            from_version: "0.1.0".into(),
            to_version: "0.2.0".into(),
            paused_micros: 2_345,
            // No process has it: whoever is noted here is ended by `leave`.
            pid: u32::MAX >> 1,
            sessions_lost: u32::from(binary.ends_with("/true")),
        }))
    }

    async fn version(
        &self,
        _: Request<v1::VersionRequest>,
    ) -> Result<Response<v1::AgentVersionResponse>, Status> {
        let mut answer = v1::AgentVersionResponse {
            version: "0.1.0".into(),
            ..v1::AgentVersionResponse::default()
        };
        match self.asked("version".into()) {
            Ok(_) => answer.control = "0.1.1".into(),
            Err(refusal) => answer.control_reason = refusal.message().into(),
        }

        Ok(Response::new(answer))
    }

    type EventsStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::Event, Status>>>;

    async fn events(
        &self,
        _: Request<v1::EventsRequest>,
    ) -> Result<Response<Self::EventsStream>, Status> {
        let script = self.asked("events".into())?;
        let events: Vec<_> =
            script.crowd.clone().unwrap_or_default().events.into_iter().map(Ok).collect();

        Ok(Response::new(tokio_stream::iter(events)))
    }
}
