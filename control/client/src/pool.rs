//! Shares decoded objects between informers of several targets. Each write has a revision of its own, so that kind and revision identify the
//! state of an object.

use crate::Cached;
use parking_lot::Mutex;
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Weak},
};

/// The objects of one type, by revision. Bounded by what the informers of that type hold.
pub(crate) struct Pool<K>(Mutex<HashMap<u64, Weak<K>>>);

impl<K> Default for Pool<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Cached> Pool<K> {
    /// The same object in the same state from another informer, if there is one; else this one, which is shared from now on.
    pub(crate) fn share(&self, object: K) -> Arc<K> {
        let object = Arc::new(object);
        let Some(revision) = object.revision().filter(|_| K::TYPED) else { return object };
        match self.0.lock().entry(revision) {
            Entry::Vacant(place) => drop(place.insert(Arc::downgrade(&object))),
            Entry::Occupied(mut place) => {
                if let Some(known) = place.get().upgrade().filter(|known| known.uid() == object.uid()) {
                    return known;
                }
                place.insert(Arc::downgrade(&object));
            }
        }
        object
    }

    /// Removes the entry of an object that an informer drops, because a weak reference keeps the allocation.
    pub(crate) fn release(&self, object: &K) {
        if let Some(revision) = object.revision().filter(|_| K::TYPED) {
            self.0.lock().remove(&revision);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}
