//! The revision of the last change under a prefix, without a watch. It serves derived state that is recomputed on demand.

use crate::{Event, Revision};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::Notify;

/// The revision of the last change under a prefix. Clones have the same prefix.
///
/// It includes all acknowledged writes, so that a caller sees its own.
#[derive(Clone, Debug, Default)]
pub struct Changes(Arc<Tracked>);

#[derive(Debug, Default)]
struct Tracked {
    prefix: Box<str>,
    last: AtomicU64,
    changed: Notify,
}

impl Changes {
    pub(crate) fn new(prefix: &str, now: Revision) -> Self {
        Self(Arc::new(Tracked { prefix: prefix.into(), last: AtomicU64::new(now), changed: Notify::new() }))
    }

    /// The revision of the last change. Initially the revision at which tracking began.
    pub fn last(&self) -> Revision {
        self.0.last.load(Ordering::Acquire)
    }

    /// Waits for a change after `revision`. Cancel-safe.
    pub async fn after(&self, revision: Revision) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the check, so that no change is missed in between.
            changed.as_mut().enable();
            if self.last() > revision {
                return;
            }
            changed.await;
        }
    }

    /// Whether anybody except the store still uses it.
    pub(crate) fn is_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub(crate) fn note<T>(&self, revision: Revision, events: &[Event<T>]) {
        if events.iter().any(|event| event.key().starts_with(&*self.0.prefix)) {
            self.0.last.store(revision, Ordering::Release);
            self.0.changed.notify_waiters();
        }
    }
}
