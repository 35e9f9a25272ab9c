//! Nodes that are removed, and identities that two processes use.

use std::path::Path;

use overlay_core::{ClusterId, View};
use overlay_proto::identity::INSTANCE_KEY;
use overlay_proto::{Code, Refusal, SignedRevocation, v1};
use tonic::Request;

use crate::harness::{Control, Node, ask_to_join, connect, csr};

async fn remove(admin: &Node, name: &str) {
    let request = v1::RemoveNodeRequest { node: name.to_owned() };
    admin.client.clone().remove_node(request).await.unwrap();
}

fn tagged<T>(message: T, instance: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(instance) = instance {
        request.metadata_mut().insert(INSTANCE_KEY, instance.parse().unwrap());
    }
    request
}

/// Makes every call that a node may make, as a process; returns what became of each.
async fn every_call(
    node: &Node,
    network: &v1::Network,
    instance: Option<&str>,
) -> Vec<(&'static str, Result<(), Code>)> {
    let mut c = node.client.clone();
    let mut said = Vec::new();
    macro_rules! call {
        ($name:ident, $message:expr) => {
            let answer = c.$name(tagged($message, instance)).await;
            said.push((stringify!($name), answer.map(drop).map_err(|e| Refusal::from(e).code)));
        };
    }
    let id = || network.id.clone();
    let endpoint = node.endpoint(network, 77, "forged", "10.9.7.7");
    let key = v1::EndpointKey { network: id(), endpoint: format!("{:012x}", 5) };
    call!(list_nodes, v1::ListNodesRequest {});
    call!(list_networks, v1::ListNetworksRequest {});
    call!(list_endpoints, v1::ListEndpointsRequest::default());
    call!(version, v1::VersionRequest {});
    call!(confirm, v1::ConfirmRequest { instance: "clone".to_owned() });
    call!(announce, v1::AnnounceRequest { lane_ports: vec![9], ..Default::default() });
    call!(put_endpoints, v1::PutEndpointsRequest { endpoints: vec![endpoint] });
    call!(remove_endpoints, v1::RemoveEndpointsRequest { endpoints: vec![key] });
    call!(
        enter_network,
        v1::EnterNetworkRequest { network: id(), lane_keys: vec![vec![9; 32]], blocks: 1 }
    );
    call!(exit_network, v1::ExitNetworkRequest { network: id() });
    call!(create_network, v1::CreateNetworkRequest { name: "own".into(), ..Default::default() });
    call!(set_network, v1::SetNetworkRequest { network: id(), ..Default::default() });
    call!(remove_network, v1::RemoveNetworkRequest { network: id(), force: true });
    call!(create_token, v1::CreateTokenRequest::default());
    call!(list_tokens, v1::ListTokensRequest {});
    call!(revoke_token, v1::RevokeTokenRequest::default());
    call!(remove_node, v1::RemoveNodeRequest { node: "admin".into() });
    call!(apply_policy, v1::ApplyPolicyRequest::default());
    call!(rollback_policy, v1::RollbackPolicyRequest::default());
    call!(show_policy, v1::ShowPolicyRequest::default());
    call!(list_policies, v1::ListPoliciesRequest {});
    call!(tell_revocations, v1::TellRevocationsRequest::default());
    call!(renew, v1::RenewRequest { csr: csr(&node.key) });
    let instance_text = instance.unwrap_or("clone").to_owned();
    call!(watch, v1::WatchRequest { instance: instance_text, ..Default::default() });
    call!(leave, v1::LeaveRequest {});

    said
}

/// Returns the revocations that a node is told when it begins to watch.
async fn told(node: &Node) -> Vec<Vec<u8>> {
    let mut watcher = node.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();

    watcher.revocations.into_iter().flat_map(|news| news.signed).collect()
}

