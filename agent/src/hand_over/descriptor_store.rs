//! Descriptors by name that outlive whoever uses them, while the agent is handed over.
//!
//! Whoever opens a socket or a TUN queue keeps it here for as long as it is used. Once the store is
//! sealed, what is used no longer stays: the next session finds it, in this process or in the next
//! one.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Descriptors, and what must be known of them.
#[derive(Debug)]
pub(crate) struct SharedDescriptors {
    /// The descriptors.
    pub(crate) list: Vec<OwnedFd>,
    /// What must be known of them; whoever keeps them says what that means.
    pub(crate) note: String,
}

/// Something of which descriptors can be given away.
pub(crate) trait Share: Send + Sync + 'static {
    /// Returns further descriptors of the same files.
    ///
    /// # Errors
    ///
    /// When the process may have no more.
    fn share(&self) -> io::Result<SharedDescriptors>;
}

impl Share for SharedDescriptors {
    fn share(&self) -> io::Result<Self> {
        let list = self.list.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>()?;

        Ok(Self { list, note: self.note.clone() })
    }
}

/// The store. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct DescriptorStore(Arc<Mutex<Contents>>);

#[derive(Default)]
struct Contents {
    /// In use.
    kept: BTreeMap<String, Arc<dyn Share>>,
    /// Of an earlier session.
    earlier: BTreeMap<String, Arc<dyn Share>>,
    is_sealed: bool,
    /// What goes on until the end, though whoever had it is gone.
    lingering: Vec<Box<dyn Any + Send>>,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Contents")
            .field("kept", &self.kept.keys())
            .field("earlier", &self.earlier.keys())
            .finish()
    }
}

impl DescriptorStore {
    /// Keeps descriptors for as long as they are used, in place of others of this name.
    pub(crate) fn keep(&self, name: &str, shared: Arc<impl Share>) -> Kept {
        let shared: Arc<dyn Share> = shared;
        self.contents().kept.insert(name.to_owned(), Arc::clone(&shared));

        Kept { store: self.clone(), name: name.to_owned(), shared }
    }

    /// Takes what an earlier session had under this name.
    pub(crate) fn take(&self, name: &str) -> Option<SharedDescriptors> {
        let earlier = self.contents().earlier.remove(name)?;

        earlier.share().ok()
    }

    /// Receives what another process had under this name.
    pub(crate) fn receive(&self, name: String, descriptors: SharedDescriptors) {
        self.contents().earlier.insert(name, Arc::new(descriptors));
    }

    /// Closes what an earlier session had under names that begin so, unless it is still wanted.
    pub(crate) fn forget(&self, prefix: &str, is_wanted: impl Fn(&str) -> bool) {
        self.contents().earlier.retain(|name, _| !name.starts_with(prefix) || is_wanted(name));
    }

    /// Has everything stay from now on.
    pub(crate) fn seal(&self) {
        self.contents().is_sealed = true;
    }

    /// Ends that, and whatever lingered because of it.
    pub(crate) fn unseal(&self) {
        let lingering = {
            let mut contents = self.contents();
            contents.is_sealed = false;
            std::mem::take(&mut contents.lingering)
        };
        drop(lingering);
    }

    /// Lists everything, by name.
    ///
    /// # Errors
    ///
    /// When the process may have no more descriptors.
    pub(crate) fn list(&self) -> io::Result<Vec<(String, SharedDescriptors)>> {
        let contents = self.contents();
        let all = contents.earlier.iter().chain(&contents.kept);

        all.map(|(name, shared)| Ok((name.clone(), shared.share()?))).collect()
    }

    /// Has a value go on for as long as the store is sealed, even if whoever has it is gone.
    pub(crate) fn lingering<T: Send + 'static>(&self, value: T) -> Lingering<T> {
        Lingering { store: self.clone(), value: Some(value) }
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        // Nothing that could panic runs under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Descriptors that are kept until this is dropped.
pub(crate) struct Kept {
    store: DescriptorStore,
    name: String,
    shared: Arc<dyn Share>,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kept({})", self.name)
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let mut contents = self.store.contents();
        // Somebody may keep others under this name by now.
        let is_ours =
            contents.kept.get(&self.name).is_some_and(|kept| Arc::ptr_eq(kept, &self.shared));
        if is_ours
            && let Some(shared) = contents.kept.remove(&self.name)
            && contents.is_sealed
        {
            contents.earlier.insert(std::mem::take(&mut self.name), shared);
        }
    }
}

/// A value that goes on while the store is sealed, even if this is dropped.
#[derive(Debug)]
pub(crate) struct Lingering<T: Send + 'static> {
    store: DescriptorStore,
    /// Absent only while this is dropped.
    value: Option<T>,
}

impl<T: Send + 'static> Deref for Lingering<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it is taken only by drop")
    }
}

impl<T: Send + 'static> DerefMut for Lingering<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("it is taken only by drop")
    }
}

impl<T: Send + 'static> Drop for Lingering<T> {
    fn drop(&mut self) {
        let mut contents = self.store.contents();
        if contents.is_sealed
            && let Some(value) = self.value.take()
        {
            contents.lingering.push(Box::new(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn null(note: &str) -> Arc<SharedDescriptors> {
        Arc::new(SharedDescriptors {
            list: vec![File::open("/dev/null").expect("there").into()],
            note: note.to_owned(),
        })
    }

    fn names(store: &DescriptorStore) -> Vec<String> {
        store.list().expect("descriptors").into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn what_is_used_no_longer_is_closed_unless_the_store_is_sealed() {
        let store = DescriptorStore::default();
        drop(store.keep("a", null("1")));
        assert!(names(&store).is_empty());

        let kept = store.keep("a", null("2"));
        store.seal();
        drop(kept);

        assert_eq!(names(&store), ["a"]);
        let taken = store.take("a").expect("it stayed");
        assert_eq!((taken.list.len(), taken.note.as_str()), (1, "2"));
        assert!(store.take("a").is_none());
    }

    #[test]
    fn what_is_still_used_is_given_as_well_and_stays_in_use() {
        let store = DescriptorStore::default();
        let _kept = store.keep("a", null("1"));
        store.seal();
        store.unseal();

        assert_eq!(names(&store), ["a"]);
        assert!(store.take("a").is_none());
    }

    #[test]
    fn others_of_the_same_name_take_the_place_of_the_first() {
        let store = DescriptorStore::default();
        let first = store.keep("a", null("1"));
        let second = store.keep("a", null("2"));
        drop(first);

        assert_eq!(store.list().expect("descriptors")[0].1.note, "2");
        drop(second);
        assert!(names(&store).is_empty());
    }

    #[test]
    fn what_nobody_wants_is_forgotten() {
        let store = DescriptorStore::default();
        for name in ["tun/1", "tun/2", "dns/1"] {
            store.receive(
                name.to_owned(),
                SharedDescriptors { list: Vec::new(), note: String::new() },
            );
        }

        store.forget("tun/", |name| name == "tun/2");

        assert_eq!(names(&store), ["dns/1", "tun/2"]);
    }

    #[test]
    fn a_value_lingers_while_the_store_is_sealed() {
        struct Flag(Arc<AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (store, gone) = (DescriptorStore::default(), Arc::new(AtomicBool::new(false)));
        let is_gone = || gone.swap(false, Ordering::Relaxed);
        drop(store.lingering(Flag(Arc::clone(&gone))));
        assert!(is_gone());

        let value = store.lingering(Flag(Arc::clone(&gone)));
        store.seal();
        drop(value);
        assert!(!is_gone());

        store.unseal();
        assert!(is_gone());
    }
}
