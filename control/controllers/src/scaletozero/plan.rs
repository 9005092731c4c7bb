//! Whether a Deployment sleeps, wakes, or is left alone, and which Services tell of it. Pure.

use crate::{
    labels, meta,
    servicepods::{is_selecting, selects},
};
use api::annotations::{SCALE_TO_ZERO_AFTER, SCALED_TO_ZERO, scale_to_zero_after};
use client::{Delta, Informer, Key};
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How often the metric is read. It is of the last 15 seconds at least, so that no request is missed.
pub(super) const PERIOD: Duration = Duration::from_secs(10);

/// Index of marked Deployments by each label of their pods.
const MARKED: &str = "scale-to-zero-controller/marked";

/// What is known of a Deployment.
pub(super) struct Seen<'a> {
    pub deployment: &'a Deployment,
    /// Whether an autoscaler may scale it to zero.
    pub autoscaled: bool,
    /// Whether a request waits at one of its Services.
    pub waited_for: bool,
}

/// Since when a Deployment has had no request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Idle {
    /// `None`: it had one of late, or nobody knows.
    since: Option<Timestamp>,
    /// When it was looked at.
    looked: Timestamp,
    /// The generation that was looked at.
    generation: Option<i64>,
    /// Since when nobody knows.
    unknown: Option<Timestamp>,
    /// Whether that was told.
    pub told: bool,
}

impl Idle {
    /// After a look at the metric: in thousandths, of each pod that has it.
    pub(super) fn after(
        before: Option<Self>,
        deployment: &Deployment,
        rates: Result<Vec<i64>, String>,
        now: Timestamp,
    ) -> Self {
        let wanted = usize::try_from(replicas(deployment)).unwrap_or(usize::MAX);
        let known = rates.as_ref().is_ok_and(|rates| rates.len() >= wanted);
        let quiet = known && rates.is_ok_and(|rates| rates.iter().all(|rate| *rate == 0));
        let before = before.as_ref();
        Self {
            since: quiet.then(|| before.and_then(|idle| idle.since).unwrap_or(now)),
            looked: now,
            generation: deployment.metadata.generation,
            unknown: (!known).then(|| before.and_then(|idle| idle.unknown).unwrap_or(now)),
            told: !known && before.is_some_and(|idle| idle.told),
        }
    }

    /// Whether it is of this generation.
    pub(super) fn is_of(&self, deployment: &Deployment) -> bool {
        self.generation == deployment.metadata.generation
    }

