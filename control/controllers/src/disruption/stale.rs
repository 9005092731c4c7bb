//! Takes the condition DisruptionTarget back where the disruption did not happen.

use crate::{Context, meta, pods};
use client::{Client, Controller, Informer, Key, Next, Wakeups};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use std::time::Duration;

/// How long a pod may have the condition without being deleted. Upstream's value.
const TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const TYPE: &str = "DisruptionTarget";

/// A part of upstream's `disruption-controller`.
pub(crate) struct StalePodDisruption {
    client: Client,
    clock: api::Clock,
    pods: Informer<Pod>,
}

impl StalePodDisruption {
    /// Over the shared informers.
    pub(crate) fn new(cx: &Context) -> Self {
        Self { client: cx.client.clone(), clock: cx.options.clock.clone(), pods: cx.informers.of() }
    }
}

/// After what time the condition of a pod is stale; `None` where it has none that becomes so.
fn stale_in(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pods::condition(pod, TYPE)?;
    // What the kubelet ends may take as long as its containers do.
    let kubelets = condition.reason.as_deref() == Some("TerminationByKubelet");
    if meta::is_deleting(&pod.metadata) || condition.status != "True" || kubelets || pods::is_finished(pod) {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    let due = since.saturating_add(TIMEOUT).unwrap_or(since);
    Some(meta::non_negative(due.duration_since(now)))
}

/// The pod with the condition taken back.
fn taken_back(pod: &Pod, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let generation = pod.metadata.generation;
    for condition in pod.status.iter_mut().flat_map(|status| &mut status.conditions).flatten() {
        if condition.type_ == TYPE {
            *condition = PodCondition {
                type_: TYPE.to_owned(),
                status: "False".to_owned(),
                observed_generation: condition.observed_generation.and(generation),
                last_transition_time: Some(Time(now)),
                ..PodCondition::default()
            };
        }
    }
    pod
}

#[async_trait::async_trait]
impl Controller for StalePodDisruption {
    const NAME: &'static str = "stale_pod_disruption";

    fn wire(&self, wakeups: &mut Wakeups) {
        wakeups.on(&self.pods, |delta| {
            let pod = delta.object();
            if pods::condition(pod, TYPE).is_some() { vec![Key::of(&**pod)] } else { Vec::new() }
        });
    }

    async fn reconcile(&self, key: &Key) -> anyhow::Result<Next> {
        let now = self.clock.now();
        let Some(pod) = self.pods.find(key) else { return Ok(Next::Done) };
        match stale_in(&pod, now) {
            None => return Ok(Next::Done),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        match self.client.update_status(&taken_back(&pod, now)).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(Next::Done),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(meta: Value, phase: &str, condition: Value) -> Pod {
        let mut value =
            json!({"metadata": {"name": "p", "generation": 3}, "status": {"phase": phase, "conditions": [condition]}});
        if let Value::Object(more) = meta {
            value["metadata"].as_object_mut().expect("metadata").extend(more);
        }
        serde_json::from_value(value).expect("a pod")
    }

    #[test]
    fn only_what_should_have_ended_a_pod_becomes_stale() {
        let now = "2026-01-01T00:02:30Z".parse().expect("a time");
        let at = |status: &str, reason: &str, seconds: u32| json!({"type": TYPE, "status": status, "reason": reason, "lastTransitionTime": format!("2026-01-01T00:00:{seconds:02}Z")});
        let deleted = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        for (what, pod, expected) in [
            ("soon", pod(json!({}), "Running", at("True", "PreemptionByScheduler", 40)), Some(10)),
            ("now", pod(json!({}), "Running", at("True", "EvictionByEvictionAPI", 30)), Some(0)),
            ("since long", pod(json!({}), "Pending", at("True", "", 0)), Some(0)),
            ("deleted", pod(deleted, "Running", at("True", "", 0)), None),
            ("over", pod(json!({}), "Failed", at("True", "", 0)), None),
            ("the kubelet's", pod(json!({}), "Running", at("True", "TerminationByKubelet", 0)), None),
            ("taken back", pod(json!({}), "Running", at("False", "", 0)), None),
            ("another", pod(json!({}), "Running", json!({"type": "Ready", "status": "True"})), None),
        ] {
            assert_eq!(stale_in(&pod, now).map(|left| left.as_secs()), expected, "{what}");
        }
        let mut stale = pod(json!({}), "Running", at("True", "PreemptionByScheduler", 0));
        stale.status.as_mut().and_then(|s| s.conditions.as_mut()).expect("conditions")[0].observed_generation = Some(1);
        let condition = json!({"type": TYPE, "status": "False", "observedGeneration": 3, "lastTransitionTime": "2026-01-01T00:02:30Z"});
        let taken = serde_json::to_value(taken_back(&stale, now)).expect("JSON");
        assert_eq!(taken["status"]["conditions"], json!([condition]));
    }
}