/// Defect 1.9, at control.
#[tokio::test]
async fn every_node_is_told_of_an_evicted_one_which_is_refused_by_every_call() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let line = admin.token(v1::CreateTokenRequest { uses: 2, ..Default::default() }).await;
    let evicted = Node::join(&line, "host2").await.unwrap();
    let other = control.node(&admin, "host3").await;
    let network = admin.create_network("net", "10.9.0.0/16").await.unwrap();
    evicted.enter(&network).await.unwrap();
    let mut watcher = other.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();

    remove(&admin, "host2").await;

    while watcher.revocations.is_empty() {
        watcher.step().await.unwrap();
    }
    let cluster: ClusterId = admin.cluster.parse().unwrap();
    let signed = &watcher.revocations[0].signed[0];
    let verified = SignedRevocation::verified(signed, cluster, &other.ca).unwrap();
    let revocation = verified.revocation();
    assert_eq!(revocation.node.to_string(), evicted.id);
    assert_eq!(revocation.by.as_ref().map(|by| by.name.as_str()), Some("admin"));
    assert_eq!(told(&other).await, std::slice::from_ref(signed), "a later watch is told, too");

    for (call, answer) in every_call(&evicted, &network, None).await {
        assert_eq!(answer, Err(Code::NotAllowed), "{call}");
    }
    let again = ask_to_join(&line, "host2", &evicted.key).await.unwrap_err();
    assert_eq!(again.code, Code::NotAllowed);
    assert!(again.message.contains("was removed by admin at "), "{again}");
    assert!(again.message.contains("its key is refused"), "{again}");
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test]
async fn a_control_that_lost_a_removal_learns_of_it_from_nodes_and_of_no_other() {
    let mut control = Control::start().await;
    let mut admin = control.admin().await;
    let evicted = control.node(&admin, "host2").await;
    control.stop().await;
    let backup = tempfile::tempdir().unwrap();
    copy(control.state(), backup.path());
    control.serve().await;
    admin.reconnect(control.address).await;
    remove(&admin, "host2").await;
    let signed = told(&admin).await;
    control.stop().await;
    copy(backup.path(), control.state());
    control.serve().await;
    admin.reconnect(control.address).await;

    let request = v1::WatchRequest {
        revoked: vec![u64::from_str_radix(&evicted.id, 16).unwrap()],
        takes_revocations: true,
        ..Default::default()
    };
    let mut stream = admin.client.clone().watch(request.clone()).await.unwrap().into_inner();
    let first = stream.message().await.unwrap().unwrap().event.unwrap();
    let v1::watch_response::Event::Revocations(asked) = first else { panic!("{first:?}") };
    assert_eq!(asked.wanted, request.revoked);
    let mut forged = signed[0].clone();
    *forged.last_mut().unwrap() ^= 1;
    let tell = async |signed: Vec<Vec<u8>>| {
        let request = v1::TellRevocationsRequest { signed };
        admin.client.clone().tell_revocations(request).await.unwrap().into_inner().added
    };

    assert_eq!(tell(vec![forged, vec![], vec![7; 9_999]]).await, 0);
    assert!(every_node(&admin).await.contains(&"host2".to_owned()));
    assert_eq!(tell(signed.clone()).await, 1);
    assert_eq!(tell(signed).await, 0, "the same again");
    assert_eq!(every_node(&admin).await, ["admin"]);
    let mut again =
        connect(control.address, &evicted.ca, &evicted.certificate, &evicted.key).await.unwrap();
    let refused = again.watch(v1::WatchRequest::default()).await.unwrap_err();
    assert_eq!(Refusal::from(refused).code, Code::NotAllowed);
}

async fn every_node(admin: &Node) -> Vec<String> {
    let nodes = admin.client.clone().list_nodes(v1::ListNodesRequest {}).await.unwrap();

    nodes.into_inner().nodes.into_iter().filter_map(|it| Some(it.node?.name)).collect()
}

/// Defect 1.12.
#[tokio::test]
async fn a_copied_identity_is_refused_by_every_call_and_both_are_told() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let network = admin.create_network("net", "10.9.0.0/16").await.unwrap();
    node.enter(&network).await.unwrap();
    let put = vec![node.endpoint(&network, 5, "service1", "10.9.3.3")];
    node.put(put.clone()).await.unwrap();
    let watch = v1::WatchRequest { instance: "first".to_owned(), ..Default::default() };
    let stream = node.client.clone().watch(tagged(watch, Some("first"))).await.unwrap();
    let (told, clash) = tokio::sync::oneshot::channel();
    let answering = node.client.clone();
    let first = tokio::spawn(answer(answering, stream.into_inner(), told));

    for instance in [Some("clone"), None] {
        for (call, answer) in every_call(&node, &network, instance).await {
            assert_eq!(answer, Err(Code::IdentityClash), "{call} as {instance:?}");
        }
    }

    assert_eq!(clash.await.unwrap().address, "127.0.0.1");
    let own = v1::PutEndpointsRequest { endpoints: put };
    node.client.clone().put_endpoints(tagged(own, Some("first"))).await.unwrap();
    let rows = admin.client.clone().list_endpoints(v1::ListEndpointsRequest::default()).await;
    assert_eq!(rows.unwrap().into_inner().endpoints.len(), 1, "nothing of the first is removed");
    first.abort();
}

/// Answers for the process that was there first, and passes on that it is told of another.
async fn answer(
    mut client: v1::control_client::ControlClient<tonic::transport::Channel>,
    mut stream: tonic::Streaming<v1::WatchResponse>,
    told: tokio::sync::oneshot::Sender<v1::IdentityClash>,
) {
    let mut told = Some(told);
    while let Ok(Some(message)) = stream.message().await {
        let Some(v1::watch_response::Event::Alive(alive)) = message.event else { continue };
        if alive.answer {
            let confirm = v1::ConfirmRequest { instance: "first".to_owned() };
            client.confirm(tagged(confirm, Some("first"))).await.unwrap();
        }
        if let (Some(clash), true) = (alive.clash, told.is_some()) {
            let _ = told.take().map(|told| told.send(clash));
        }
    }
}

#[tokio::test]
async fn an_agent_from_before_is_told_what_it_knows_and_its_calls_are_taken() {
    let control = Control::start().await;
    let admin = control.admin().await;
    control.node(&admin, "host2").await;
    remove(&admin, "host2").await;
    let request = v1::WatchRequest { instance: "earlier".to_owned(), ..Default::default() };
    let mut stream = admin.client.clone().watch(request).await.unwrap().into_inner();

    let first = stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(first, v1::watch_response::Event::Snapshot(_)), "{first:?}");
    assert!(admin.create_network("net", "").await.is_ok());
}
