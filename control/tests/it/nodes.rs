//! The life of nodes, networks and endpoints.

use overlay_core::View;

use crate::harness::Control;

#[tokio::test]
async fn a_node_joins_watches_and_sees_what_it_is_a_member_of() {
    let control = Control::start().await;
    let admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    let network = admin.create_network("my-network", "").await.unwrap();
    let mut watcher = node.watch(View::default()).await.unwrap();
    watcher.step().await.unwrap();
    assert_eq!((watcher.view.networks.len(), watcher.view.nodes.len(), watcher.view.members.len()), (1, 1, 0));

    let member = admin.enter(&network).await.unwrap();
    let revision = admin.put(vec![admin.endpoint(&network, 1, "service1", "10.64.255.2")]).await.unwrap();
    let mine = node.enter(&network).await.unwrap();
    assert_eq!(
        (member.blocks[0].prefix.as_str(), mine.blocks[0].prefix.as_str()),
        ("10.64.255.0/24", "10.64.254.0/24")
    );
    watcher.reach(revision + 1).await;

    assert_eq!((watcher.view.nodes.len(), watcher.view.members.len(), watcher.view.endpoints.len()), (2, 2, 1));
    assert_eq!(watcher.snapshots, 1);
}
