//! State that is compiled from stored objects: classes, roles, policies. It is built on first use, and again on the first use after a change, so
//! that an acknowledged write counts for the next request, and unused state costs nothing.

use crate::Objects;
use api::Object;
use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use store::Changes;

/// A `T` built from all objects of a resource. A read takes no lock, unless the value is being built.
pub struct Derived<T> {
    group: &'static str,
    resource: &'static str,
    build: fn(Vec<Arc<Object>>) -> T,
    changes: OnceLock<Changes>,
    /// The value, and the revision of the change that it includes.
    made: ArcSwapOption<(u64, Arc<T>)>,
    making: Mutex<()>,
}

impl<T> Derived<T> {
    /// A value that `build` makes from the objects of `resource.group`, ordered by namespace, then name.
    pub const fn new(group: &'static str, resource: &'static str, build: fn(Vec<Arc<Object>>) -> T) -> Self {
        let made = ArcSwapOption::const_empty();
        Self { group, resource, build, changes: OnceLock::new(), made, making: Mutex::new(()) }
    }

    /// The current value. `objects` must be those of the same server at each call.
    pub fn read(&self, objects: &dyn Objects) -> Arc<T> {
        let changes = self.changes.get_or_init(|| objects.changes(self.group, self.resource));
        let fresh =
            || self.made.load().as_deref().filter(|(at, _)| *at == changes.last()).map(|(_, value)| value.clone());
        if let Some(value) = fresh() {
            return value;
        }
        let _one = self.making.lock();
        if let Some(value) = fresh() {
            return value;
        }
        // Read before the objects, so that a change in between causes another build.
        let at = changes.last();
        let value = Arc::new((self.build)(objects.list(self.group, self.resource, "")));
        self.made.store(Some(Arc::new((at, value.clone()))));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Item, stored_form};
    use serde_json::json;
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::SystemTime,
    };
    use store::{Expect, Memory, Options, Store};

    struct Stored(Store<Item>);

    impl Objects for Stored {
        fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<Object>> {
            None
        }
        fn list(&self, _: &str, resource: &str, _: &str) -> Vec<Arc<Object>> {
            let snapshot = self.0.snapshot(None).expect("the newest");
            snapshot.range(&format!("/{resource}/"), None).map(|_| Arc::default()).collect()
        }
        fn changes(&self, _: &str, resource: &str) -> Changes {
            self.0.changes(&format!("/{resource}/"))
        }
    }

    #[tokio::test]
    async fn it_is_made_once_for_each_change_and_never_behind_a_write() {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let derived = Derived::new("", "a", |objects| {
            MADE.fetch_add(1, Ordering::SeqCst);
            objects.len()
        });
        let options = Options::new(store::Clock::new(|| SystemTime::UNIX_EPOCH));
        let store = Store::open(Memory::default(), options).await.expect("a store");
        let objects = Stored(store.clone());
        let object = stored_form(&Object::from_value(json!({"kind": "A"})).expect("an object"));
        for (count, key) in [(0, "/b/0"), (1, "/a/1"), (2, "/a/2"), (2, "/b/1")] {
            if key != "/b/0" {
                store.put(key, Expect::Absent, object.clone(), None).await.expect("stored");
            }
            for _ in 0..3 {
                assert_eq!(*derived.read(&objects), count, "after {key}");
            }
        }
        assert_eq!(MADE.load(Ordering::SeqCst), 3);
    }
}
