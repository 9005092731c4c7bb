//! Idle Deployments at zero replicas, which a request wakes.
//!
//! A Deployment with the annotation `sampan.dev/scale-to-zero-after` is scaled to zero when none of its pods had a request for that time, and
//! an autoscaler with `minReplicas: 0` does the same by its metrics. Whoever does it writes, in the same write, the annotation
//! `sampan.dev/scaled-to-zero` with the replicas that the Deployment gets when it wakes: nobody mistakes it for a Deployment that a user put
//! to zero. The controller of EndpointSlices copies the mark to the slices of the Deployment's Services, where nodes see it: a request that
//! finds no endpoint there is held, and the first one is told by an annotation of the slice, `sampan.dev/wake-requested`. That wakes the
//! Deployment here. The mark ends when the Deployment serves. Everything that matters is in the API: a restart of anybody loses nothing.

mod plan;
mod rate;
#[cfg(test)]
mod tests;

pub(crate) use plan::{asleep, enqueue_services, index};

use self::plan::{Action, Idle, Seen, plan};
use crate::{Context, meta};
use api::annotations::{SCALED_TO_ZERO, WAKE_REQUESTED};
use client::{Client, Controller, EventType, Informer, Key, Next, Patch, Recorder, Wakeups, reference};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, autoscaling::v2::HorizontalPodAutoscaler, discovery::v1::EndpointSlice};
use parking_lot::Mutex;
use std::{collections::HashMap, sync::Arc};

/// Index of autoscalers by the Deployment that they scale.
const BY_TARGET: &str = "scale-to-zero-controller/target";
/// Index of slices by the Deployments that they tell to be asleep.
const BY_SLEEPER: &str = "scale-to-zero-controller/sleeper";

/// Whether what sleeps is woken: the controller is not switched off. If it is, nobody marks anything, and what has a mark refuses requests.
pub(crate) fn wakes(cx: &Context) -> bool {
    cx.options.selection.includes(ScaleToZeroController::NAME)
}

/// Scales idle Deployments to zero, and wakes those for which a request waits. Not upstream's.
pub(crate) struct ScaleToZeroController {
    client: Client,
    clock: api::Clock,
    recorder: Recorder,
    deployments: Informer<Deployment>,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    slices: Informer<EndpointSlice>,
    idle: Mutex<HashMap<Key, Idle>>,
}

