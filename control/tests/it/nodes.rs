//! The life of nodes, networks and endpoints.

use std::time::Duration;

use overlay_core::View;
use overlay_proto::{Code, v1};
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;

use crate::harness::{Control, Node, connect, csr};

#[tokio::test]
async fn a_node_joins_watches_and_sees_what_it_is_a_member_of() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let network = admin.create_network("my-network", "").await.unwrap();
    let mut watcher = node.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    assert_eq!(
        (watcher.view.networks.len(), watcher.view.nodes.len(), watcher.view.members.len()),
        (1, 1, 0)
    );

    let member = admin.enter(&network).await.unwrap();
    let revision =
        admin.put(vec![admin.endpoint(&network, 1, "service1", "10.64.255.2")]).await.unwrap();
    let mine = node.enter(&network).await.unwrap();
    let blocks = [&member, &mine].map(|member| member.blocks[0].prefix.clone());
    assert_eq!(blocks, ["10.64.255.0/24", "10.64.254.0/24"]);
    watcher.reach(revision + 1).await;

    assert_eq!(
        (watcher.view.nodes.len(), watcher.view.members.len(), watcher.view.endpoints.len()),
        (2, 2, 1)
    );
    assert_eq!(watcher.snapshots, 1);
}

#[tokio::test]
async fn everything_acknowledged_is_there_after_a_restart() {
    let mut control = Control::start().await;
    let mut admin = control.admin().await;
    let network = admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    admin.enter(&network).await.unwrap();
    let revision =
        admin.put(vec![admin.endpoint(&network, 1, "service1", "10.9.3.3")]).await.unwrap();
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.reach(revision).await;
    let before = watcher.view;

    control.stop().await;
    control.serve().await;
    admin.reconnect(control.address).await;
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.reach(revision).await;

    assert_eq!(watcher.view, before);
    let taken =
        admin.put(vec![admin.endpoint(&network, 2, "other", "10.9.3.3")]).await.unwrap_err();
    assert_eq!(taken.code, Code::AddressTaken);
    assert_eq!(taken.message, "10.9.3.3 is taken by service1 on admin");
}

#[tokio::test]
async fn a_name_is_its_first_holders_and_the_second_is_told() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let network = admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    admin.enter(&network).await.unwrap();
    node.enter(&network).await.unwrap();
    admin.put(vec![admin.endpoint(&network, 9, "service1", "10.9.3.3")]).await.unwrap();
    let mut late = node.endpoint(&network, 1, "Service1", "10.9.3.4");
    late.taken = vec!["nothing-of-its-own".to_owned()];
    let put = node.put(vec![late]).await.unwrap();

    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.reach(put).await;
    let taken = |id: u64| {
        let mut endpoints = watcher.view.endpoints.values();
        let row = endpoints.find(|row| row.id.as_u64() == id).unwrap();
        row.taken.iter().map(|name| name.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((taken(9), taken(1)), (vec![], vec!["service1".to_owned()]));
    let request = v1::ListEndpointsRequest { network: "my-network".to_owned() };
    let listed = admin.client.clone().list_endpoints(request).await.unwrap().into_inner();
    let problems: Vec<_> = listed.endpoints.iter().map(|row| row.problem.as_str()).collect();
    assert_eq!(
        problems,
        [
            "the name service1 belongs to service1 (000000000009) on admin: this one is found as \
             000000000001 and as service1.host2; give it another name, or an alias that both have",
            ""
        ]
    );
}

/// Invariant 11.
#[tokio::test]
async fn roles_decide_who_may_ask_what() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let mut client = node.client.clone();

    let code = |error: tonic::Status| overlay_proto::Refusal::from(error).code;
    let tokens = client.create_token(v1::CreateTokenRequest::default()).await.err().map(code);
    let list = client.list_tokens(v1::ListTokensRequest {}).await.err().map(code);
    let remove = client
        .remove_node(v1::RemoveNodeRequest { node: "admin".to_owned() })
        .await
        .err()
        .map(code);
    assert_eq!([tokens, list, remove], [Some(Code::NotAllowed); 3]);
    let seen = client.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(seen.len(), 1);

    let all =
        admin.client.clone().list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    assert_eq!(all.len(), 2);
    assert!(node.create_network("blue", "").await.is_ok());
}

