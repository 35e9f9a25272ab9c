use std::time::Duration;

use overlay_core::Change;
use overlay_core::{ClusterId, Delta, Node, NodeId, Revision, Revocation, Role, View};
use rcgen::{CertificateParams, KeyPair, SigningKey as _};
use tokio::time::timeout;

use super::*;
use crate::hand_over::DescriptorStore;
use crate::membership::address_book::AddressBook;
use crate::membership::control_link::ProcessContext;

const ME: NodeId = NodeId::FIRST;

fn other(n: u64) -> NodeId {
    NodeId::from_random(n)
}

/// An authority, and who this node is in its cluster.
fn authority() -> (KeyPair, Identity) {
    let key = KeyPair::generate().expect("a key");
    let ca = CertificateParams::default().self_signed(&key).expect("a certificate");
    let who = Identity {
        pool: overlay_core::pool::DEFAULT_POOL,
        cluster: ClusterId::FIRST,
        node: ME,
        name: "host1".parse().expect("a name"),
        role: Role::Node,
        control: Vec::new(),
        advertise: Vec::new(),
        certificate: Vec::new(),
        ca: ca.der().to_vec(),
        key: Vec::new().into(),
    };

    (key, who)
}

fn revocation(key: &KeyPair, node: NodeId) -> Arc<[u8]> {
    let name = format!("n{}", node.as_u64()).parse().expect("a name");
    let revocation = Revocation { node, name, at: 1_800_000_000, by: None };
    let sign = |bytes: &[u8]| key.sign(bytes);
    let signed = SignedRevocation::sign(ClusterId::FIRST, revocation, sign).expect("signed");

    Arc::clone(signed.bytes())
}

fn node(id: NodeId) -> Change {
    Change::Node(Node {
        id,
        name: format!("n{}", id.as_u64()).parse().expect("a name"),
        role: Role::Node,
        labels: BTreeMap::new(),
        underlay: Vec::new(),
        lane_ports: Vec::new(),
    })
}

fn membership(nodes: &[NodeId]) -> watch::Sender<Membership> {
    let view = View::from_rows(Revision(1), nodes.iter().map(|id| node(*id)));

    watch::Sender::new(Membership::kept(view))
}

#[test]
fn whoever_is_revoked_is_in_no_view_whatever_control_says_later() {
    let (key, who) = authority();
    let known = membership(&[ME, other(2), other(3)]);

    assert_eq!(learn(&known, &who, &revocation(&key, other(2))), Ok(None));

    let is_there = |known: &watch::Sender<Membership>| {
        [ME, other(2), other(3)].map(|id| known.borrow().view.nodes.contains_key(&id))
    };
    assert_eq!(is_there(&known), [true, false, true]);
    let delta = Delta {
        from: Revision(1),
        to: Revision(2),
        changes: vec![node(other(2))],
        put_out: Vec::new(),
        stamp: None,
    };
    known.send_modify(|known| known.go_on(delta, ME).expect("it follows"));
    assert_eq!(is_there(&known), [true, false, true]);
    let whole = View::from_rows(Revision(9), [ME, other(2), other(3)].map(node));
    known.send_modify(|known| known.begin_anew(whole, ME));
    assert_eq!(is_there(&known), [true, false, true], "a control restored from a backup");
}

#[test]
fn what_the_authority_did_not_sign_changes_nothing() {
    let ((key, who), (stranger, _)) = (authority(), authority());
    let known = membership(&[ME, other(2)]);
    let sound = revocation(&key, other(2));
    let mut changed = sound.to_vec();
    changed[20] ^= 1;
    let before = known.borrow().clone();

    for bad in [&revocation(&stranger, other(2))[..], &sound[..40], &changed, &[], &[7; 600]] {
        assert!(learn(&known, &who, bad).is_err());
        assert_eq!(*known.borrow(), before);
    }
    learn(&known, &who, &sound).expect("it is sound");
    let after = known.borrow().clone();
    learn(&known, &who, &sound).expect("again");
    assert_eq!(*known.borrow(), after, "a replay");
}

#[tokio::test]
async fn a_node_that_hears_of_its_own_removal_says_by_whom_and_when() {
    let (key, who) = authority();
    let known = membership(&[ME, other(2)]);
    let (notices, _) = broadcast::channel(8);
    let store = tempfile::tempdir().expect("a directory");
    let (store, _) = StateStore::open(&store.path().join("agent.redb")).expect("a store");
    let process = ProcessContext {
        instance: "i".into(),
        descriptors: DescriptorStore::default(),
        tunnels: watch::channel(BTreeMap::new()).1,
        notices: notices.clone(),
    };
    let contact = crate::membership::contact::Contact::new(None, "", Duration::ZERO);
    let addresses = AddressBook::new(store, Default::default());
    let control = ControlLink::new(who, addresses, contact, process);
    let tell = async {
        while notices.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
        for notice in [Arc::from([7; 9].as_slice()), revocation(&key, ME)] {
            notices.send(notice).expect("somebody listens");
        }
    };

    let (reason, ()) =
        tokio::join!(timeout(Duration::from_secs(5), run(&known, &control, &notices)), tell);

    let reason = reason.expect("in time");
    assert_eq!(
        reason,
        "node n1 (000000000001) was removed by the operator of control at 2027-01-15T08:00:00Z"
    );
    let again = timeout(Duration::from_secs(5), run(&known, &control, &notices)).await;
    assert_eq!(again.as_deref(), Ok(reason.as_str()), "after a restart");
}

#[tokio::test]
async fn what_is_known_is_on_disk_and_read_again() {
    let (key, who) = authority();
    let known = membership(&[ME, other(2)]);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("agent.redb");
    let (store, loaded) = StateStore::open(&path).expect("a store");
    assert!(loaded.revocations.is_empty());
    let bytes = revocation(&key, other(2));
    let keeping = tokio::spawn({
        let (receiver, store) = (known.subscribe(), store.clone());
        async move { keep(receiver, &store).await }
    });
    tokio::task::yield_now().await;

    learn(&known, &who, &bytes).expect("it is sound");
    drop(known);
    timeout(Duration::from_secs(5), keeping).await.expect("in time").expect("kept");

    drop(store);
    let (_, loaded) = StateStore::open(&path).expect("a store");
    assert_eq!(loaded.revocations, [bytes.to_vec()]);
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
}
