//! Creating and deleting pods for an owner, with the events that tell of it.

use crate::{claim::ignore_not_found, meta};
use client::{Client, DeleteOptions, Error, EventType, Patch, Recorder};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use std::sync::Arc;

/// How many deletions are in flight at a time.
const IN_FLIGHT: usize = 128;

/// Makes, adopts, releases and deletes pods in the name of one object.
pub(crate) struct PodControl<'a> {
    /// The way to the API.
    pub client: &'a Client,
    /// Where events go.
    pub recorder: &'a Recorder,
    /// Whose pods they are.
    pub owner: &'a ObjectReference,
}

impl PodControl<'_> {
    /// Creates `pod` and tells of it. A namespace that is being deleted is no reason to tell.
    ///
    /// # Errors
    /// Those of the API.
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

    /// Deletes exactly this incarnation of `pod` and tells of it; one that is gone is fine.
    ///
    /// # Errors
    /// Those of the API.
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

    /// Deletes all of `pods`, many at a time.
    ///
    /// # Errors
    /// The first one met; the others are tried nevertheless.
    pub(crate) async fn delete_all(&self, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let mut outcome = Ok(());
        for batch in pods.chunks(IN_FLIGHT) {
            let results = futures::future::join_all(batch.iter().map(|p| self.delete(p))).await;
            outcome = outcome.and(results.into_iter().collect());
        }
        outcome
    }

    /// Applies a strategic merge patch to `pod`; one that is gone, or is another by now, is fine.
    ///
    /// # Errors
    /// Those of the API.
    pub(crate) async fn patch(&self, pod: &Pod, patch: serde_json::Value) -> Result<(), Error> {
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        match self.client.patch::<Pod>(namespace, name, Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            Err(error) => ignore_not_found(self.client, pod, error).await,
        }
    }
}

/// Deletes exactly this incarnation of `pod`; one that is gone is fine.
///
/// # Errors
/// Those of the API.
pub(crate) async fn delete(client: &Client, pod: &Pod, options: &DeleteOptions) -> Result<(), Error> {
    match client.delete::<Pod>(meta::namespace(&pod.metadata), meta::name(&pod.metadata), options).await {
        Ok(()) => Ok(()),
        Err(error) => ignore_not_found(client, pod, error).await,
    }
}

/// Calls `call` `count` times in batches of 1, 2, 4, … that run in parallel; after a batch with a failure no other begins, so that what
/// cannot work is not tried a thousand times. Answers how many succeeded, and the first failure.
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
