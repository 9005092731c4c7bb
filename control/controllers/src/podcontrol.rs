//! Creates, patches and deletes pods for an owner, and records events on the owner.

use crate::{claim::ignore_not_found, meta};
use client::{Client, DeleteOptions, Error, EventType, Patch, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use std::sync::Arc;

/// Most concurrent deletions.
const MAX_DELETIONS: usize = 128;

/// Creates, patches and deletes the pods of one owner. Upstream's `PodControlInterface`.
pub(crate) struct PodControl<'a> {
    /// Client of the API server.
    pub client: &'a Client,
    /// Records events.
    pub recorder: &'a Recorder,
    /// The owner of the pods.
    pub owner: &'a ObjectReference,
}

impl PodControl<'_> {
    /// Creates `pod` and records an event, except for a failure because the namespace is terminating.
    pub(crate) async fn create(&self, pod: &Pod) -> Result<Pod, Error> {
        match self.client.create(pod).await {
            Ok(created) => {
                let name = meta::name(&created.metadata);
                self.recorder.event(self.owner, EventType::Normal, "SuccessfulCreate", format!("Created pod: {name}"));
                Ok(created)
            }
            Err(error) => {
                if !error.is_namespace_terminating() {
                    let message = format!("Error creating: {error}");
                    self.recorder.event(self.owner, EventType::Warning, "FailedCreate", message);
                }
                Err(error)
            }
        }
    }

    /// Deletes `pod` by name and UID, and records an event. Succeeds if it is gone.
    pub(crate) async fn delete(&self, pod: &Pod) -> Result<(), Error> {
        let name = meta::name(&pod.metadata);
        match delete(self.client, pod, &DeleteOptions::uid(meta::uid(&pod.metadata))).await {
            Ok(()) => {
                self.recorder.event(self.owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
                Ok(())
            }
            Err(error) => {
                self.recorder.event(self.owner, EventType::Warning, "FailedDelete", format!("Error deleting: {error}"));
                Err(error)
            }
        }
    }

    /// Deletes all of `pods` in parallel batches.
    ///
    /// # Errors
    /// The first error. The other pods are deleted nevertheless.
    pub(crate) async fn delete_all(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let mut outcome = Ok(());
        for batch in pods.chunks(MAX_DELETIONS) {
            let results = futures::future::join_all(batch.iter().map(|p| self.delete(p))).await;
            outcome = outcome.and(results.into_iter().collect());
        }
        outcome
    }

    /// Applies a strategic merge patch to `pod`. Succeeds if the pod is gone, or another pod has its name.
    pub(crate) async fn patch(&self, pod: &Pod, patch: serde_json::Value) -> Result<(), Error> {
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        match self.client.patch::<Pod>(namespace, name, Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            Err(error) => ignore_not_found(self.client, pod, error).await,
        }
    }
}

/// Deletes `pod` by name and UID. Succeeds if it is gone.
pub(crate) async fn delete(client: &Client, pod: &Pod, options: &DeleteOptions) -> Result<(), Error> {
    match client.delete::<Pod>(meta::namespace(&pod.metadata), meta::name(&pod.metadata), options).await {
        Ok(()) => Ok(()),
        Err(error) => ignore_not_found(client, pod, error).await,
    }
}

/// Calls `call` `count` times in parallel batches of 1, 2, 4, …, and stops after a batch with a failure, so that a call that cannot succeed is not
/// repeated a thousand times. Returns the number of successes and the first failure. Upstream's `slowStartBatch`.
pub(crate) async fn slow_start<F, Fut, E>(count: usize, mut call: F) -> (usize, Option<E>)
where
    F: FnMut(usize) -> Fut,
    Fut: Future<Output = Result<(), E>>,
{
    let (mut done, mut started, mut batch) = (0, 0, 1);
    while started < count {
        let size = batch.min(count - started);
        let calls: Vec<Fut> = (started..started + size).map(&mut call).collect();
        let results = futures::future::join_all(calls).await;
        started += size;
        let mut failure = None;
        for result in results {
            match result {
                Ok(()) => done += 1,
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        if failure.is_some() {
            return (done, failure);
        }
        batch *= 2;
    }
    (done, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[tokio::test]
    async fn batches_double_and_stop_after_a_failure() {
        for (count, fails_at, expected) in [
            (0, None, (0, 0)),
            (10, None, (10, 10)),
            (500, None, (500, 500)),
            (10, Some(0), (0, 1)),
            (10, Some(2), (2, 3)),
            (10, Some(4), (6, 7)),
        ] {
            let calls = RefCell::new(0);
            let (done, failure) = slow_start(count, |i| {
                *calls.borrow_mut() += 1;
                async move { if Some(i) == fails_at { Err("no") } else { Ok(()) } }
            })
            .await;
            assert_eq!((done, *calls.borrow()), expected, "{count} {fails_at:?}");
            assert_eq!(failure.is_some(), fails_at.is_some());
        }
    }
}
