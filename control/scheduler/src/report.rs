//! How a pod without a node is told why: the event FailedScheduling and the condition PodScheduled.

use client::{EventType, Patch, reference};
use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use serde_json::{Value, json};

use crate::{handle::Handle, pod::PodInfo};

/// What is told.
pub(crate) struct Report {
    /// `Unschedulable` or `SchedulerError`.
    pub(crate) reason: &'static str,
    /// Upstream's words.
    pub(crate) message: String,
    /// The node that is being made free for the pod.
    pub(crate) nominated: Option<String>,
}

/// Writes the event, and the condition when it is not there already.
pub(crate) async fn report(handle: &Handle, pod: &PodInfo, report: Report) {
    let Report { reason, message, nominated } = report;
    handle.recorder.event(&reference(&*pod.pod), EventType::Warning, "FailedScheduling", message.clone());
    let condition = condition(&pod.pod, reason, &message, handle.clock.now());
    let Some(patch) = patch(&pod.pod, condition, nominated) else { return };
    let meta = &pod.pod.metadata;
    let (namespace, name) = (meta.namespace.as_deref().unwrap_or(""), meta.name.as_deref().unwrap_or(""));
    if let Err(error) = handle.client.patch_status::<Pod>(namespace, name, Patch::Strategic(patch)).await
        && !error.is_not_found()
    {
        tracing::warn!(pod = format!("{namespace}/{name}"), %error, "the condition PodScheduled could not be written");
    }
}

/// The patch that writes what the pod does not say already.
fn patch(pod: &Pod, condition: Option<Value>, nominated: Option<String>) -> Option<Value> {
    let mut status = serde_json::Map::new();
    if let Some(condition) = condition {
        status.insert("conditions".to_owned(), json!([condition]));
    }
    let known = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_ref());
    if let Some(node) = nominated.filter(|node| known != Some(node)) {
        status.insert("nominatedNodeName".to_owned(), node.into());
    }
    (!status.is_empty()).then(|| json!({"metadata": {"uid": pod.metadata.uid}, "status": status}))
}

/// `PodScheduled` as false, unless the pod says just that already.
fn condition(pod: &Pod, reason: &str, message: &str, now: Timestamp) -> Option<Value> {
    let known = pod.status.as_ref().and_then(|s| s.conditions.as_ref());
    let known = known.and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
    let unchanged = known.is_some_and(|c| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(message)
    });
    if unchanged {
        return None;
    }
    let since = known.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let since = since.map_or(now, |t| t.0);
    Some(json!({"type": "PodScheduled", "status": "False", "reason": reason, "message": message,
        "lastProbeTime": null, "lastTransitionTime": Time(since), "observedGeneration": pod.metadata.generation}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_is_written_once_and_keeps_its_time() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let mut p: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).expect("a pod");
        let told = |p: &Pod, message: &str, now| patch(p, condition(p, "Unschedulable", message, now), None);
        let patch = told(&p, "why", now).expect("a patch");
        let c = &patch["status"]["conditions"][0];
        assert_eq!(
            (c["status"].as_str(), c["lastTransitionTime"].as_str()),
            (Some("False"), Some("2026-01-01T00:00:00Z"))
        );
        p.status = serde_json::from_value(patch["status"].clone()).expect("a status");
        assert_eq!(told(&p, "why", now), None);
        let later = "2026-01-01T01:00:00Z".parse().expect("a time");
        let again = told(&p, "other", later).expect("a patch");
        assert_eq!(again["status"]["conditions"][0]["lastTransitionTime"], "2026-01-01T00:00:00Z");
    }

    #[test]
    fn a_nominated_node_is_written_once() {
        let mut p: Pod = serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}})).expect("a pod");
        let written = patch(&p, None, Some("n".into())).expect("a patch");
        assert_eq!(written, json!({"metadata": {"uid": "u"}, "status": {"nominatedNodeName": "n"}}));
        p.status = serde_json::from_value(written["status"].clone()).expect("a status");
        assert_eq!(patch(&p, None, Some("n".into())), None);
    }
}
