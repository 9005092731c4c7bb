//! Decoded objects that informers of several targets have in common: kept once. Each write of an object has a revision of its own, so
//! that kind and revision name its state.

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
    /// The object that another informer has, if it is the same one in the same state; else this one, for others to share.
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

    /// An informer lets go of an object. A weak reference would keep its memory.
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
