//! Where this node looks for control: what it heard, kept on disk, so that it finds control after a
//! restart, too.

use overlay_core::NodeId;
use overlay_proto::join_line::{MAX_ADDRESSES, is_address};
use overlay_proto::v1;
use tokio::sync::watch;

use crate::state::{KnownControl, StateStore, StoreFailure, in_store};

/// Nodes on control's host that are remembered at the most.
const MAX_NODES: usize = 8;

/// What is known, and where it is kept.
#[derive(Debug)]
pub(crate) struct AddressBook {
    known: watch::Sender<KnownControl>,
    store: StateStore,
}

impl AddressBook {
    /// Begins with what was kept.
    pub(crate) fn new(store: StateStore, known: KnownControl) -> Self {
        Self { known: watch::Sender::new(known), store }
    }

    /// Returns what is known.
    pub(crate) fn known(&self) -> KnownControl {
        self.known.borrow().clone()
    }

    /// Takes note of what control says of itself. What is no address is passed over, and nothing
    /// never replaces something.
    ///
    /// # Errors
    ///
    /// When it cannot be kept; it is in use all the same. The same holds for the methods below.
    pub(crate) async fn heard(&self, place: &v1::ControlPlace) -> Result<(), StoreFailure> {
        let addresses =
            place.addresses.iter().filter(|address| is_address(address)).take(MAX_ADDRESSES);
        let announced: Vec<_> = addresses.cloned().collect();
        let nodes: Vec<NodeId> =
            place.nodes.iter().filter_map(|id| id.parse().ok()).take(MAX_NODES).collect();

        self.change(|known| {
            if !announced.is_empty() {
                known.announced = announced;
            }
            known.nodes = nodes;
        })
        .await
    }

    /// Takes note that control answered at an address.
    pub(crate) async fn answered(&self, address: &str) -> Result<(), StoreFailure> {
        self.change(|known| known.last = Some(address.to_owned())).await
    }

    /// Takes what a person says, in place of what was said before; it is tried first.
    pub(crate) async fn set(&self, addresses: Vec<String>) -> Result<(), StoreFailure> {
        self.change(|known| {
            known.last = addresses.first().cloned();
            known.set = addresses;
        })
        .await
    }

    async fn change(&self, change: impl FnOnce(&mut KnownControl)) -> Result<(), StoreFailure> {
        let changed = self.known.send_if_modified(|known| {
            let before = known.clone();
            change(known);
            *known != before
        });
        if !changed {
            return Ok(());
        }
        let kept = self.known();

        in_store(&self.store, move |store| store.put_control(&kept)).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_heard_and_said_is_there_after_a_restart() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("agent.redb");
        let (store, loaded) = StateStore::open(&path).expect("a new file");
        let book = AddressBook::new(store, loaded.control);
        let place = |addresses: &[&str], nodes: &[String]| v1::ControlPlace {
            addresses: addresses.iter().map(ToString::to_string).collect(),
            nodes: nodes.to_vec(),
        };

        book.heard(&place(&["192.0.2.1:7443", "junk"], &[NodeId::FIRST.to_string(), "x".into()]))
            .await
            .expect("kept");
        book.answered("192.0.2.1:7443").await.expect("kept");
        book.heard(&place(&[], &[NodeId::FIRST.to_string()])).await.expect("kept");
        book.set(vec!["192.0.2.9:7443".into()]).await.expect("kept");
        let known = book.known();
        drop(book);

        let (_, loaded) = StateStore::open(&path).expect("the same file");
        assert_eq!(loaded.control, known);
        assert_eq!(known.announced, ["192.0.2.1:7443"]);
        assert_eq!(known.nodes, [NodeId::FIRST]);
        assert_eq!(
            (known.set, known.last),
            (vec!["192.0.2.9:7443".into()], Some("192.0.2.9:7443".into()))
        );
    }
}