    /// Whether it was looked at so recently that nothing is missed.
    pub(super) fn is_fresh(&self, now: Timestamp) -> bool {
        Duration::try_from(now.duration_since(self.looked)).is_ok_and(|age| age < PERIOD)
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Nothing,
    /// Look again after this time.
    Look(Duration),
    /// Tell the user, with this reason, and look again.
    Warn(&'static str, String),
    /// Scale to zero; `replicas` is what it wakes with.
    Sleep {
        replicas: i32,
        text: String,
    },
    /// Scale up to so many.
    Wake(i32),
    /// Take the mark away.
    Unmark,
}

/// `spec.replicas`.
fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
}

/// The replicas that a marked Deployment wakes with; `None` without a mark.
fn mark(deployment: &Deployment) -> Option<i32> {
    let value = meta::annotation(&deployment.metadata, SCALED_TO_ZERO)?;
    Some(value.parse().unwrap_or(1).max(1))
}

fn asked(deployment: &Deployment) -> Option<&str> {
    meta::annotation(&deployment.metadata, SCALE_TO_ZERO_AFTER)
}

/// Whether [`plan`] wants to know since when the Deployment is idle.
pub(super) fn looks_for_idleness(seen: &Seen<'_>) -> bool {
    let asked = asked(seen.deployment).is_some_and(|value| scale_to_zero_after(value).is_ok());
    asked && replicas(seen.deployment) > 0 && mark(seen.deployment).is_none() && is_settled(seen.deployment)
}

/// Whether what is wanted of the Deployment is there, all of it available.
fn is_settled(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    let count = |of: fn(&k8s_openapi::api::apps::v1::DeploymentStatus) -> Option<i32>| status.and_then(of).unwrap_or(0);
    let wanted = replicas(deployment);
    status.and_then(|s| s.observed_generation) >= deployment.metadata.generation
        && count(|s| s.updated_replicas) == wanted
        && count(|s| s.available_replicas) == wanted
        && count(|s| s.replicas) == wanted
}

/// Whether a pod of the wanted generation serves.
fn serves(deployment: &Deployment) -> bool {
    let status = deployment.status.as_ref();
    status.and_then(|s| s.observed_generation) >= deployment.metadata.generation
        && status.and_then(|s| s.available_replicas).unwrap_or(0) > 0
}

/// Decides.
pub(super) fn plan(seen: &Seen<'_>, idle: Option<&Idle>, now: Timestamp) -> Action {
    let deployment = seen.deployment;
    let asked = asked(deployment).map(scale_to_zero_after);
    if let Some(wakes_with) = mark(deployment) {
        return match replicas(deployment) {
            0 if asked.is_none() && !seen.autoscaled => Action::Unmark,
            0 if seen.waited_for => Action::Wake(wakes_with),
            0 => Action::Nothing,
            _ if serves(deployment) => Action::Unmark,
            _ => Action::Nothing,
        };
    }
    let (Some(Ok(after)), Some(idle)) = (asked, idle) else { return Action::Nothing };
    let passed = |since: Timestamp| Duration::try_from(now.duration_since(since)).unwrap_or_default();
    if let Some(since) = idle.unknown {
        return match passed(since) > after.max(PERIOD * 6) {
            true => {
                let text = "It is not known whether the pods have requests (http_requests_per_second), so that the Deployment is never scaled to zero: only HTTP components are counted";
                Action::Warn("IdlenessUnknown", text.to_owned())
            }
            false => Action::Look(PERIOD),
        };
    }
    let Some(since) = idle.since else { return Action::Look(PERIOD) };
    let left = after.saturating_sub(passed(since));
    // the last look tells of the time until then only
    if !left.is_zero() || !idle.is_fresh(now) {
        return Action::Look(left.min(PERIOD).max(Duration::from_millis(100)));
    }
    let replicas = replicas(deployment);
    let value = meta::annotation(&deployment.metadata, SCALE_TO_ZERO_AFTER).unwrap_or_default();
    Action::Sleep { replicas, text: format!("Scaled down from {replicas} to 0: no request for {value}") }
}

/// The merge patch that sets replicas, if they are to be, and the mark.
pub(super) fn patch(replicas: Option<i32>, mark: Option<i32>, version: Option<&str>) -> Value {
    let mark = mark.map(|replicas| replicas.to_string());
    let mut patch = json!({"metadata": {"annotations": {SCALED_TO_ZERO: mark}}});
    if let Some(version) = version {
        patch["metadata"]["resourceVersion"] = version.into();
    }
    if let Some(replicas) = replicas {
        patch["spec"] = json!({ "replicas": replicas });
    }
    patch
}

fn pod_labels(deployment: &Deployment) -> Option<&BTreeMap<String, String>> {
    deployment.spec.as_ref()?.template.metadata.as_ref()?.labels.as_ref()
}

fn place(namespace: &str, (key, value): (&String, &String)) -> String {
    format!("{namespace}/{key}={value}")
}

/// Adds the index that [`asleep`] uses.
pub(crate) fn index(deployments: &Informer<Deployment>) {
    deployments.index(MARKED, |deployment| {
        if mark(deployment).is_none() {
            return Vec::new();
        }
        let namespace = meta::namespace(&deployment.metadata);
        pod_labels(deployment).into_iter().flatten().map(|label| place(namespace, label)).collect()
    });
}

/// The Deployments of a Service that were scaled to zero because they were idle and do not serve yet: their names, separated by commas.
pub(crate) fn asleep(service: &Service, deployments: &Informer<Deployment>) -> Option<String> {
    let label = service.spec.as_ref()?.selector.as_ref()?.first_key_value()?;
    let marked = deployments.by_index(MARKED, &place(meta::namespace(&service.metadata), label));
    let of_service = marked.iter().filter(|deployment| selects(service, pod_labels(deployment)));
    let names: Vec<&str> = of_service.map(|deployment| meta::name(&deployment.metadata)).collect();
    (!names.is_empty()).then(|| names.join(","))
}

/// The keys of the Services that tell of a Deployment that falls asleep or serves again.
pub(crate) fn enqueue_services(delta: &Delta<Deployment>, services: &Informer<Service>) -> Vec<Key> {
    let (old, new) = (delta.old(), delta.object());
    let facts = |deployment: &Arc<Deployment>| mark(deployment).map(|_| pod_labels(deployment).cloned());
    let (before, now) = (old.and_then(facts), facts(new));
    let gone = matches!(delta, Delta::Deleted(_));
    if before == now && !gone || before.is_none() && now.is_none() {
        return Vec::new();
    }
    let sets = [old.and_then(|old| pod_labels(old)), pod_labels(new)];
    let all = labels::selecting(services, meta::namespace(&new.metadata), &sets);
    let concerned = all.iter().filter(|s| is_selecting(s) && sets.iter().any(|labels| selects(s, *labels)));
    concerned.map(|service| Key::of(&**service)).collect()
}
