use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;

use overlay_core::{
    Change, ClusterId, Endpoint, Node, NodeId, Revision, Role, RowKey, Runtime, Stamp,
};
use zeroize::Zeroizing;

use super::super::record::SandboxRecord;
use super::*;

fn identity() -> Identity {
    Identity {
        cluster: ClusterId::from_random(1),
        node: NodeId::from_random(2),
        name: "host1".parse().expect("a name"),
        role: Role::Node,
        control: vec!["192.0.2.1:7443".into()],
        advertise: Vec::new(),
        pool: overlay_core::pool::DEFAULT_POOL,
        certificate: vec![1; 300],
        ca: vec![2; 300],
        key: Zeroizing::new(vec![3; 120]),
    }
}

fn node(n: u64) -> Change {
    Change::Node(Node {
        id: NodeId::from_random(n),
        name: format!("node{n}").parse().expect("a name"),
        role: Role::Node,
        labels: BTreeMap::new(),
        underlay: vec!["192.0.2.7".parse().expect("an address")],
        lane_ports: vec![51820],
    })
}

fn record() -> EndpointRecord {
    EndpointRecord {
        endpoint: Endpoint {
            id: EndpointId::from_random(5),
            network: NetworkId::from_random(6),
            node: NodeId::from_random(2),
            name: "web".parse().expect("a name"),
            aliases: BTreeSet::new(),
            addresses: vec!["10.0.0.9".parse().expect("an address")],
            labels: BTreeMap::new(),
            runtime: Runtime::Attach,
            group: None,
            container: None,
            taken: BTreeSet::new(),
        },
        sandbox: SandboxRecord::Netns {
            path: "/run/netns/x".into(),
            device: 4,
            inode: 4_026_532_000,
            boot: "b".into(),
        },
        ifname: "eth0".into(),
        owner: None,
    }
}

fn filled(path: &Path) {
    let (store, _) = StateStore::open(path).expect("a new file");
    store.put_identity(&identity()).expect("kept");
    store.put_view(&View::from_rows(Revision(3), (1..40).map(node))).expect("kept");
    store.put_endpoint(&record(), Some(Ipv4Addr::new(10, 0, 0, 9))).expect("kept");
    store.put_keys(record().endpoint.network, &[[7; 32].into(), [8; 32].into()]).expect("kept");
    store.put_clocks(1_800_000_000, None).expect("kept");
}

#[test]
fn what_was_kept_is_found_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.redb");
    filled(&path);

    let (_, loaded) = StateStore::open(&path).expect("the same file");

    let found = loaded.identity.expect("an identity");
    assert_eq!((found.node, found.certificate, found.key), {
        let kept = identity();
        (kept.node, kept.certificate, kept.key)
    });
    assert_eq!(loaded.view, View::from_rows(Revision(3), (1..40).map(node)));
    assert_eq!(loaded.endpoints.into_values().collect::<Vec<_>>(), [record()]);
    assert_eq!(loaded.keys[&record().endpoint.network][&1].expose(), &[8; 32]);
    assert_eq!(loaded.cursors[&record().endpoint.network], Ipv4Addr::new(10, 0, 0, 9));
    assert_eq!(loaded.unix_time, 1_800_000_000);
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_delta_moves_the_kept_view() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.redb");
    let (store, _) = StateStore::open(&path).expect("a new file");
    store.put_view(&View::from_rows(Revision(3), [node(1), node(2)])).expect("kept");

    let changes = vec![Change::Removed(RowKey::Node(NodeId::from_random(1))), node(3)];
    store
        .put_delta(&Delta {
            from: Revision(3),
            to: Revision(5),
            changes,
            put_out: Vec::new(),
            stamp: None,
        })
        .expect("kept");

    drop(store);
    let (_, loaded) = StateStore::open(&path).expect("the same file");
    assert_eq!(loaded.view, View::from_rows(Revision(5), [node(2), node(3)]));
}

