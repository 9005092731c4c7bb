//! Parsed objects that many writes read: the namespace of each, its ServiceAccount, the default classes. The store holds bytes only.

use crate::payload::Item;
use api::Object;
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};
use store::{Entry, Revision};

/// Most objects that are kept.
const MAX_OBJECTS: usize = 64;
/// Longest stored form of an object that is kept, bytes.
const MAX_BYTES: usize = 8 << 10;

/// The small objects that were read last, by key, each with the revision of which it is. Who has one must not change it.
#[derive(Default)]
pub(crate) struct Parsed(Mutex<HashMap<String, (Revision, Arc<Object>)>>);

impl Parsed {
    /// The object of an entry.
    pub(crate) fn object(&self, entry: &Entry<Item>) -> Arc<Object> {
        let stored = entry.payload.stored();
        if stored.length() > MAX_BYTES {
            return Arc::new(stored.object());
        }
        if let Some((revision, object)) = self.0.lock().get(&*entry.key)
            && *revision == entry.revision
        {
            return object.clone();
        }
        let object = Arc::new(stored.object());
        let mut kept = self.0.lock();
        if kept.len() >= MAX_OBJECTS && !kept.contains_key(&*entry.key) {
            kept.clear();
        }
        kept.insert(entry.key.to_string(), (entry.revision, object.clone()));
        object
    }
}
