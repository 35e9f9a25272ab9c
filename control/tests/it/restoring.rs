//! Control goes back to an earlier state: restored from a backup, or copied by hand.

use overlay_control::{RestoreConfig, back_up, restore};
use overlay_core::View;
use overlay_proto::{Code, Refusal, convert, v1};

use crate::harness::{Control, Node, Watcher};

/// What a node knows and runs.
fn report(view: &View, id: &str, endpoints: Vec<v1::ReportedEndpoint>) -> v1::ReportRequest {
    let (lineage, _) = convert::stamp_fields(view.stamp);
    let own = |member: &&overlay_core::Member| member.node.to_string() == id;

    v1::ReportRequest {
        lineage,
        revision: view.revision.0,
        members: view.members.values().filter(own).cloned().map(Into::into).collect(),
        endpoints,
    }
}

async fn synced(node: &Node, view: View) -> Result<Watcher, Refusal> {
    let mut watcher = node.watch(view).await?;
    watcher.step().await?;

    Ok(watcher)
}

#[tokio::test]
async fn after_a_restore_every_node_reports_before_it_hears_anything_and_none_goes_on_by_delta() {
    let mut control = Control::start().await;
    let mut admin = control.admin().await;
    let mut other = control.node(&admin, "host2").await;
    let network = admin.create_network("net", "10.9.0.0/24").await.unwrap();
    admin.enter(&network).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");

    // While it runs.
    let state = control.state().to_owned();
    let (from, to) = (state.clone(), file.clone());
    let made = tokio::task::spawn_blocking(move || back_up(&from, &to, false)).await.unwrap();
    assert_eq!(made.unwrap().nodes, 2);
    let lost = control.node(&admin, "host3").await;
    let given = other.enter(&network).await.unwrap();
    let ghost = admin.create_network("ghost", "10.8.0.0/24").await.unwrap();
    let view = synced(&other, View::default()).await.unwrap().view;
    let admins = synced(&admin, View::default()).await.unwrap().view;
    control.stop().await;
    let config = RestoreConfig { keep_old: true, ..RestoreConfig::new(&file, &state) };
    let summary = restore(&config).unwrap();
    std::fs::remove_dir_all(summary.old.unwrap()).unwrap();
    let told = summary.lost.unwrap().join("\n");
    assert!(
        told.contains("must join again: host3") && told.contains("made since: ghost"),
        "{told}"
    );
    control.serve().await;
    for node in [&mut admin, &mut other] {
        node.reconnect(control.address).await;
    }

    let refused = synced(&admin, admins.clone()).await.err().expect("it has to report first");
    assert_eq!(refused.code, Code::ReportWanted);
    admin.client.clone().report(report(&admins, &admin.id, Vec::new())).await.unwrap();
    let watcher = synced(&admin, admins.clone()).await.unwrap();
    assert_eq!((watcher.snapshots, watcher.deltas), (1, 0));
    assert_ne!(watcher.view.lineage(), admins.lineage());
    assert!(!watcher.view.networks.values().any(|row| row.name.as_str() == "ghost"));
    // The node that joined later is told what to do, and the block of the other one is not given.
    let mut lost = lost;
    lost.reconnect(control.address).await;
    let stranger = synced(&lost, View::default()).await.err().expect("nobody knows it");
    assert!(stranger.message.contains("join again"), "{stranger}");
    let fenced = v1::EnterNetworkRequest {
        network: network.id.clone(),
        lane_keys: vec![vec![5; 32]],
        blocks: 2,
    };
    assert!(admin.client.clone().enter_network(fenced).await.is_err());

    other.client.clone().report(report(&view, &other.id, Vec::new())).await.unwrap();
    let mut watcher = synced(&other, view).await.unwrap();
    let own = watcher.view.members.values().find(|row| row.node.to_string() == other.id).unwrap();
    assert_eq!(own.blocks[0].prefix.to_string(), given.blocks[0].prefix);
    // A second restart changes nothing: there is one history.
    let view = watcher.view.clone();
    drop(watcher);
    control.stop().await;
    control.serve().await;
    other.reconnect(control.address).await;
    watcher = synced(&other, view).await.unwrap();
    assert_eq!(watcher.snapshots, 0);
    drop(ghost);
}

/// Somebody copies the state directory, and puts the copy back later without `restore`.
#[tokio::test]
async fn a_state_that_was_copied_back_by_hand_is_noticed_by_the_first_node_that_knows_better() {
    for goes_past in [false, true] {
        let mut control = Control::start().await;
        let mut admin = control.admin().await;
        let folder = tempfile::tempdir().unwrap();
        control.stop().await;
        let (state, copy) = (control.state().join("control.redb"), folder.path().join("copy"));
        std::fs::copy(&state, &copy).unwrap();
        control.serve().await;
        admin.reconnect(control.address).await;
        admin.create_network("ghost", "10.8.0.0/24").await.unwrap();
        let view = synced(&admin, View::default()).await.unwrap().view;

        control.stop().await;
        std::fs::copy(&copy, &state).unwrap();
        control.serve().await;
        admin.reconnect(control.address).await;
        if goes_past {
            // The same revision, made by another change, and one more.
            admin.create_network("other", "10.8.0.0/24").await.unwrap();
            admin.create_network("more", "10.7.0.0/24").await.unwrap();
        }

        let refused = synced(&admin, view.clone()).await.err().expect("the history begins anew");
        assert_eq!(refused.code, Code::ReportWanted, "{refused}");
        admin.client.clone().report(report(&view, &admin.id, Vec::new())).await.unwrap();
        let watcher = synced(&admin, view.clone()).await.unwrap();
        let ghosts = watcher.view.networks.values().filter(|row| row.name.as_str() == "ghost");
        assert_eq!((watcher.snapshots, ghosts.count()), (1, 0));
        assert_ne!(watcher.view.lineage(), view.lineage());
    }
}

/// Nodes hear while it lasts that others have still to report.
#[tokio::test]
async fn a_fence_is_told_to_every_node_while_it_lasts() {
    let mut control = Control::start().await;
    let mut admin = control.admin().await;
    let node = control.node(&admin, "host2").await;
    control.stop().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup");
    back_up(control.state(), &file, false).unwrap();
    let state = control.state().to_owned();
    let config = RestoreConfig { keep_old: true, ..RestoreConfig::new(&file, &state) };
    std::fs::remove_dir_all(restore(&config).unwrap().old.unwrap()).unwrap();
    control.serve().await;
    admin.reconnect(control.address).await;

    let empty = View::default();
    admin.client.clone().report(report(&empty, &admin.id, Vec::new())).await.unwrap();
    let mut watcher = admin.watch(empty).await.unwrap();
    let waits = "it waits for host2, or until 20";
    while !watcher.alive.problems.iter().any(|problem| problem.text.contains(waits)) {
        watcher.step().await.unwrap();
    }
    let told = watcher.alive.problems[0].clone();
    let tokens = admin.client.clone().list_tokens(v1::ListTokensRequest {}).await.unwrap();
    admin
        .client
        .clone()
        .remove_node(v1::RemoveNodeRequest { node: node.id.clone() })
        .await
        .unwrap();
    while !watcher.alive.problems.is_empty() {
        watcher.step().await.unwrap();
    }

    assert_eq!(told.code, "restored");
    assert!(tokens.into_inner().tokens.iter().all(|token| token.fenced));
}