#[test]
fn the_history_of_the_kept_view_is_kept_with_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.redb");
    let stamp = |n| Some(Stamp { lineage: [n; 16].into(), mark: Some([n; 32].into()) });
    let (store, loaded) = StateStore::open(&path).expect("a new file");
    assert_eq!(loaded.view.stamp, None);
    let view = View { stamp: stamp(1), ..View::from_rows(Revision(3), [node(1)]) };
    store.put_view(&view).expect("kept");
    let lost = [(NetworkId::FIRST, "Shop".to_owned())].into();
    store.put_lost_networks(&lost).expect("kept");
    let changes = vec![node(2)];
    let delta =
        Delta { from: Revision(3), to: Revision(4), changes, put_out: Vec::new(), stamp: stamp(2) };
    store.put_delta(&delta).expect("kept");

    drop(store);
    let (_, loaded) = StateStore::open(&path).expect("the same file");

    assert_eq!((loaded.view.revision, loaded.view.stamp), (Revision(4), stamp(2)));
    assert_eq!(loaded.lost_networks, lost);
}

#[test]
fn a_wiped_file_holds_no_secret() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.redb");
    let (store, _) = StateStore::open(&path).expect("a new file");
    store.put_keys(NetworkId::from_random(1), &[[0xA7; 32].into()]).expect("kept");

    store.wipe().expect("wiped");

    let bytes = std::fs::read(&path).expect("there");
    assert!(!bytes.windows(32).any(|window| window == [0xA7; 32]));
    store.put_clocks(1, None).expect("still usable");
}

#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn a_full_disk_is_named_nothing_is_lost_and_it_goes_on_when_there_is_room() {
    let Some(small) = disk::testing::SmallDisk::mount(4 << 20) else {
        return eprintln!("SKIPPED: a small disk needs root");
    };
    let path = small.path().join("agent.redb");
    filled(&path);
    let (store, _) = StateStore::open(&path).expect("the same file");
    small.fill().expect("filled");

    let mut kept = 3;
    let refused = (kept + 1..).find_map(|seconds| match store.put_view(&many_nodes(seconds)) {
        Ok(()) => {
            kept = seconds;
            None
        }
        Err(error) => Some(error),
    });

    let text = refused.expect("there is no room").to_string();
    let expected = format!(
        "{} cannot be written: the disk mounted on {} is full",
        path.display(),
        small.path().display()
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(store.condition().is_some_and(|condition| condition.text == text));
    assert!(store.put_view(&many_nodes(0)).is_err(), "there still is none");
    small.make_room().expect("room");
    store.put_clocks(7, None).expect("there is room");
    assert_eq!(store.condition(), None);
    drop(store);
    let (_, loaded) = StateStore::open(&path).expect("the same file");
    assert_eq!((loaded.unix_time, loaded.view.revision), (7, Revision(kept)));
    assert_eq!(loaded.endpoints.into_values().collect::<Vec<_>>(), [record()]);
}

/// A view of some hundred KiB.
fn many_nodes(revision: u64) -> View {
    View::from_rows(Revision(revision), (1..2_000).map(node))
}

#[test]
fn a_truncated_file_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.redb");
    filled(&path);
    let whole = std::fs::read(&path).expect("there");

    for len in [0, 1, 64, 320, 4096, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&path, &whole[..len]).expect("written");

        let error = StateStore::open(&path).expect_err("damaged").to_string();

        assert!(error.contains("agent.redb is damaged"), "{len}: {error}");
    }
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.redb");
    filled(&path);
    let whole = std::fs::read(&path).expect("there");
    let mut refused = 0;

    for at in (0..whole.len()).step_by(whole.len() / 150) {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        std::fs::write(&path, &bytes).expect("written");

        match StateStore::open(&path) {
            Ok((_, loaded)) => {
                assert!(loaded.identity.is_some(), "{at}");
                assert_eq!(loaded.endpoints.len(), 1, "{at}");
                assert_eq!(loaded.view, View::from_rows(Revision(3), (1..40).map(node)), "{at}");
            }
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains("agent.redb"), "{at}: {error}");
            }
        }
    }

    assert!(refused > 0);
}

#[test]
fn a_closed_store_keeps_nothing_until_it_is_opened_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("agent.redb");
    let (store, _) = StateStore::open(&path).expect("a new file");

    store.close();
    assert!(matches!(store.put_clocks(1, None), Err(StateError::Closed { .. })));
    let (other, _) = StateStore::open(&path).expect("nobody has it");
    other.put_clocks(2, None).expect("kept");
    drop(other);
    let loaded = store.reopen().expect("nobody has it");

    assert_eq!(loaded.unix_time, 2);
    store.put_clocks(3, None).expect("kept");
    assert!(store.condition().is_none());
}
