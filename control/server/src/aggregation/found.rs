//! What is known of the documents of other servers, by name of the registration.

use super::{registration::Registration, swagger::Part};
use parking_lot::Mutex;
use serde_json::Value;
use std::{
    collections::HashMap,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};
use tokio::time::Instant;

/// How long documents are believed.
const FRESH: Duration = Duration::from_secs(60);
/// How soon a server that gave none is asked again.
const AGAIN: Duration = Duration::from_secs(5);

/// What a server gave.
#[derive(Clone)]
pub(crate) struct Documents {
    /// Its version in the aggregated discovery document.
    pub(crate) version: Arc<Value>,
    /// Whether the server gave it.
    pub(crate) known: bool,
    /// The URL of its OpenAPI document with its hash, if it has one.
    pub(crate) open_api: Option<Arc<str>>,
    /// Its part of the OpenAPI v2 document.
    pub(crate) swagger: Option<Arc<Part>>,
}

struct Entry {
    of: Arc<Registration>,
    documents: Documents,
    at: Instant,
}

/// What is known.
#[derive(Default)]
pub(crate) struct Found {
    entries: Mutex<HashMap<String, Entry>>,
    /// Held by who asks because nothing is known yet: one at a time.
    pub(crate) asking: tokio::sync::Mutex<()>,
    /// Whether somebody asks again for what is old.
    pub(crate) renewing: AtomicBool,
}

/// How good it is what is known of a registration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Age {
    /// Nothing is known of it as it is now.
    Unknown,
    /// It should be asked for again.
    Old,
    /// It is good.
    Fresh,
}

impl Found {
    /// How good it is what is known.
    pub(crate) fn age(&self, of: &Registration) -> Age {
        let entries = self.entries.lock();
        match entries.get(&of.name()).filter(|entry| *entry.of == *of) {
            None => Age::Unknown,
            Some(entry) => {
                let long = if entry.documents.known { FRESH } else { AGAIN };
                if entry.at.elapsed() < long { Age::Fresh } else { Age::Old }
            }
        }
    }

    /// The documents.
    pub(crate) fn get(&self, of: &Registration) -> Option<Documents> {
        self.entries.lock().get(&of.name()).filter(|entry| *entry.of == *of).map(|entry| entry.documents.clone())
    }

    /// Notes documents that were asked for at a time, and forgets those of registrations that are gone.
    pub(crate) fn put(&self, found: Vec<(Arc<Registration>, Documents)>, at: Instant, all: &[Arc<Registration>]) {
        let mut entries = self.entries.lock();
        for (of, documents) in found {
            entries.insert(of.name(), Entry { of, documents, at });
        }
        entries.retain(|name, _| all.iter().any(|one| one.name() == *name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn documents_are_believed_for_a_minute_and_until_the_registration_changes() {
        let one = |priority| {
            Arc::new(Registration { group: "g".to_owned(), version_priority: priority, ..Registration::default() })
        };
        let documents = |known| Documents { version: Arc::default(), known, open_api: None, swagger: None };
        let found = Found::default();
        assert_eq!(found.age(&one(1)), Age::Unknown);
        found.put(vec![(one(1), documents(true))], Instant::now(), &[one(1)]);
        assert_eq!((found.age(&one(1)), found.age(&one(2))), (Age::Fresh, Age::Unknown));
        assert!(found.get(&one(1)).is_some() && found.get(&one(2)).is_none());
        tokio::time::advance(FRESH).await;
        assert_eq!(found.age(&one(1)), Age::Old);
        assert!(found.get(&one(1)).is_some(), "better than nothing");
        found.put(vec![(one(1), documents(false))], Instant::now(), &[one(1)]);
        tokio::time::advance(AGAIN).await;
        assert_eq!(found.age(&one(1)), Age::Old, "a server that gave nothing is asked again soon");
        found.put(Vec::new(), Instant::now(), &[]);
        assert_eq!(found.age(&one(1)), Age::Unknown);
    }
}