#[tokio::test]
async fn listings_show_names_and_who_is_there() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let network = admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    admin.enter(&network).await.unwrap();
    let put = admin.put(vec![admin.endpoint(&network, 1, "service1", "10.9.3.3")]).await.unwrap();
    let mut watcher = admin.watch(View::default()).await.unwrap();
    watcher.reach(put).await;

    let mut client = admin.client.clone();
    let nodes = client.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
    let by_name =
        |name: &str| nodes.iter().find(|n| n.node.as_ref().unwrap().name == name).unwrap();
    assert!(
        by_name("admin").online && by_name("admin").revision == put && !by_name("host2").online
    );
    assert_eq!(by_name("admin").networks, ["my-network"]);
    let networks =
        client.list_networks(v1::ListNetworksRequest {}).await.unwrap().into_inner().networks;
    assert_eq!(
        (networks[0].members.as_slice(), networks[0].endpoints),
        (&["admin".to_owned()][..], 1)
    );
    let endpoints = client
        .list_endpoints(v1::ListEndpointsRequest { network: "my-network".to_owned() })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(endpoints.endpoints[0].node_name, "admin");

    let strange = node
        .client
        .clone()
        .list_endpoints(v1::ListEndpointsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(strange.endpoints, []);
    let hidden = node
        .client
        .clone()
        .list_networks(v1::ListNetworksRequest {})
        .await
        .unwrap()
        .into_inner()
        .networks;
    assert!(
        hidden[0].hidden && !networks[0].hidden,
        "what a node may not see is told from nothing"
    );
}

#[tokio::test]
async fn a_node_renews_and_its_request_gives_it_nothing_but_a_key() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let key = KeyPair::generate().unwrap();
    let mut asked = rcgen::CertificateParams::default();
    asked.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let foreign = format!("overlay:{}:node:{}", admin.cluster, admin.id);
    asked.subject_alt_names = vec![rcgen::SanType::URI(foreign.try_into().unwrap())];
    let csr = asked.serialize_request(&key).unwrap().der().to_vec();

    let renewed = node.client.clone().renew(v1::RenewRequest { csr }).await.unwrap().into_inner();

    let certificate = CertificateDer::from(renewed.certificate);
    let identity = overlay_proto::identity::NodeIdentity::from_certificate(&certificate).unwrap();
    assert_eq!(identity.node.to_string(), node.id);
    let mut client = connect(control.address, &node.ca, &certificate, &key).await.unwrap();
    assert!(client.list_nodes(v1::ListNodesRequest {}).await.is_ok());
    assert!(client.list_tokens(v1::ListTokensRequest {}).await.is_err());
}

