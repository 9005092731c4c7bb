//! State that is kept up with stored objects one by one: an index of them. As [`crate::Derived`] it follows on use, so that an acknowledged
//! write counts for the next request; unlike it, a change costs as much as the changed object and not as much as all of them.

use crate::Objects;
use api::Object;
use parking_lot::{MappedRwLockReadGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::OnceLock;
use store::{Changes, Revision};

/// What is built of objects one by one.
pub trait Index: Default + Send + Sync + 'static {
    /// Takes over an object as it is now, or that there is none with this name.
    fn put(&mut self, namespace: &str, name: &str, object: Option<&Object>);
}

/// An index of all objects of a resource.
pub struct Indexed<T> {
    group: &'static str,
    resource: &'static str,
    changes: OnceLock<Changes>,
    /// The index, and up to which revision it is complete.
    state: RwLock<Option<(Revision, T)>>,
}

impl<T: Index> Indexed<T> {
    /// An index of the objects of `resource.group`.
    pub const fn new(group: &'static str, resource: &'static str) -> Self {
        Self { group, resource, changes: OnceLock::new(), state: RwLock::new(None) }
    }

    /// The current index. `objects` must be those of the same server at each call. Changes of the resource wait while the guard lives.
    pub fn read(&self, objects: &dyn Objects) -> MappedRwLockReadGuard<'_, T> {
        let changes = self.changes.get_or_init(|| objects.changes(self.group, self.resource));
        let fresh = |state: &Option<(Revision, T)>| state.as_ref().is_some_and(|(at, _)| *at >= changes.last());
        let state = self.state.read();
        if fresh(&state) {
            return RwLockReadGuard::map(state, index);
        }
        drop(state);
        let mut state = self.state.write();
        // Another reader may have done it meanwhile.
        if !fresh(&state) {
            let delta = objects.since(self.group, self.resource, state.as_ref().map(|(at, _)| *at));
            let mut known = state.take().filter(|_| !delta.whole).map(|(_, index)| index).unwrap_or_default();
            for (namespace, name, object) in &delta.changes {
                known.put(namespace, name, object.as_deref());
            }
            *state = Some((delta.revision, known));
        }
        RwLockReadGuard::map(RwLockWriteGuard::downgrade(state), index)
    }
}

fn index<T>(state: &Option<(Revision, T)>) -> &T {
    &state.as_ref().expect("a fresh index is there").1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        context::Delta,
        payload::{Item, stored_form},
    };
    use serde_json::json;
    use std::{collections::BTreeSet, sync::Arc, time::SystemTime};
    use store::{Expect, Memory, Options, Store};

    /// The names of the objects, and how many changes were taken over.
    #[derive(Default)]
    struct Names(BTreeSet<String>, usize);

    impl Index for Names {
        fn put(&mut self, _: &str, name: &str, object: Option<&Object>) {
            self.1 += 1;
            match object {
                Some(_) => self.0.insert(name.to_owned()),
                None => self.0.remove(name),
            };
        }
    }

    struct Stored(Store<Item>);

    impl Objects for Stored {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Object>> {
            None
        }
        fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Object>> {
            Vec::new()
        }
        fn changes(&self, _: &str, resource: &str) -> Changes {
            self.0.changes(&format!("/{resource}/"))
        }
        fn since(&self, _: &str, resource: &str, revision: Option<Revision>) -> Delta {
            crate::server::delta(&self.0, &format!("/{resource}/"), revision)
        }
    }

    #[tokio::test]
    async fn each_change_is_taken_over_once_and_before_the_next_read() {
        let options = Options::new(store::Clock::new(|| SystemTime::UNIX_EPOCH));
        let store = Store::open(Memory::default(), options).await.expect("a store");
        let objects = Stored(store.clone());
        let object = stored_form(&Object::from_value(json!({"kind": "A"})).expect("an object"));
        let put =
            async |key: &str| store.put(key, Expect::Absent, object.clone(), None).await.expect("stored").revision;
        let old = put("/a/old").await;
        put("/a/older").await;
        let index = Indexed::<Names>::new("", "a");
        let now = |index: &Indexed<Names>| {
            let read = index.read(&objects);
            (read.0.iter().cloned().collect::<Vec<_>>().join(" "), read.1)
        };
        assert_eq!(now(&index), ("old older".to_owned(), 2), "all at first");
        put("/a/new").await;
        put("/b/other").await;
        assert_eq!(now(&index), ("new old older".to_owned(), 3));
        store.delete("/a/old", Expect::At(old)).await.expect("deleted");
        assert_eq!(now(&index), ("new older".to_owned(), 4));
        assert_eq!(now(&index).1, 4, "nothing changed");
        put("/a/last").await;
        store.compact(store.revision());
        assert_eq!(now(&index), ("last new older".to_owned(), 3), "read anew where the changes are forgotten");
    }
}
