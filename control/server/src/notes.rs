//! What the admission plugins share of one request: what they say besides their decision, and how many servers they call at once. Chain, verbs
//! and plugins see the same value.

use parking_lot::Mutex;
use std::{collections::BTreeMap, mem};
use tokio::sync::{Semaphore, SemaphorePermit};

/// The most bytes of warnings and annotations of one request: they go into a response's headers and a line of a log.
const MAX_BYTES: usize = 256 << 10;

/// The most calls to other servers that one request waits for at a time. The limit is one of the request and not of the server: a webhook that
/// asks this server something during its call must not wait for itself.
const MAX_CALLS: usize = 16;

/// What is noted of one request.
pub struct Notes {
    said: Mutex<Said>,
    calls: Semaphore,
}

#[derive(Default)]
struct Said {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
    bytes: usize,
}

impl Default for Notes {
    fn default() -> Self {
        Self { said: Mutex::default(), calls: Semaphore::new(MAX_CALLS) }
    }
}

impl Said {
    fn has_room(&mut self, bytes: usize) -> bool {
        let fits = self.bytes.saturating_add(bytes) <= MAX_BYTES;
        if fits {
            self.bytes += bytes;
        }
        fits
    }
}

impl Notes {
    /// A `Warning` header of the response.
    pub fn warn(&self, text: String) {
        let mut said = self.said.lock();
        if said.has_room(text.len()) {
            said.warnings.push(text);
        }
    }

    /// An annotation of the audit event. As upstream, the first value of a key counts.
    pub fn annotate(&self, key: String, value: String) {
        let mut said = self.said.lock();
        if !said.annotations.contains_key(&key) && said.has_room(key.len() + value.len()) {
            said.annotations.insert(key, value);
        }
    }

    /// A place for a call to another server. Wait for it before the call, and keep it until the answer is there.
    pub async fn call(&self) -> Option<SemaphorePermit<'_>> {
        self.calls.acquire().await.ok()
    }

    /// The warnings since the last time.
    pub fn take_warnings(&self) -> Vec<String> {
        mem::take(&mut self.said.lock().warnings)
    }

    /// The annotations.
    pub fn take_annotations(&self) -> BTreeMap<String, String> {
        mem::take(&mut self.said.lock().annotations)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_annotation_of_a_key_counts_and_all_are_bounded() {
        let notes = Notes::default();
        notes.annotate("a".to_owned(), "1".to_owned());
        notes.annotate("a".to_owned(), "2".to_owned());
        for _ in 0..3 {
            notes.warn("w".repeat(MAX_BYTES / 2 - 1));
        }
        notes.annotate("b".to_owned(), "x".to_owned());
        assert_eq!(notes.take_warnings().len(), 2);
        assert_eq!(notes.take_annotations(), BTreeMap::from([("a".to_owned(), "1".to_owned())]));
        assert!(notes.take_warnings().is_empty());
    }
}