impl ScaleToZeroController {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        let autoscalers = cx.informers.of::<HorizontalPodAutoscaler>();
        autoscalers.index(BY_TARGET, |hpa| target(hpa).map(|key| key.to_string()).into_iter().collect());
        let slices = cx.informers.of::<EndpointSlice>();
        slices.index(BY_SLEEPER, |slice| sleepers(slice).iter().map(Key::to_string).collect());
        Self {
            client: cx.client.clone(),
            clock: cx.options.clock.clone(),
            recorder: cx.recorder("scale-to-zero-controller"),
            deployments: cx.informers.of(),
            autoscalers,
            slices,
            idle: Mutex::default(),
        }
    }

    fn seen<'a>(&self, key: &Key, deployment: &'a Deployment) -> Seen<'a> {
        let autoscalers = self.autoscalers.by_index(BY_TARGET, &key.to_string());
        let slices = self.slices.by_index(BY_SLEEPER, &key.to_string());
        Seen {
            deployment,
            autoscaled: autoscalers.iter().any(|hpa| hpa.spec.min_replicas == Some(0)),
            waited_for: slices.iter().any(|slice| meta::annotation(&slice.metadata, WAKE_REQUESTED).is_some()),
        }
    }

    /// The time since which no request came; reads the metric at most as often as it changes.
    async fn look(&self, key: &Key, deployment: &Deployment, now: Timestamp) -> Idle {
        let known = self.idle.lock().get(key).cloned().filter(|idle| idle.is_of(deployment));
        if let Some(known) = known.as_ref().filter(|idle| idle.is_fresh(now)) {
            return known.clone();
        }
        let rates = rate::of_pods(&self.client, deployment).await;
        let idle = Idle::after(known, deployment, rates, now);
        self.idle.lock().insert(key.clone(), idle.clone());
        idle
    }

    /// Writes replicas and the mark together; a Deployment that has changed meanwhile is looked at again.
    async fn write(&self, deployment: &Deployment, replicas: Option<i32>, mark: Option<i32>) -> client::Result<()> {
        let meta = &deployment.metadata;
        let version = meta.resource_version.as_deref();
        let patch = plan::patch(replicas, mark, version);
        self.client.patch::<Deployment>(meta::namespace(meta), meta::name(meta), Patch::Merge(patch)).await.map(drop)
    }

    async fn act(&self, key: &Key, deployment: &Deployment, action: Action) -> anyhow::Result<Next> {
        let about = reference(deployment);
        match action {
            Action::Nothing => {}
            Action::Look(after) => return Ok(Next::After(after)),
            Action::Warn(reason, text) => {
                let told = self.idle.lock().get_mut(key).is_some_and(|idle| std::mem::replace(&mut idle.told, true));
                if !told {
                    self.recorder.event(&about, EventType::Warning, reason, text);
                }
                return Ok(Next::After(plan::PERIOD));
            }
            Action::Sleep { replicas, text } => {
                self.write(deployment, Some(0), Some(replicas)).await?;
                self.recorder.event(&about, EventType::Normal, "ScaledToZero", text);
            }
            Action::Wake(replicas) => {
                self.write(deployment, Some(replicas), Some(replicas)).await?;
                let text = format!("Scaled up to {replicas}: a request waits");
                self.recorder.event(&about, EventType::Normal, "WokenByRequest", text);
            }
            Action::Unmark => self.write(deployment, None, None).await?,
        }
        self.idle.lock().remove(key);
        Ok(Next::Done)
    }
}

/// The Deployment that an autoscaler scales.
fn target(hpa: &HorizontalPodAutoscaler) -> Option<Key> {
    let target = &hpa.spec.scale_target_ref;
    let group = target.api_version.as_deref().unwrap_or_default().split('/').next().unwrap_or_default();
    let is_deployment = target.kind == "Deployment" && group == "apps";
    is_deployment.then(|| Key::new(meta::namespace(&hpa.metadata), &target.name))
}

/// The Deployments that a slice tells to be asleep.
fn sleepers(slice: &EndpointSlice) -> Vec<Key> {
    let names = meta::annotation(&slice.metadata, SCALED_TO_ZERO).unwrap_or_default();
    let names = names.split(',').filter(|name| !name.is_empty());
    names.map(|name| Key::new(meta::namespace(&slice.metadata), name)).collect()
}

#[async_trait::async_trait]
impl Controller for ScaleToZeroController {
    const NAME: &'static str = "scale-to-zero-controller";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on_self(&self.deployments);
        wakeups.on(&self.autoscalers, |delta| {
            let old = delta.old().and_then(|old| target(old));
            old.into_iter().chain(target(delta.object())).collect()
        });
        wakeups.on(&self.slices, |delta| {
            let waits = |slice: &Arc<EndpointSlice>| meta::annotation(&slice.metadata, WAKE_REQUESTED).is_some();
            let slice = delta.object();
            if waits(slice) && !delta.old().is_some_and(waits) { sleepers(slice) } else { Vec::new() }
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let found = self.deployments.find(key).filter(|deployment| !meta::is_deleting(&deployment.metadata));
        let Some(deployment) = found else {
            self.idle.lock().remove(key);
            return Ok(Next::Done);
        };
        let seen = self.seen(key, &deployment);
        let now = self.clock.now();
        let idle = match plan::looks_for_idleness(&seen) {
            true => Some(self.look(key, &deployment, now).await),
            false => None,
        };
        let action = plan(&seen, idle.as_ref(), self.clock.now());
        self.act(key, &deployment, action).await
    }
}