#[tokio::test]
async fn a_certificate_that_ended_still_renews_and_nothing_else() {
    // A certificate that starts 1 h ago and lives 10 s expires soon enough to wait for, and a
    // renewal gives the next.
    let control = Control::start_with(|config| config.cert_ttl = Duration::from_secs(10)).await;
    let admin = control.admin().await;
    let mut watcher = admin.watch(View::default()).await.unwrap();

    let ended = watcher.end().await.expect("the watch ends with its certificate");

    assert_eq!(ended.code, Code::NotAuthenticated, "{ended}");
    let late = connect(control.address, &admin.ca, &admin.certificate, &admin.key).await.unwrap();
    let refused: overlay_proto::Refusal =
        late.clone().list_nodes(v1::ListNodesRequest {}).await.unwrap_err().into();
    assert_eq!(refused.code, Code::NotAuthenticated);
    assert!(refused.message.matches("20").count() >= 3, "both times are named: {refused}");
    let renewed =
        late.clone().renew(v1::RenewRequest { csr: csr(&admin.key) }).await.unwrap().into_inner();
    let fresh = CertificateDer::from(renewed.certificate);
    let mut client = connect(control.address, &admin.ca, &fresh, &admin.key).await.unwrap();
    assert!(client.list_nodes(v1::ListNodesRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_removed_node_is_cut_off_at_once() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let network = admin.create_network("my-network", "10.9.0.0/16").await.unwrap();
    admin.enter(&network).await.unwrap();
    node.enter(&network).await.unwrap();
    let mut of_admin = admin.watch(View::default()).await.unwrap();
    let mut of_node = node.watch(View::default()).await.unwrap();
    of_admin.step().await.unwrap();
    of_node.step().await.unwrap();
    assert_eq!(of_admin.view.nodes.len(), 2);

    let begun = std::time::Instant::now();
    let request = v1::RemoveNodeRequest { node: "host2".to_owned() };
    let revision = admin.client.clone().remove_node(request).await.unwrap().into_inner().revision;

    let end = of_node.end().await.expect("the watch ends with a reason");
    of_admin.reach(revision).await;
    assert!(begun.elapsed() < Duration::from_secs(2));
    assert_eq!(end.code, Code::NotAllowed, "{end}");
    assert_eq!((of_admin.view.nodes.len(), of_admin.view.members.len()), (1, 1));
    let mut again = connect(control.address, &node.ca, &node.certificate, &node.key).await.unwrap();
    for refused in [
        again.list_nodes(v1::ListNodesRequest {}).await.err(),
        again.renew(v1::RenewRequest { csr: csr(&node.key) }).await.err(),
        again.watch(v1::WatchRequest::default()).await.err(),
    ] {
        assert_eq!(overlay_proto::Refusal::from(refused.unwrap()).code, Code::NotAllowed);
    }
    let other: Node = control.node(&admin, "host2").await;
    assert_ne!(other.id, node.id);
}

#[tokio::test]
async fn a_prefix_in_use_on_a_host_is_refused_by_name() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let announce = v1::AnnounceRequest {
        underlay: vec!["192.0.2.1".to_owned()],
        lane_ports: vec![51820],
        routes: vec!["172.18.0.0/16 docker_gwbridge".to_owned(), "192.0.2.0/24".to_owned()],
        version: "0.1.0".to_owned(),
        differences: Vec::new(),
    };
    let first =
        admin.client.clone().announce(announce.clone()).await.unwrap().into_inner().revision;
    let again = admin.client.clone().announce(announce).await.unwrap().into_inner().revision;
    assert_eq!(first, again, "saying the same twice changes nothing");

    let refused = admin.create_network("blue", "172.18.0.0/16").await.unwrap_err();

    assert_eq!(refused.code, Code::AddressTaken);
    assert!(refused.message.contains("node admin by docker_gwbridge"), "{refused}");
}

#[tokio::test]
async fn where_a_network_differs_everybody_reads() {
    let control = Control::start().await;
    let admin = control.admin().await;
    admin.create_network("blue", "10.9.0.0/16").await.expect("made");
    let difference = |network: &str, reason: &str| v1::Difference {
        network: network.into(),
        reason: reason.into(),
    };
    let announce = |differences| v1::AnnounceRequest { differences, ..Default::default() };
    let told = vec![
        difference("blue", "a bridge network of that name is there"),
        difference("red", "unknown"),
    ];

    admin.client.clone().announce(announce(told)).await.expect("announced");

    let networks = admin
        .client
        .clone()
        .list_networks(v1::ListNetworksRequest {})
        .await
        .expect("a list")
        .into_inner();
    let expected = v1::HostDifference {
        node: "admin".into(),
        reason: "a bridge network of that name is there".into(),
    };
    assert_eq!(networks.networks[0].differences, [expected]);
    let control =
        admin.client.clone().announce(announce(vec![difference("blue", "two\nlines")])).await;
    assert!(control.is_err(), "lines of a list are never a node's to write");
}

#[tokio::test]
async fn a_node_that_looks_dead_loses_nothing() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let network = admin.create_network("blue", "10.9.0.0/16").await.expect("made");
    admin.enter(&network).await.expect("entered");
    let mut watcher = admin.watch(View::default()).await.expect("a watch");
    let revision =
        admin.put(vec![admin.endpoint(&network, 1, "service1", "10.9.3.3")]).await.expect("put");
    watcher.reach(revision).await;
    let before = watcher.view.clone();

    // Its connection breaks, as seen by control.
    drop(watcher);
    let offline = async {
        loop {
            let nodes = admin
                .client
                .clone()
                .list_nodes(v1::ListNodesRequest {})
                .await
                .expect("a list")
                .into_inner();
            if nodes.nodes.iter().all(|node| !node.online) {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), offline).await.expect("it looks dead");

    let mut watcher = admin.watch(View::default()).await.expect("a watch");
    watcher.step().await.expect("a snapshot");
    assert_eq!(watcher.view.endpoints, before.endpoints);
    assert_eq!(watcher.view.members, before.members);
}
