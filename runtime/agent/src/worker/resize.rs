//! Gives the containers of a pod other resources while they run (KEP-1287).

use super::{Outcome, Worker};
use crate::{
    plan::{self, Operation, Resizing},
    pod, resize,
    resize::{Given, Pending, Progress},
    resources,
};
use client::EventType;
use container::{Limits, Runtime};
use jiff::SignedDuration;
use std::sync::Arc;

/// When a resize that failed is tried again.
const RETRY_DELAY: SignedDuration = SignedDuration::from_secs(10);

impl Worker {
    /// Gives the pod what it asks for, if the node has room. Otherwise the resize waits until another pod leaves room.
    pub(super) fn allocate(&mut self) {
        let over = self.state.failure.is_some() || plan::terminal_phase(&self.pod, &self.state).is_some();
        if over || self.live.gone || pod::is_deleting(&self.wanted) {
            self.room = None;
            return;
        }
        if resize::is_given(&self.wanted, &self.state.allocated) {
            self.live.resize.pending = None;
            self.room = None;
            return;
        }
        let (wanted, generation) = (self.wanted.clone(), self.wanted.metadata.generation);
        // Before the look, so that no room is missed that others leave in between.
        let room = self.shared.room.subscribe();
        let fits = self.shared.admitted.lock().resize(&wanted);
        match fits {
            Ok(()) => {
                self.state.allocated = resize::wanted(&wanted);
                self.pod = wanted;
                // The downward API tells what was given.
                self.volumes_stale = true;
                self.room = None;
                self.live.resize.pending = None;
                self.live.resize.progress = Some(Progress { error: String::new(), generation });
                for live in self.live.containers.values_mut() {
                    if let Resizing::Failed(_) = live.resizing {
                        live.resizing = Resizing::No;
                    }
                }
                self.tell(EventType::Normal, "ResizeStarted", "Pod resize started", generation, "");
                self.shared.room.send_replace(());
            }
            Err(message) => {
                self.room = Some(room);
                let pending = Pending { reason: resize::DEFERRED.into(), message, generation };
                let before = self.live.resize.pending.replace(pending.clone());
                if before.is_none_or(|old| (old.reason, old.generation) != (pending.reason.clone(), generation)) {
                    let (reason, told) = (&pending.reason, format!("Pod resize {}", pending.reason));
                    self.tell(EventType::Warning, &format!("Resize{reason}"), &told, generation, &pending.message);
                }
            }
        }
    }

    fn tell(&self, kind: EventType, reason: &str, told: &str, generation: Option<i64>, error: &str) {
        let message = resize::message(told, &self.wanted, generation, error);
        self.shared.event(&self.wanted, None, kind, reason, message);
    }

    /// Changes the limits of a running container to what it was given.
    pub(super) fn resize(&mut self, container: &str) {
        let Some((spec, _)) = pod::container(&self.pod, container) else { return };
        let Some(attempt) = self.running(container) else { return };
        let Some(runtime) = self.shared.runtimes.get(&attempt.runtime).cloned() else { return };
        let (id, given, limits) = (attempt.id.clone(), Given::of(&spec), resources::limits(&spec));
        let has = attempt.given.as_ref().and_then(|has| has.memory_limit.as_ref()).and_then(resources::quantity);
        let shrinks =
            limits.memory_bytes.is_some_and(|new| has.is_none_or(|has| i128::from(has.value()) > i128::from(new)));
        self.live(container).resizing = Resizing::InProgress;
        let container = container.to_owned();
        self.ops.push(Box::pin(async move {
            let result = change(&*runtime, &id, &container, limits, shrinks).await;
            Outcome::Resized { container, id, given: Box::new(given), result }
        }));
    }

    pub(super) fn on_resized(&mut self, container: &str, id: &str, given: Given, result: Result<(), String>) {
        if self.running(container).is_none_or(|attempt| attempt.id != id) {
            return;
        }
        match result {
            Ok(()) => {
                self.live(container).resizing = Resizing::No;
                let record = self.state.containers.get_mut(container);
                if let Some(attempt) = record.and_then(|record| record.current.as_mut()) {
                    attempt.given = Some(Box::new(given));
                }
            }
            Err(error) => {
                let until = self.shared.now().saturating_add(RETRY_DELAY).unwrap_or(jiff::Timestamp::MAX);
                self.live(container).resizing = Resizing::Failed(until);
                let progress = self.live.resize.progress.get_or_insert_default();
                let generation = *progress.generation.get_or_insert(self.pod.metadata.generation.unwrap_or(0));
                if progress.error != error {
                    progress.error.clone_from(&error);
                    self.tell(EventType::Warning, "ResizeError", "Pod resize error", Some(generation), &error);
                }
            }
        }
    }

    /// Notes whether all containers that run have what they were given.
    pub(super) fn settle(&mut self) {
        let changes = |(container, _): (&k8s_openapi::api::core::v1::Container, pod::Role)| {
            let live = self.live.containers.get(&container.name);
            let busy = live.is_some_and(|live| {
                live.resizing == Resizing::InProgress
                    || matches!(live.operation, Operation::Stopping(_) | Operation::Starting)
            });
            let attempt = self.running(&container.name);
            let has = attempt.and_then(|attempt| attempt.given.as_ref());
            (attempt.is_some() && busy, has.is_some_and(|has| resize::change(container, has).is_some()))
        };
        let (busy, differs) =
            pod::containers(&self.pod).map(changes).fold((false, false), |all, one| (all.0 | one.0, all.1 | one.1));
        if differs {
            let generation = self.pod.metadata.generation;
            self.live.resize.progress.get_or_insert_with(|| Progress { error: String::new(), generation });
        } else if !busy && let Some(done) = self.live.resize.progress.take() {
            self.tell(EventType::Normal, "ResizeCompleted", "Pod resize completed", done.generation, "");
        }
    }
}

/// Changes the limits of a container, but its memory to no less than it uses.
async fn change(runtime: &dyn Runtime, id: &str, container: &str, limits: Limits, shrinks: bool) -> Result<(), String> {
    let id: Arc<str> = id.into();
    if let Some(limit) = limits.memory_bytes.filter(|_| shrinks) {
        let used = match runtime.stats(&id).await {
            Ok(stats) => stats.memory_bytes,
            Err(_) => {
                return Err(format!("cannot decrease memory limits: missing container {container:?} memory usage"));
            }
        };
        if used >= limit {
            return Err(format!(
                "cannot decrease memory limits: attempting to set container {container:?} memory limit ({limit}) below current usage ({used})"
            ));
        }
    }
    runtime.update_limits(&id, limits).await.map_err(|error| error.to_string())
}
